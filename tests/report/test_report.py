from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from weft.artifacts.atomic import read_json
from weft.cli.report import report_command
from weft.errors import WeftError
from weft.evaluation.compare import compare, holm
from weft.report.build import target_report
from weft.report.figures import common_rows, curve_lines, curve_panels
from weft.report.format import (
    number,
    p_value,
    plain,
    seconds,
    seeds_verdict,
    signed,
    spent,
    spent_line,
)
from weft.report.html import html_page, render_html
from weft.report.markdown import render_markdown
from weft.report.model import RunReport, TargetReport
from weft.report.terminal import render_terminal

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from worlds import result


class _Tags(HTMLParser):
    """The tags, attributes and visible text of a page; scripts apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._open = "", [], ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(report: RunReport) -> str:
    return html_page(report)


def test_the_report_is_the_same_bytes_again_and_has_no_timings(
    report: RunReport, tmp_path: Path
) -> None:
    report.save(tmp_path / "a")
    report.model_copy(update={"timings": {"train": 99.0}}).save(tmp_path / "b")
    first = (tmp_path / "a" / "report.json").read_bytes()
    assert first == (tmp_path / "b" / "report.json").read_bytes()
    assert "timings" not in json.loads(first)
    assert RunReport.load(tmp_path / "a") == report
    assert RunReport.load(tmp_path / "a" / "report.json") == report


def test_a_wrong_report_is_named(report: RunReport, tmp_path: Path) -> None:
    with pytest.raises(WeftError, match=r"report\.json does not exist"):
        RunReport.load(tmp_path)
    (tmp_path / "report.json").write_text('{"title": "x", "system": "y", "domans": []}')
    with pytest.raises(WeftError, match=r"report\.json: domains: missing"):
        RunReport.load(tmp_path)
    report.save(tmp_path / "a")
    values = read_json(tmp_path / "a" / "report.json")
    values["domains"][0]["rows"][0]["metrics"]["ndcg@1"]["mean"] = 1.7
    (tmp_path / "report.json").write_text(json.dumps(values))
    with pytest.raises(WeftError, match=r"metrics\.ndcg@1\.mean: must be at most"):
        RunReport.load(tmp_path)
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(WeftError, match="no JSON object"):
        RunReport.load(tmp_path)


def test_the_headline_is_one_family_and_the_rest_another(report: RunReport) -> None:
    domain = report.domains[0]
    assert domain.headline == ("ndcg@1", "ndcg@5")
    rows = [row for row in domain.rows if row.name != domain.baseline]
    shown = [row.versus[metric] for row in rows for metric in domain.headline]
    assert [one.p_holm for one in shown] == pytest.approx(holm([one.p_t for one in shown]))
    rest = [m for m in domain.rows[0].metrics if m not in domain.headline]
    every = [row.versus[metric] for row in rows for metric in domain.rows[0].metrics]
    corrected = dict(zip(map(id, every), holm([one.p_t for one in every]), strict=True))
    for row in rows:
        for metric in rest:
            assert row.versus[metric].p_holm == pytest.approx(corrected[id(row.versus[metric])])
    assert not domain.row("target-only").versus
    assert domain.row("weaverec").seeds["ndcg@5"].seeds == 2


def test_contrasts_are_paired_tests_of_their_own_family(report: RunReport) -> None:
    domain = report.domains[0]
    assert [(one.row, one.against) for one in domain.contrasts] == [
        ("weaverec", domain.rows[2].name),
        (domain.rows[2].name, "target-only"),
    ]
    assert all(tuple(one.versus) == domain.headline for one in domain.contrasts)
    found = [one.versus[metric] for one in domain.contrasts for metric in domain.headline]
    assert [one.p_holm for one in found] == pytest.approx(holm([one.p_t for one in found]))


def test_a_contrast_is_the_comparison_of_its_two_rows() -> None:
    a, b, c = result([1.0, 2, 3, 9]), result([2.0, 2, 9, 9]), result([9.0, 9, 9, 1])
    domain = target_report(
        {"base": c, "new": a, "old": b},
        "base",
        headline=["ndcg@5"],
        contrasts=[("new", "old", "x")],
    )
    (alone,) = compare(a, b, ["ndcg@5"])
    one = domain.contrasts[0].versus["ndcg@5"]
    assert (one.difference, one.low, one.high) == (alone.difference, alone.low, alone.high)
    assert (one.p_t, one.p_holm) == (alone.p_t, alone.p_t)
    assert target_report({"base": c, "new": a}, "base").contrasts == []


def _repeated(base: list[float], *runs: list[float]) -> TargetReport:
    rows = {
        "base": [result(base) for _ in runs],
        "new": [result(ranks) for ranks in runs],
    }
    return target_report(rows, "base", headline=["hit@1"])


def test_a_gain_is_weighed_against_the_spread_of_the_seeds() -> None:
    steady = seeds_verdict(_repeated([9.0] * 4, [1.0] * 4, [1.0] * 4), "new")
    assert steady == (
        "Over 2 seeds, new against base gains more than the seeds' spread on Hit@1"
        " (+1.0000, spread 0.0000)."
    )
    lucky = seeds_verdict(_repeated([1.0, 9, 9, 9], [1.0] * 4, [9.0] * 4), "new")
    assert "stays within the seeds' spread on Hit@1 (+0.2500, spread 1.0000)" in lucky
    assert "a gain smaller than the seeds' spread is not a gain" in lucky
    worse = seeds_verdict(_repeated([1.0] * 4, [9.0] * 4, [9.0] * 4), "new")
    assert "base loses more than the seeds' spread on Hit@1 (−1.0000" in worse
    single = target_report({"base": result([1.0, 2]), "new": result([2.0, 1])}, "base")
    assert seeds_verdict(single, "new") == ""


def test_contrasts_and_seeds_stand_in_all_three_outputs(report: RunReport, page: str) -> None:
    console = Console(width=120, highlight=False)
    with console.capture() as captured:
        render_terminal(report, console)
    shown, text, written = captured.get(), _Tags(page).text, render_markdown(report)
    low = number(report.domains[0].rows[1].seeds["ndcg@1"].low)
    for output in (shown, text, written):
        assert "weaverec − " in output
        assert "what " in output and " is for" in output
        assert f"{low} … " in output
        assert "2 seeds" in output
        assert "Over 2 seeds, weaverec against target-only " in output


def test_curves_are_drawn_a_panel_a_domain_with_every_point(report: RunReport) -> None:
    panels = curve_panels(report)
    toys = report.domains[0].domain
    assert next(iter(panels)) == toys
    assert panels[toys] == [
        "train toys",
        *(n for n in report.learning_curves if n[0] == "<"),
        "train toys, again",
    ]
    traces = curve_lines(report, panels[toys], 1, toys).data
    assert [trace.visible for trace in traces] == [True, True, "legendonly"]
    assert list(traces[0].x) == [0, 5] and list(traces[0].y) == [2.5, 1.25]
    old = report.model_copy(update={"branches": {}})
    assert curve_panels(old) == {"": list(report.learning_curves)}
    assert len(curve_lines(old, curve_panels(old)[""], 2).data) == 3


def test_bars_leave_out_rows_that_only_some_targets_have(report: RunReport) -> None:
    first = report.domains[0]
    second = first.model_copy(update={"rows": first.rows[:2]})
    both = report.model_copy(update={"domains": [first, second]})
    assert common_rows(both) == ["target-only", "weaverec"]


def test_time_is_summed_by_kind_of_work(report: RunReport) -> None:
    said = spent(report.timings)
    assert (said.total, said.kinds) == (113.0, [("train", 112.5, 2), ("merge", 0.5, 1)])
    assert said.longest[0] == ("train lamps", 100.0)
    line = spent_line(report.timings)
    assert line == "1 min 53 s of work in 3 stages: train 1 min 52 s (2), merge 0.5 s (1)"
    assert len(render_markdown(report).split("## Time")[1].splitlines()) < 12


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_keeps_a_row_on_a_line(report: RunReport, width: int) -> None:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        render_terminal(report, console)
    lines = captured.get().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    row = next(line for line in lines if line.startswith("weaverec") and "±" in line)
    assert row.count("±") == 2 and re.search(r"[▲▼≈] *$", row)
    assert any("weaverec  ✓ at 1" in line for line in lines)
    assert any(line.strip().startswith("✓ 1  Chair") for line in lines)


def test_the_page_escapes_foreign_text(page: str) -> None:
    tags = _Tags(page)
    assert "<img src=x onerror=y>" in tags.text
    assert not [tag for tag, _ in tags.tags if tag in ("img", "iframe", "link", "a", "object")]
    assert not [name for _, attributes in tags.tags for name in attributes if name.startswith("on")]
    assert not any("alert('x')</script>" in script for script in tags.scripts)
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_page_is_whole_and_asks_for_nothing(page: str) -> None:
    tags = _Tags(page)
    assert not [attributes for _, attributes in tags.tags if {"src", "href"} & set(attributes)]
    policy = [a["content"] for t, a in tags.tags if t == "meta" and "http-equiv" in a]
    assert policy
    assert policy[0].startswith("default-src 'none'")
    assert page.count("plotly.js v") == 1
    assert "Plotly.newPlot" in page


def test_the_page_shows_gain_and_loss_in_words_and_sign(page: str) -> None:
    text = _Tags(page).text
    assert re.search(r"\+0\.\d{4} ▲ gain", text)
    assert re.search(r"−0\.\d{4} ▼ loss", text)
    assert "✓ the target" in text


def test_equal_reports_make_equal_pages(report: RunReport, page: str, tmp_path: Path) -> None:
    report.save(tmp_path)
    render_html(RunReport.load(tmp_path), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == page


def test_a_report_of_nothing_still_renders() -> None:
    empty = RunReport(title="Nothing", system="none", domains=[])
    assert "Nothing" in html_page(empty)
    assert "Plotly" not in html_page(empty)
    assert render_markdown(empty).startswith("# Nothing")


def test_markdown_escapes_foreign_text(report: RunReport) -> None:
    text = render_markdown(report)
    assert not re.search(r"(?<!\\)<", text.replace("&lt;", ""))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows[:5]}) == 1
    assert "**gain**" in text
    assert "**loss**" in text


def test_the_terminal_shows_the_same_without_control_characters(report: RunReport) -> None:
    console = Console(record=True, width=100, file=None, quiet=False)
    with console.capture() as captured:
        render_terminal(report, console)
    text = captured.get()
    assert "▲" in text
    assert "▼" in text
    assert "\x1b[31m" not in text
    assert "weaverec" in text


def test_the_command_writes_what_was_asked_for(report: RunReport, tmp_path: Path) -> None:
    app = Typer()
    app.command()(report_command)
    report.save(tmp_path)
    run, html, markdown = (str(tmp_path / name) for name in ("", "a/page.html", "page.md"))
    out = CliRunner().invoke(app, [run, "--html", html, "--markdown", markdown]).stdout
    assert out.count("wrote") == 2
    assert Path(html).read_text("utf-8") == html_page(report)
    assert Path(markdown).read_text("utf-8") == render_markdown(report)
    assert "weaverec" in CliRunner().invoke(app, [run]).stdout


def test_how_values_are_written() -> None:
    assert [signed(v) for v in (0.00441, -0.014, 0.00001, -0.00001, 0.0)] == [
        "+0.0044",
        "−0.0140",
        "0.0000",
        "0.0000",
        "0.0000",
    ]
    assert [p_value(p) for p in (0.00001, 0.00021, 0.05, 1.0)] == ["< .0001", ".0002", ".0500", "1"]
    assert [seconds(s) for s in (3.14, 42, 185, 7860)] == [
        "3.1 s",
        "42 s",
        "3 min 05 s",
        "2 h 11 min",
    ]
    assert number(0.43041) == "0.4304"
    assert plain("a\n b\x1b[31m\u202e") == r"a b\x1b[31m\u202e"

"""The verdict of a report: which row to serve, and the warnings beside rows."""

from __future__ import annotations

import html
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from worlds import result

from weft.artifacts.atomic import read_json
from weft.evaluation.result import Result
from weft.report.build import target_report
from weft.report.format import facts_line, share
from weft.report.html import html_page
from weft.report.markdown import render_markdown
from weft.report.model import LeakageFacts, RowWarning, RunReport, TargetReport
from weft.report.serving import RowInfo
from weft.report.terminal import render_terminal
from weft.systems.recommendation_file import write_recommendations

COSTS = {"popularity": 0, "zero-shot": 1, "target-only": 2, "longer, twice": 3, "weaverec": 4}


def row(seed: int, best: int, users: int = 300) -> Result:
    ranks = np.random.default_rng(seed).integers(best, 31, users)
    return result(np.maximum(1, ranks).astype(float).tolist())


def measured(
    best: dict[str, int],
    users: int = 300,
    *,
    costs: dict[str, int] = COSTS,
    folders: dict[str, str] | None = None,
    warnings: dict[str, list[RowWarning]] | None = None,
) -> TargetReport:
    rows = {name: row(n, one, users) for n, (name, one) in enumerate(best.items())}
    folders = {"weaverec": "weaverec"} if folders is None else folders
    info = {
        name: RowInfo(
            cost=costs.get(name),
            folder=folders.get(name),
            warnings=tuple((warnings or {}).get(name, ())),
        )
        for name in rows
    }
    return target_report(rows, "target-only", headline=["ndcg@5", "ndcg@1"], info=info)


def report(*domains: TargetReport, **changes: Any) -> RunReport:
    return RunReport(title="t", system="s", domains=list(domains), **changes)


def shown(of: RunReport) -> dict[str, str]:
    """The report on every sink, each as one line of text."""
    out = StringIO()
    render_terminal(of, Console(file=out, width=120))
    pages = {"terminal": out.getvalue(), "markdown": render_markdown(of), "html": html_page(of)}
    return {name: " ".join(page.replace("\\", "").split()) for name, page in pages.items()}


def test_a_woven_row_that_is_clearly_best_is_served_and_the_report_begins_with_it() -> None:
    domain = measured({"popularity": 15, "zero-shot": 15, "target-only": 14, "weaverec": -60})
    one = domain.serving
    assert one is not None
    assert (one.row, one.folder, one.decided, one.metric) == (
        "weaverec",
        "weaverec",
        True,
        "ndcg@5",
    )
    assert one.reason == (
        "weaverec is clearly better on NDCG@5 than popularity, zero-shot and target-only. It was "
        "chosen on the same test users that it is measured on, so its own number is a little too good."
    )
    assert [c.row for c in one.compared] == ["popularity", "zero-shot", "target-only"]
    assert all(c.verdict == "gain" for c in one.compared)
    pages = shown(report(domain))
    for page in pages.values():
        assert "toys: serve weaverec (recommenders/toys/weaverec)." in page
        assert one.reason in page
    for name in ("markdown", "html"):
        assert pages[name].index("What to serve") < pages[name].index("NDCG@5")


def test_where_no_row_is_clearly_better_the_cheapest_is_served() -> None:
    one = measured({"weaverec": 3, "target-only": 3, "popularity": 3}).serving
    assert one is not None
    assert (one.row, one.folder, one.decided) == ("popularity", None, False)
    assert one.reason.startswith(
        "Undecided: on NDCG@5, over 300 users, no row is clearly better than popularity, which "
        "costs least. So serve popularity."
    )
    assert one.reason.endswith("The run has no recommender folder of it.")


def test_a_simple_row_ahead_of_the_woven_one_is_the_one_to_serve() -> None:
    one = measured({"popularity": -60, "target-only": 14, "weaverec": 10}).serving
    assert one is not None
    assert (one.row, one.decided) == ("popularity", True)
    assert "popularity costs least, and every other row is beaten on NDCG@5." in one.reason


def test_a_dearer_row_that_is_not_clearly_better_is_not_taken() -> None:
    one = measured(
        {"popularity": 16, "target-only": 15, "longer, twice": -60, "weaverec": -61}
    ).serving
    assert one is not None and one.row == "longer, twice"
    assert one.reason.startswith(
        "'longer, twice' is clearly better on NDCG@5 than popularity and target-only; no row that costs more is "
        "clearly better than 'longer, twice'."
    )


def test_a_spoilt_row_is_marked_beside_its_name_and_not_recommended() -> None:
    warnings = {
        "weaverec": [RowWarning(text="The branch 'toys' collapsed."), RowWarning(text="Few.")],
        "target-only": [RowWarning(text="Few.", spoils=False)],
    }
    domain = measured({"popularity": 15, "target-only": 14, "weaverec": -60}, warnings=warnings)
    one = domain.serving
    assert one is not None
    assert one.row == "popularity"
    assert one.left_out == ["weaverec"]
    assert "Left out because of their warnings: weaverec." in one.reason
    pages = shown(report(domain))
    assert "weaverec †1 †2" in pages["markdown"] and "target-only †1" in pages["markdown"]
    assert "weaverec<sup>†1 †2</sup>" in pages["html"]
    for page in pages.values():  # the footnote stands before the notes and after the table
        assert page.index("NDCG@5") < page.index("†2 The branch 'toys' collapsed.".replace(
            "'", "&#x27;" if page is pages["html"] else "'"))  # fmt: skip


def test_where_every_row_is_spoilt_none_is_served() -> None:
    spoilt = {name: [RowWarning(text="Broken.")] for name in COSTS}
    domain = measured({"target-only": 3, "weaverec": 3}, warnings=spoilt)
    assert domain.serving is not None
    assert (domain.serving.row, domain.serving.folder) == (None, None)
    assert "serve none of these" in shown(report(domain))["markdown"]


def test_rows_without_a_cost_are_no_candidates() -> None:
    domain = measured({"target-only": 14, "source: games": -60}, folders={})
    assert domain.serving is not None
    assert domain.serving.row == "target-only"
    assert domain.serving.reason.startswith("target-only is the only row that can be served.")
    assert measured({"target-only": 3}, costs={}).serving is None


def test_few_users_are_said_at_the_table() -> None:
    sentence = "Only 40 test users: small differences don't show."
    assert measured({"target-only": 3, "weaverec": 3}, users=40).cautions == [sentence]
    assert measured({"target-only": 3, "weaverec": 3}, users=200).cautions == []


def test_the_choice_is_a_file_for_the_run_and_one_for_each_target(tmp_path: Path) -> None:
    served = measured({"popularity": 15, "target-only": 15, "weaverec": -60})
    floor = measured({"popularity": 3, "target-only": 3}).serving
    assert served.serving is not None and floor is not None
    lamps = floor.model_copy(update={"target": "lamps"})
    write_recommendations([served.serving, lamps], tmp_path)
    toys = read_json(tmp_path / "recommenders" / "toys" / "recommendation.json")
    assert (toys["target"], toys["row"], toys["folder"]) == ("toys", "weaverec", "weaverec")
    assert toys["decided"] is True
    assert toys["compared"][0].keys() == {"row", "difference", "low", "high", "p_holm"}
    both = read_json(tmp_path / "recommendation.json")["targets"]
    assert [one["folder"] for one in both] == ["recommenders/toys/weaverec", None]
    write_recommendations([served.serving], tmp_path)
    assert not (tmp_path / "recommenders" / "lamps" / "recommendation.json").exists()


LEAKS = (
    "Leakage: 99.2 % of the test targets lie before the last training interaction of another user "
    "(over 99.9 % over the 4 domains trained on), so models may have learned from what came later; "
    "'split: global_time' avoids that. 5.0 % of the targets are items that training "
    "never saw."
)
CLEAN = (
    "No test target lies before the last training interaction of another user. 100.0 % of the "
    "targets are of users without a training target."
)
UNKNOWN = "Leakage through time can't be measured: the log has an order but no times."


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((9, 0.992, 0.9999, 4, 0.05, 0.0), LEAKS),
        ((9, 0.0, 0.0, 1, 0.0, 1.0), CLEAN),
        ((9, None, None, 0, 0.0, 0.0), UNKNOWN),
    ],
)
def test_what_training_could_know_is_said(values: tuple[Any, ...], words: str) -> None:
    facts = LeakageFacts(**dict(zip(LeakageFacts.model_fields, values, strict=True)))
    domain = measured({"target-only": 3, "weaverec": 3}).model_copy(update={"facts": facts})
    assert facts_line(domain) == words
    for page in shown(report(domain)).values():
        assert words in html.unescape(page)


def test_shares_that_are_not_all_or_nothing_are_not_rounded_to_it() -> None:
    assert [share(x) for x in (0.0, 1e-5, 0.0015, 0.99951, 1.0)] == [
        "0.0 %", "under 0.1 %", "0.1 %", "over 99.9 %", "100.0 %",
    ]  # fmt: skip


def test_what_made_a_report_is_said() -> None:
    of = report(
        measured({"target-only": 3, "weaverec": 3}),
        versions={"weft": "1.0 and 1.1", "torch": "2.13.0"},
        data={"toys": "d" * 32},
    )
    for page in shown(of).values():
        assert "weft 1.0 and 1.1, torch 2.13.0" in page
        assert f"The data: toys {'d' * 32}." in page
        assert "prints the hash of a domain" in page

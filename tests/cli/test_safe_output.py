"""Commands that print titles, ids, names of files, domains or tensors: nothing of them acts."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors.torch import save_file
from tiny import make_shop
from typer.testing import CliRunner

import weft.cli.main
from weft.adapters import Adapter, Factors, save_adapter
from weft.cli import compare, data_tables, inspect, models, out
from weft.cli.main import app, main
from weft.cli.stage_progress import StageProgress
from weft.data.domain import Catalogue
from weft.data.folder import save_domain
from weft.data.inspect import inspect_domain
from weft.data.splits import leave_one_out
from weft.errors import WeftError
from weft.merging.comparing.comparison import contrast_checkpoints
from weft.merging.engine.source import Memory
from weft.recommenders.asking import Answer, Suggestion
from weft.recommenders.chosen import Chosen
from weft.recommenders.matching import Match
from weft.recommenders.saved import save_recommender
from weft.recommenders.sequential.popularity import Popularity
from weft.report.console import SafeConsole
from weft.report.model import ReportTable, RunReport, UserCase
from weft.report.terminal import render_terminal
from weft.stages.executor import StageEvent
from weft.stages.stage import Stage, Workspace

HOSTILE = "[bold]x[/] [link=http://a]:smile: \x1b[2J\x1b]0;own\x07\x9b2J \u202egpj\u202c|`<b>\r\x7f"
NAME = HOSTILE.replace("/", "_")  # of a file
MARKUP = "[bold]x[_] [link=http:__a]:smile:|`<b>"  # of a domain: nothing invisible may be there
ACTS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HARD = [
    "\x1b[2J",
    "\x1b]0;x\x07",
    "\x9b",
    "\n",
    "\r",
    "\t",
    "\u202e",
    "\u2028",
    "[b]",
    "[/]",
    ":x:",
]
texts = st.lists(st.sampled_from([*HARD, "red ", "mug", "é"]), min_size=1, max_size=5).map("".join)
few = settings(max_examples=15, deadline=None)


def printable(text: str) -> str:
    return "".join(one for one in text if one.isprintable())


def check(printed: str, *, colours: bool = False) -> str:
    """The output, in which nothing acts."""
    bare = COLOURS.sub("", printed) if colours else printed
    found = ACTS.search(bare)
    assert found is None, (found, bare)
    return printed


def command(*arguments: str | Path) -> str:
    """What a command prints, if all goes well."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, (done.output, done.exception)
    check(done.stderr)
    return check(done.stdout)


class Printed:
    """Takes what functions print, on a terminal with colours or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
        self.file = io.StringIO()
        options: dict[str, Any] = {"force_terminal": terminal, "width": 300, "file": self.file}
        monkeypatch.setattr(sys, "stdout", self.file)
        monkeypatch.setattr(sys, "stderr", self.file)
        for module in (compare, inspect, data_tables):
            monkeypatch.setattr(module, "safe_console", lambda **_: SafeConsole(**options))

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> str:
        self.file.seek(0)
        self.file.truncate()
        function(*arguments)
        return check(self.file.getvalue(), colours=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A domain and a recommender in whose every text something is hidden."""
    place = tmp_path_factory.mktemp("place")
    made = make_shop()
    ids = [f"{HOSTILE}{row}" for row in range(len(made.items))]
    titles = [f"{HOSTILE} {title}" for title in made.items.titles]
    frame = pl.DataFrame({"item_id": ids, "title": titles, f"col{HOSTILE}": titles})
    domain = replace(made, name=f"shop{MARKUP}", items=Catalogue(frame))
    save_domain(domain, place / "shop")
    floor = Popularity.of(leave_one_out(domain).train)
    save_recommender(floor, domain.items, place / NAME)
    return place


def test_recommend_prints_titles_and_ids(shop: Path) -> None:
    asked = ["recommend", "--model", shop / NAME, "--history", f"{HOSTILE}3", "-k", "2"]
    shown = command(*asked)
    assert r"[bold]x[/] [link=http://a]:smile: \x1b[2J\x1b]0;own\x07\x9b2J \u202egpj" in shown
    told = json.loads(command(*asked, "--json"))
    assert told["items"][0]["title"].startswith(HOSTILE)  # the very same in JSON
    assert told["history"][0]["item_id"] == f"{HOSTILE}3"


def test_data_commands_print_names_and_columns(shop: Path, tmp_path: Path) -> None:
    shown = command("data", "inspect", shop / "shop")
    assert f"shop{MARKUP}" in shown and r"\x1b[2J" in shown
    assert json.loads(command("data", "inspect", shop / "shop", "--json"))["name"].endswith(MARKUP)
    log = tmp_path / f"log{NAME}.csv"
    log.write_text("user_id,item_id,timestamp,title\nu,i,1500000000,t\nu,j,1500000001,s\n")
    shown = command("data", "ingest", log, tmp_path / f"out{NAME}", "--name", MARKUP)
    assert "[bold]x[_]" in shown


def save_part(folder: Path, name: str, module: str) -> Path:
    """An adapter of a domain, over one module that is so named."""
    factors = {module: Factors(torch.ones(2, 4), torch.eye(4, 2), 1.0)}
    manifest = {"backbone": {"name": f"b{MARKUP}", "fingerprint": "f" * 64}, "domains": [name]}
    save_adapter(Adapter(factors, manifest), folder)
    return folder


def test_inspect_merge_and_its_card(tmp_path: Path) -> None:
    place = tmp_path / NAME
    place.mkdir()
    parts = [save_part(place / f"{MARKUP}{n}", HOSTILE, "layer.0.[bold]x[/]") for n in (1, 2)]
    assert "[bold]x[/]" in command("inspect", parts[0])
    assert "[bold]x[/]" in command("inspect", *parts)
    assert HOSTILE in json.loads(command("inspect", parts[0], "--json"))["domains"]
    command("merge", *parts, "--out", tmp_path / f"m{NAME}", "--dry-run")
    assert r"\x1b[2J" in command("merge", *parts, "--out", tmp_path / f"m{NAME}")
    models = []
    for n in (1, 2):
        folder = tmp_path / f"a\n```\n# y {NAME}" / f"{MARKUP}{n}"
        folder.mkdir(parents=True)
        save_file(
            {"layer.0.[bold]x[/].weight": torch.full((2, 2), float(n))},
            folder / "model.safetensors",
        )
        models.append(folder)
    command("merge", *models, "--out", tmp_path / f"n{NAME}")
    card = check((tmp_path / f"n{NAME}" / "README.md").read_text("utf-8"))
    assert "\n# y" not in card
    read = MarkdownIt("commonmark").enable("table").parse(card.partition("\n---\n")[2])
    kinds = {one.type for token in read for one in [token, *(token.children or [])]}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open"}
    assert sum(token.type == "heading_open" for token in read) == 4
    shutil.rmtree(tmp_path / f"n{NAME}")


@few
@given(title=texts, row=texts, user=texts)
def test_reports_in_the_terminal(title: str, row: str, user: str) -> None:
    report = RunReport(
        title=title,
        system=row,
        summary=title,
        featured=row,
        domains=[],
        tables=[ReportTable(title=title, header=[row, user], rows=[[title, user]], about=user)],
        users=[UserCase(domain=row, user=user, history=[title] * 6, target=title,
                        suggestions={row: [title, user], user: [row]})],
        notes=[title, user],
        timings={f"train {row}": 1.0},
    )  # fmt: skip
    for width in (80, 300):
        console = SafeConsole(file=io.StringIO(), force_terminal=True, width=width)
        render_terminal(report, console)
        check(console.file.getvalue(), colours=True)  # type: ignore[attr-defined]


@few
@given(title=texts, item=texts, entry=texts)
def test_recommendations_of_any_text(title: str, item: str, entry: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        printed = Printed(patch, terminal=False)
        match = Match(entry, "title", item, title, 2)
        answer = Answer([Suggestion(item, title, 0.5)], [match], "history", [f"note {title}"])
        lines = printed(models._print, answer).splitlines()
        assert len(lines) == 3 and sum(one.startswith("note: ") for one in lines) == 2
        chosen = Chosen(Path("x"), title, entry)
        told = json.loads(printed(models._print_json, answer, chosen))
        assert told["items"] == [{"item_id": item, "title": title, "score": 0.5}]
        assert (told["row"], told["reason"]) == (title, entry)


@few
@given(name=texts, column=texts)
def test_tables_of_data_and_of_weights(name: str, column: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        printed = Printed(patch, terminal=True)
        frame = make_shop().items.frame.with_columns(pl.col("title").alias(f"c{column}"))
        domain = replace(make_shop(), name=f"d{printable(name)}d", items=Catalogue(frame))
        printed(data_tables.print_domain, inspect_domain(domain))
        parts = [
            Memory(f"{name}{n}", {f"layers.0.{column}": torch.ones(2, 2) * n, "x": torch.ones(2)})
            for n in (1, 2, 3)
        ]
        printed(inspect._print, contrast_checkpoints(parts[1:], parts[0]))
        described = {name: column, "domains": [name, column], "merge": {name: {column: [name]}}}
        printed(out.echo, inspect._described(described))


@dataclass(frozen=True, kw_only=True, eq=False)
class Nothing(Stage):
    def run(self, workspace: Workspace) -> None:
        pass


@few
@given(label=texts)
def test_stages_and_errors_are_one_line_each(label: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        printed = Printed(patch, terminal=False)
        stage = Nothing(label=f"train {label}")

        def stages() -> None:
            with StageProgress() as progress:
                progress.tracker.total = 1
                progress.watch(StageEvent("start", stage))
                progress.watch(StageEvent("progress", stage, 1, 2, "examples"))
                progress.watch(StageEvent("done", stage))

        printed(stages)

        def fail(error: Exception) -> Callable[[], None]:
            def call() -> None:
                raise error

            return call

        for error in (WeftError(f"bad {label}."), OSError(2, "gone", f"file {label}")):
            patch.setattr(weft.cli.main, "app", fail(error))

            def run() -> None:
                with pytest.raises(SystemExit):
                    main()

            assert len(printed(run).strip().splitlines()) == 1


def test_markup_is_shown_and_not_read() -> None:
    for text in ("[bold]a[/bold]", "[link=http://x]y[/link]", ":smile:", "[/]"):
        console = SafeConsole(file=io.StringIO(), force_terminal=True, width=80)
        console.print(text)
        assert console.file.getvalue() == text + "\n"  # type: ignore[attr-defined]
        assert inspect._described({"domains": [text]}).split(None, 1)[1] == text


def test_an_error_of_use_shows_what_was_typed() -> None:
    done = CliRunner().invoke(app, ["inspect", "--no\x1b[2J\u202e"])
    assert done.exit_code == 2 and r"\x1b[2J" in check(done.stderr)


def test_commands_print_in_one_place_only() -> None:
    """What is printed elsewhere goes round `weft.cli.out`, and is not made safe."""
    home = Path(weft.cli.main.__file__).parent
    round_it = re.compile(r"typer\.echo\(|\bConsole\(|\w+\.write\(")
    allowed = {"out.py": 3, "stage_progress.py": 1}
    for file in sorted(home.glob("*.py")):
        found = round_it.findall(file.read_text("utf-8"))
        assert len(found) <= allowed.get(file.name, 0), (file.name, found)

"""The help of `weft data ingest`: options in groups, examples that can be pasted."""

from __future__ import annotations

from typer.testing import CliRunner

from weft.cli.main import app


def test_options_stand_in_groups_and_examples_are_whole_lines() -> None:
    text = CliRunner().invoke(app, ["data", "ingest", "--help"]).output
    places = [
        text.index(words)
        for words in (
            "\nWhat to read:", "--separator", "\nWhat to keep:", "--distinct", "\nWhat to write:",
            "--replace", "\nOptions:", "--json",
        )
    ]  # fmt: skip
    assert places[0] < places[2] < places[4] < places[6]
    for heading in (0, 2, 4, 6):
        end = places[heading + 2] if heading < 6 else len(text)
        option = ("--separator <", "--distinct ", "--replace ", "--json ")[heading // 2]
        assert places[heading] < text.index(option, places[heading]) < end
    assert "\n    weft data ingest ml-1m/ movies --minimum-rating 4 --k-core 5\n" in text

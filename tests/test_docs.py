"""The documents: links lead somewhere, and every command and program in them runs.

What needs hours, a network or other programs is not run: `NOT_RUN` names it, and its arguments are
parsed. Everything else runs in a folder of tiny stand-ins (doc_world.py).
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from doc_blocks import (
    DocBlock,
    blocks,
    find_command,
    mentions,
    parse_weft,
    run_python,
    run_weft,
)
from doc_world import PREPARE, InPlace, build, small_recipe

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?^ {0,3}\1[`~]*\s*?$", re.M | re.S)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\s*\)"  # [text](target "title"), ![…](…)
    r"|^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)"  # [name]: target
    r"|\b(?:href|src)=[\"']([^\"']+)[\"']",  # <a href="…">, <img src="…">
    re.M,
)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$", re.M)


def links(text: str) -> list[str]:
    """Link targets outside code."""
    bare = CODE.sub("", FENCE.sub("", text))
    return [next(filter(None, found)) for found in LINK.findall(bare)]


def anchors(text: str) -> set[str]:
    """The fragments of a document's headings, as GitHub makes them, and its explicit ids."""
    out: set[str] = set()
    seen: dict[str, int] = {}
    for heading in HEADING.findall(FENCE.sub("", text)):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        out.add(f"{slug}-{count}" if count else slug)
    return out | set(re.findall(r"\b(?:id|name)=[\"']([^\"']+)[\"']", text))


def broken_links(document: Path, root: Path) -> list[str]:
    """The relative link targets of a document that lead nowhere."""
    out = []
    for target in links(document.read_text("utf-8")):
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.I):
            continue
        path, _, fragment = unquote(target).partition("#")
        start = root if path.startswith("/") else document.parent
        there = (start / path.lstrip("/")) if path else document
        if (
            not there.exists()
            or not there.resolve().is_relative_to(root.resolve())
            or (fragment and there.suffix == ".md" and fragment not in anchors(there.read_text()))
        ):
            out.append(target)
    return out


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document, ROOT) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    document = tmp_path / "docs" / "page.md"
    document.parent.mkdir()
    (tmp_path / "README.md").write_text("# Weft\n## `make` it: now!\n## Twice\n## Twice\n")
    document.write_text(
        "# Page\n[a](../README.md) [b](../README.md#make-it-now) [c](#page) [d](/README.md)\n"
        "[e](https://example.org/x#y) [f](../README.md#twice-1 'title') ![g](page.md)\n"
        "`[in code](nowhere)`\n```\n[in a fence](nowhere)\n```\n"
        "[h](gone.md) [i](#gone) [j](../README.md#twice-2) ![k](gone.svg)\n"
        '<img src="gone.png">\n\n[l]: gone.txt\n[m](../../outside.md)\n'
    )
    assert broken_links(document, tmp_path) == [
        "gone.md", "#gone", "../README.md#twice-2", "gone.svg", "gone.png", "gone.txt",
        "../../outside.md",
    ]  # fmt: skip


# --- what the documents have a reader type


# Beginnings of commands whose arguments are parsed, and why they are not run.
NOT_RUN = {
    "weft demo": "minutes, and the real backbone",
    "weft run weaverec-amazon": "three hours, and Amazon's data",
    "weft run mergerec-small": "an hour and a half, and Amazon's data",
    "weft run x-cross-amazon": "hours, and Amazon's data",
    "weft backbone pretrain weft-10m": "an hour, and nine catalogues",
}
# Commands of other programs, which are not run.
OTHERS = {
    "python3 -m venv .venv",
    "source .venv/bin/activate",
    "vllm serve Qwen/Qwen2-7B-Instruct --enable-lora --max-lora-rank 16 --lora-modules beauty=beauty-woven",
}
# What stands in commands and programs -> what stands in for it.
STAND_INS = {
    "--learn collaborative": "--learn learning.yaml",  # two steps
}


@dataclass(frozen=True)
class World:
    """The folder of stand-ins; `names` are replaced in commands and programs."""

    folder: Path
    names: dict[str, str]

    def run(self, block: DocBlock, defined: dict[str, Any]) -> None:
        """A program, or every command of a console block in order."""
        if block.language == "python":
            run_python(block, defined, self.names)
            return
        for line in block.commands:
            command = line
            for old, new in {**self.names, **STAND_INS}.items():
                command = command.replace(old, new)
            if any(command.startswith(start) for start in NOT_RUN):
                parse_weft(command)
            elif command.startswith("weft "):
                run_weft(command)
            else:
                check_other(line)


def check_other(command: str) -> None:
    """Commands of other programs name what there is."""
    program, *words = command.partition("  #")[0].split()
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M), command
    elif program == "pip":
        extras = re.search(r"\.\[([\w,]+)\]", command)
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert (ROOT / words[words.index("-c") + 1]).is_file(), command
        for extra in extras[1].split(",") if extras else []:
            assert extra in settings["optional-dependencies"], command
    else:
        assert command in OTHERS, command


README = ROOT / "README.md"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The folder of stand-ins, in which the README's section on one's own logs was done: two logs,
    their domains, and a run."""
    folder = tmp_path_factory.mktemp("documents") / "readme"
    with pytest.MonkeyPatch.context() as patch:
        folder.mkdir()
        patch.chdir(folder)
        patch.setattr("weft.systems.runner.ProcessExecutor", InPlace)
        world = World(folder, build(folder))
        (recipe,) = blocks(README, "yaml")
        Path("shops.yaml").write_text(small_recipe(recipe.text, Path(world.names["minilm"])))
        for block in blocks(README, "console", "python"):
            if is_on_own_logs(block):
                world.run(block, {})
        shutil.rmtree("runs/shops/stages")
        shutil.copytree("runs/shops/recommenders/films", "runs/demo/recommenders/kitchen")
        for number, row in enumerate(("target-only", "weaverec"), 1):
            shutil.copytree(f"runs/shops/recommenders/films/{row}", f"ADAPTER-{number}")
        yield world


def is_on_own_logs(block: DocBlock) -> bool:
    return "shops" in block.text or "books.csv" in block.text


@pytest.fixture
def copied(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world in a folder that a test may change."""
    folder = tmp_path / "copied"
    shutil.copytree(world.folder, folder)
    monkeypatch.chdir(folder)
    before, after = str(world.folder), str(folder)
    return World(folder, {name: one.replace(before, after) for name, one in world.names.items()})


@pytest.mark.parametrize(
    "block", blocks(README, "console", "python"), ids=lambda block: block.place
)
def test_the_readme_runs(block: DocBlock, copied: World) -> None:
    if not is_on_own_logs(block):  # those have run
        copied.run(block, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs(page: Path, copied: World) -> None:
    """Its programs and commands in order, on what the README's own logs became."""
    more = PREPARE[page.name](copied.folder) if page.name in PREPARE else {}
    world = World(copied.folder, {**copied.names, **more})
    defined: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page, "console", "python"):
        world.run(block, defined)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_commands_in_running_text_are_there(page: Path) -> None:
    for mention in mentions(page):
        command, words = find_command(mention.split()[1:])
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        for word in words:
            if (
                word.startswith("--") and command.name != "merge"
            ):  # methods' options are no fixed set
                assert word in {*options, "--help"}, mention


@pytest.mark.parametrize("page", [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"])
def test_files_that_are_named_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    named = set(re.findall(r"`([a-z_]+/[\w./]*|\w+\.py)`", text))
    gone = {
        name
        for name in named
        if not any((root / name).exists() for root in (ROOT, ROOT / "src" / "weft"))
    }
    assert gone <= SAME_IN_EACH_SYSTEM, gone


SAME_IN_EACH_SYSTEM = {
    "recipe.py",
    "algorithm.py",
    "stages.py",
    "tables.py",
    "weaverec/",
    "x_cross/",
    "mergerec/",
}


def test_stages_that_are_named_are_there() -> None:
    text = (ROOT / "docs" / "weaverec.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[A-Z].*?) \|", text, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    source = "\n".join(one.read_text("utf-8") for one in (ROOT / "src").rglob("stages/*.py"))
    source += (ROOT / "src/weft/systems/weaverec/stages.py").read_text("utf-8")
    assert named and all(f"\nclass {name}(" in source for name in named), named


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_programs_import_weft_alone(page: Path) -> None:
    """Readers need not know where in the package a name lives."""
    for block in blocks(page, "python"):
        assert not re.search(r"\b(from|import) weft\.", block.text), block.place

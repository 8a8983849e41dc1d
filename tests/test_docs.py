"""Every relative link in the documents leads to a file, and to a heading in it, that exists."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

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

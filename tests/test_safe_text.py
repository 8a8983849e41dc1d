"""Foreign text in every sink: nothing acts, nothing is lost."""

from __future__ import annotations

import json
import re
import unicodedata
from html.parser import HTMLParser
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from weft.safe_text import (
    fenced,
    html,
    json_text,
    line,
    markdown,
    shown,
    spaced,
    visible,
    yaml_text,
)

NASTY = [
    "\x1b[2J", "\x1b]0;title\x07", "\x07", "\x08", "\r", "\n", "\t", "\x9b2J", "\x7f", "\u2028",
    "\u2029", "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\ud800", "\udcff", "\U000e0041",
    "\\", "\\x1b", "\\u", "[bold]", "[link=http://x]y[/link]", ":smile:", "|", "`", "```", "\n```\n",
    "![x](http://x/y.png)", "<img src=x onerror=y>", "</script>", "<!--", "http://a.b/c", "www.a.b",
    "a@b.c", "javascript:x", "'", '"', "&amp;", "**", "__", "# ", "- ", "1. ", "1) ", "+ ", "===",
    "---", "    ", "é", "𝒳", "א", "👩‍👩‍👧", "نمی‌خواهم", "$x$", "~~a~~", "\x00",
]  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(NASTY), st.text(st.characters(), max_size=4))).map(
    "".join
)


def acts(text: str) -> bool:
    """Whether a terminal, an editor or a reader could be misled, by Unicode's own categories."""
    joined = re.sub("(?<=[^\x00-\xa0])[\u200c\u200d](?=[^\x00-\xa0])", "", text)
    return any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in joined)


@settings(max_examples=60, deadline=None)
@given(texts)
def test_nothing_acts_in_a_line(text: str) -> None:
    for out in (visible(text), line(text), spaced(text)):
        assert not acts(out)
        out.encode("utf-8")
    assert all(not acts(one) for one in shown(text).split("\n"))
    assert shown(shown(text)) == shown(text) and spaced(spaced(text)) == spaced(text)


@settings(max_examples=60, deadline=None)
@given(texts)
def test_no_value_is_lost(text: str) -> None:
    """What `visible` shows can be read back, so no two values look alike for it."""

    def back(found: re.Match[str]) -> str:
        return "\\" if found[0] == "\\\\" else chr(int(found[0][2:], 16))

    code = r"\\\\|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}"
    assert re.sub(code, back, visible(text)) == text


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        'Lamp, 12" (näıve) 👩‍👩‍👧 ½ ™',
        "שלום",
        "日本語",
        "نمی‌خواهم",
        r"C:\new\dir",
        "a  b",
    ):
        assert visible(text) == shown(text) == text
    assert visible("\\x1b") == r"\\x1b" and visible("\x1b") == r"\x1b"
    assert line("a\n  b\tc") == "a b c" and spaced(" a   b ") == "a b"


@settings(max_examples=60, deadline=None)
@given(st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_json_and_yaml_keep_the_values(value: Any) -> None:
    text = json_text(value)
    assert json.loads(text) == json.loads(json.dumps(value))
    assert all(not acts(one) for one in text.split("\n"))
    text.encode("utf-8")


@settings(max_examples=60, deadline=None)
@given(texts.filter(lambda text: not re.search("[\ud800-\udfff]", text)))
def test_yaml_keeps_the_value(text: str) -> None:
    out = yaml_text({"title": text})
    assert yaml.safe_load(out) == {"title": text}
    assert all(not acts(one) for one in out.split("\n"))


def rendered(text: str) -> list[Any]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


@settings(max_examples=60, deadline=None)
@given(texts)
def test_markdown_is_read_as_plain_text(text: str) -> None:
    out = markdown(text)
    shape = ["paragraph_open", "inline", "paragraph_close"] if spaced(text) else []
    tokens = rendered(out)
    assert [token.type for token in tokens] == shape
    inline = tokens[1].children if tokens else []
    assert {child.type for child in inline} <= {"text", "text_special", "entity"}
    assert "".join(child.content for child in inline).rstrip() == spaced(text).rstrip()
    # What GitHub makes a link of by itself is broken up.
    assert not re.search(r"(?<!\\)://", out) and not re.search(r"(?i)\bwww\.", out)
    assert not re.search(r"(?<!\\)@", out)
    row = rendered(f"| a | b |\n|---|---|\n| {out} | x |")
    assert sum(token.type == "td_open" for token in row) == 2


@settings(max_examples=60, deadline=None)
@given(texts)
def test_no_text_ends_its_block_of_code(text: str) -> None:
    tokens = rendered(fenced(text, "yaml") + "\n\nafter")
    assert [t.type for t in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].content.rstrip() == shown(text).rstrip()


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@settings(max_examples=60, deadline=None)
@given(texts)
def test_html_is_text_and_attributes_hold(text: str) -> None:
    out = html(text)
    page = _Page(f"<p>{out}</p><p title=\"{out}\"></p><p title='{out}'></p>")
    assert page.text == spaced(text)
    assert page.tags == [("p", [])] + [("p", [("title", spaced(text))])] * 2

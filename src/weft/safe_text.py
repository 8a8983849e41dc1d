"""Foreign text (titles, ids, names of files, domains and tensors) made safe for where it goes.

One place for every sink: `shown`, `visible`, `line` and `spaced` for terminals and logs,
`json_text`, `yaml_text`, `markdown`, `fenced`, `html`. What could act there (control
characters, escape sequences, directions that reorder a line, characters that nobody sees, lone
surrogates) is shown as `\\x1b`, `\\u202e` or `\\U000e0041`: nothing acts and nothing is lost.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

# Unicode's C0 and C1 controls, format characters (Cf), separators of lines and paragraphs, lone
# surrogates, noncharacters, and letters that show nothing (Default_Ignorable_Code_Point). Written
# out, so that every Python version shows the same ones. Variation selectors stay: emoji need them.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160"
    "\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff"
    "\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
_UNSAFE = re.compile(f"[{_UNSEEN}]")
# Emoji and several scripts are written with joiners between two characters; elsewhere they hide.
_JOINED = re.compile(f"(?<=[^\x00-\xa0{_UNSEEN}])[\u200c\u200d](?=[^\x00-\xa0{_UNSEEN}])")
_BACKSLASH = re.compile(rf"\\(?=[\\xuU{_UNSEEN}])")
_BREAKS = re.compile("[ \t\n\r\v\f]*[\t\n\r\v\f][ \t\n\r\v\f]*")
_SPACES = re.compile("[ \t\n\r\v\f]+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!&$@]|:(?=//))")
_LIST = re.compile(r"^(\d*)([-+=.)])")  # what would begin a list or a heading
_WWW = re.compile(r"(?i)\b(www)\.")


def _code(character: str) -> str:
    point = ord(character)
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def shown(text: str) -> str:
    r"""The text with everything unsafe shown as its code; line breaks stay. Twice is as once.

    >>> shown("red \x1b[31mmug\n")
    'red \\x1b[31mmug\n'
    """
    if text.isascii() and text.isprintable():
        return text
    joiners = {match.start() for match in _JOINED.finditer(text)}
    return _UNSAFE.sub(
        lambda one: one[0] if one[0] == "\n" or one.start() in joiners else _code(one[0]), text
    )


def visible(text: str) -> str:
    r"""One value on one line, so that no two values give the same line: as `shown`, line breaks too,
    and a backslash is doubled where it would read as one of the codes.

    >>> print(visible("a\nb"), visible("a\\x0ab"))
    a\x0ab a\\x0ab
    """
    if "\\" in text:
        text = _BACKSLASH.sub(r"\\\\", text)
    return shown(text).replace("\n", "\\x0a")


def line(text: str) -> str:
    r"""A sentence on one line: line breaks and tabs, with the spaces around them, become one
    space; the rest as `shown`.

    >>> line("two\n  lines")
    'two lines'
    """
    return shown(_BREAKS.sub(" ", text))


def spaced(text: str) -> str:
    """As `line`, and every run of spaces is one, with none at the ends.

    >>> spaced("  red   mug ")
    'red mug'
    """
    return shown(_SPACES.sub(" ", text).strip(" "))


def json_text(value: Any, indent: int | None = 2) -> str:
    r"""JSON of the very same values, with everything unsafe in it escaped.

    >>> print(json_text({"title": "mug \u202e"}, indent=None))
    {"title": "mug \u202e"}
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNSAFE.sub(_json_code, text)


def _json_code(match: re.Match[str]) -> str:
    point = ord(match[0])
    if point == 0x0A:  # of the indentation: within strings it is escaped already
        return "\n"
    if point < 0x10000:
        return f"\\u{point:04x}"
    high, low = divmod(point - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def yaml_text(value: Any, **options: Any) -> str:
    """YAML of a value; where a text in it holds anything unsafe, in ASCII with escapes.

    `options` are those of `yaml.safe_dump`.

    >>> print(yaml_text({"title": "café", "k": 5}), end="")
    title: café
    k: 5
    """
    import yaml

    plain: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, **options)
    if not _UNSAFE.search(plain.replace("\n", "")):
        return plain
    ascii_only: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=False, **options)
    return ascii_only


def markdown(text: str) -> str:
    r"""Text for a line or a table's cell of Markdown: shown as it is, never read as markup, HTML,
    a link or an image.

    >>> print(markdown("[mug](http://x) | *red*"))
    \[mug\](http\://x) \| \*red\*
    """
    out = _MARKDOWN.sub(r"\\\1", spaced(text))
    return _WWW.sub(r"\1\\.", _LIST.sub(r"\1\\\2", out))


def fenced(text: str, kind: str = "") -> str:
    """A block of code of Markdown that no line of the text can end.

    >>> print(fenced("weft demo", "console"))
    ```console
    weft demo
    ```
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{shown(text).rstrip()}\n{fence}"


def html(text: str) -> str:
    """Text as HTML content, or in an attribute's quotes.

    >>> html("<b>mug</b>")
    '&lt;b&gt;mug&lt;/b&gt;'
    """
    return escape(spaced(text), quote=True)

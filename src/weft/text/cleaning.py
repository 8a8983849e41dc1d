"""Make any string safe, single-line text without changing what a reader sees."""

from __future__ import annotations

import re
import unicodedata

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")

_SURROGATE = re.compile("[\ud800-\udfff]")

# Code points that show nothing: Unicode's Default_Ignorable_Code_Point (zero-width and
# bidirectional format characters, variation selectors, fillers, tags) and the interlinear
# annotation marks. Written out, so that every Python version removes the same ones.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def clean_text(text: str) -> str:
    """One line of well-formed, NFC text with single spaces and nothing invisible in it.

    - surrogate pairs are joined into their character, unpaired surrogates removed;
    - control characters (line breaks and tabs too) become spaces;
    - zero-width, bidirectional and other invisible characters are removed;
    - the result is in NFC: two ways to write "é" become one. Not NFKC, which would also
      rewrite what a title says (½ → 1⁄2, ™ → TM, x² → x2): a tokenizer that wants that does it;
    - every run of Unicode white space is one space, with none at either end.

    `clean_text(clean_text(text)) == clean_text(text)` for every string.

    >>> clean_text("  Oak\\ttable,\\n3\\u00d72\\u200b m ")
    'Oak table, 3×2 m'
    """
    if not (text.isascii() and text.isprintable()):
        if _SURROGATE.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        text = _CONTROL.sub(" ", text)
        text = _INVISIBLE.sub("", text)
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())

"""Item text -> safe prompt text -> tokens -> model inputs that no title can break.

`item_texts` picks and cleans the text of a catalogue's items, `tokenize_items` turns each text
into token ids once, and `assemble` joins those ids into model inputs without ever looking at
text again: whatever a title says, it stays inside its own item.
"""

from weft.text.assemble import Ragged, Structure, assemble, joined, pad, ragged, spread
from weft.text.clean import clean
from weft.text.items import TextSettings, item_texts
from weft.text.tokens import ItemTokens, encode_items, encode_titles, tokenize_items

__all__ = [
    "ItemTokens",
    "Ragged",
    "Structure",
    "TextSettings",
    "assemble",
    "clean",
    "encode_items",
    "encode_titles",
    "item_texts",
    "joined",
    "pad",
    "ragged",
    "spread",
    "tokenize_items",
]

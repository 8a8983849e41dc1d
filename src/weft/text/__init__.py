"""Item text -> safe prompt text -> tokens -> model inputs that no title can break.

`item_texts` picks and cleans the text of a catalogue's items, `tokenize_items` turns each text
into token ids once, and `assemble` joins those ids into model inputs without ever looking at
text again: whatever is in a title, it stays inside its own item.
"""

from typing import TYPE_CHECKING

from weft.lazy_names import lazy_names

if TYPE_CHECKING:
    from weft.text.cleaning import clean_text
    from weft.text.inputs import (
        Ragged,
        Structure,
        assemble,
        concatenate_rows,
        pad,
        ragged,
        spread_values,
    )
    from weft.text.items import TextSettings, item_texts
    from weft.text.tokens import ItemTokens, encode_items, encode_titles, tokenize_items
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "cleaning": ["clean_text"],
            "inputs": [
                "Ragged",
                "Structure",
                "assemble",
                "concatenate_rows",
                "pad",
                "ragged",
                "spread_values",
            ],
            "items": ["TextSettings", "item_texts"],
            "tokens": ["ItemTokens", "encode_items", "encode_titles", "tokenize_items"],
        },
    )

__all__ = [
    "ItemTokens",
    "Ragged",
    "Structure",
    "TextSettings",
    "assemble",
    "clean_text",
    "concatenate_rows",
    "encode_items",
    "encode_titles",
    "item_texts",
    "pad",
    "ragged",
    "spread_values",
    "tokenize_items",
]

"""The shared pretrained language model."""

from typing import TYPE_CHECKING

from weft.lazy_names import lazy_names

if TYPE_CHECKING:
    from weft.backbones.load import Backbone, Precision, find_backbone, load_backbone
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "load": ["Backbone", "Precision", "find_backbone", "load_backbone"],
        },
    )

__all__ = [
    "Backbone",
    "Precision",
    "find_backbone",
    "load_backbone",
]

"""One set of weights out of several."""

from weft.merging.adapters import merge_adapters
from weft.merging.linear import Space

__all__ = ["Space", "merge_adapters"]

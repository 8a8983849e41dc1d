"""The shared pretrained language model."""

from weft.backbones.load import Backbone, Precision, find_backbone, load_backbone

__all__ = ["Backbone", "Precision", "find_backbone", "load_backbone"]

"""The trained artifact of one domain."""

from weft.adapters.adapter import (
    Adapter,
    Factors,
    check_backbone,
    fold,
    from_attached,
    load_adapter,
    save_adapter,
    write_adapter,
)
from weft.adapters.lora import LoraLinear, LoraSettings, attach, initialise, trainable

__all__ = [
    "Adapter",
    "Factors",
    "LoraLinear",
    "LoraSettings",
    "attach",
    "check_backbone",
    "fold",
    "from_attached",
    "initialise",
    "load_adapter",
    "save_adapter",
    "trainable",
    "write_adapter",
]

"""The trained artifact of one domain."""

from weft.adapters.adapter import Adapter, check_backbone, fold, from_attached
from weft.adapters.factors import Factors, FactorShape
from weft.adapters.header import PeftHeader, TokenRows
from weft.adapters.lora import LoraLinear, LoraSettings, attach, initialise, trainable
from weft.adapters.peft_format import load_adapter, load_adapters
from weft.adapters.peft_writing import save_adapter, write_adapter

__all__ = [
    "Adapter",
    "FactorShape",
    "Factors",
    "LoraLinear",
    "LoraSettings",
    "PeftHeader",
    "TokenRows",
    "attach",
    "check_backbone",
    "fold",
    "from_attached",
    "initialise",
    "load_adapter",
    "load_adapters",
    "save_adapter",
    "trainable",
    "write_adapter",
]

"""The trained artifact of one domain."""

from typing import TYPE_CHECKING

from weft.lazy_names import lazy_names

if TYPE_CHECKING:
    from weft.adapters.adapter import Adapter, check_backbone, from_attached
    from weft.adapters.factors import Factors, FactorShape
    from weft.adapters.folding import fold_into
    from weft.adapters.header import PeftHeader, TokenRows
    from weft.adapters.lora import LoraLinear, LoraSettings, attach, initialise, trainable
    from weft.adapters.peft_format import load_adapter, load_adapters
    from weft.adapters.peft_writing import save_adapter, write_adapter
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "adapter": ["Adapter", "check_backbone", "from_attached"],
            "factors": ["Factors", "FactorShape"],
            "folding": ["fold_into"],
            "header": ["PeftHeader", "TokenRows"],
            "lora": ["LoraLinear", "LoraSettings", "attach", "initialise", "trainable"],
            "peft_format": ["load_adapter", "load_adapters"],
            "peft_writing": ["save_adapter", "write_adapter"],
        },
    )

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
    "fold_into",
    "from_attached",
    "initialise",
    "load_adapter",
    "load_adapters",
    "save_adapter",
    "trainable",
    "write_adapter",
]

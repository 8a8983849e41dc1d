"""Merging methods: one file a method or family, each a pure function with its settings."""

from weft.merging.methods.adapter_only import Concat, Knots, Lego
from weft.merging.methods.arcee_fusion import ArceeFusion
from weft.merging.methods.dare import Dare, Della
from weft.merging.methods.ext_sub import ExtSub
from weft.merging.methods.linear import Linear, TaskArithmetic
from weft.merging.methods.model_stock import ModelStock
from weft.merging.methods.nearswap import Nearswap
from weft.merging.methods.pcb import Pcb
from weft.merging.methods.prune import Breadcrumbs, LocalizeAndStitch, MagnitudePrune
from weft.merging.methods.ram import Ram
from weft.merging.methods.registry import (
    METHODS,
    MethodDoc,
    describe_methods,
    make_method,
    method_options,
)
from weft.merging.methods.sce import Sce
from weft.merging.methods.settings import Settings
from weft.merging.methods.spherical import Karcher, Multislerp, Nuslerp, Slerp
from weft.merging.methods.ties import Ties

__all__ = [
    "METHODS",
    "ArceeFusion",
    "Breadcrumbs",
    "Concat",
    "Dare",
    "Della",
    "ExtSub",
    "Karcher",
    "Knots",
    "Lego",
    "Linear",
    "LocalizeAndStitch",
    "MagnitudePrune",
    "MethodDoc",
    "ModelStock",
    "Multislerp",
    "Nearswap",
    "Nuslerp",
    "Pcb",
    "Ram",
    "Sce",
    "Settings",
    "Slerp",
    "TaskArithmetic",
    "Ties",
    "describe_methods",
    "make_method",
    "method_options",
]

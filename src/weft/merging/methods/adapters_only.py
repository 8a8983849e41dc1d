"""What methods that work on low-rank factors share: they merge adapters and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from weft.errors import SettingError
from weft.merging.engine.method import Block, Known, Pass
from weft.merging.methods.base import MergeMethod, ModuleMerge

if TYPE_CHECKING:
    from weft.merging.lora.lowrank import Truncated


class AdapterMethod(MergeMethod):
    """A method on factors: `merge_deltas` says how."""

    adapters_only: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    merges_factors: ClassVar[bool] = False

    def passes(self) -> Sequence[Pass]:
        raise SettingError(f"method '{self.name}' merges adapters only")

    def combine(self, block: Block, known: Known) -> Tensor:
        raise SettingError(f"method '{self.name}' merges adapters only")

    @abstractmethod
    def merge_deltas(self, modules: ModuleMerge) -> Mapping[str, Truncated]: ...

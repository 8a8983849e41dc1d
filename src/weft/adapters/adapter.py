"""The trained artifact: LoRA factors, modules saved whole, and a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.adapters.factors import Factors, FactorShape, Half, LazyFactors
from weft.adapters.header import PeftHeader, TokenRows
from weft.artifacts.hashing import hash_arrays, short_hashes
from weft.errors import MismatchError

if TYPE_CHECKING:
    from weft.adapters.lora import LoraLinear

MANIFEST = "weft.json"


@dataclass(frozen=True, eq=False)
class Adapter:
    """Module name -> factors; `saved` holds tensors of modules saved whole, by full name.

    `manifest` carries at least `backbone` {name, fingerprint}, and what else is known:
    domains, data hash, branch, seed, parents, merge recipe, versions. `tokens` holds rows of
    embeddings that were trained alone, by the embedding's name; `peft` what PEFT's configuration
    says beside the weights, None where weft trained the adapter; `dtype` how the factors are
    stored, None where that differs or they are in memory.

    >>> factors = Factors(a=torch.ones(1, 3), b=torch.tensor([[1.0], [2.0]]), scaling=0.5)
    >>> manifest = {"backbone": {"name": "tiny", "fingerprint": "0" * 64}}
    >>> adapter = Adapter({"layer.0.query": factors}, manifest)
    >>> adapter.factors["layer.0.query"].delta()
    tensor([[0.5000, 0.5000, 0.5000],
            [1.0000, 1.0000, 1.0000]])
    """

    factors: Mapping[str, Factors]
    manifest: dict[str, Any]
    saved: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)
    peft: PeftHeader | None = None
    dtype: torch.dtype | None = None
    declares: Callable[[str], bool] | None = None  # module -> whether its configuration names it

    @property
    def header(self) -> PeftHeader:
        """PEFT's configuration beside ranks and scalings."""
        task = str(self.manifest.get("backbone", {}).get("task", "FEATURE_EXTRACTION"))
        return PeftHeader(task_type=task) if self.peft is None else self.peft

    @property
    def biases(self) -> tuple[str, ...]:
        """Names of the tensors that are biases trained beside the factors."""
        header = self.header
        if header.bias == "none":
            return ()
        return tuple(n for n in self.saved if n.endswith(".bias") and not header.saves(n))

    @property
    def carried(self) -> tuple[str, ...]:
        """Names of the tensors that are the backbone's own weights of modules with factors, which
        PEFT saves beside them where the module is an embedding or the output layer."""
        return tuple(
            name
            for name in self.saved
            if name.endswith(".weight") and name.removesuffix(".weight") in self.factors
        )

    def changes_nothing(self) -> bool:
        """Whether every ΔW is zero, as before training, and nothing else is held."""
        if set(self.saved) - set(self.carried) or self.tokens:
            return False
        return not any(
            shape.scaling and bool(self.half(name, "b").any()) and bool(self.half(name, "a").any())
            for name, shape in self.shapes.items()
        )

    @property
    def shapes(self) -> Mapping[str, FactorShape]:
        """Module -> what is known of its factors without reading them."""
        if isinstance(self.factors, LazyFactors):
            return self.factors.shapes
        return {name: factors.shape for name, factors in self.factors.items()}

    def half(self, module: str, half: Half) -> Tensor:
        """A [r, in] or B [out, r] of a module, float32, without reading the other."""
        if isinstance(self.factors, LazyFactors):
            return self.factors.read(module, half)
        factors = self.factors[module]
        return factors.a if half == "a" else factors.b

    @cached_property
    def weights_hash(self) -> str:
        """Hash of every tensor and scaling, whatever the folder they came from.

        Computed once, one tensor in memory at a time.
        """
        return hash_arrays(_Arrays(self), {n: shape.scaling for n, shape in self.shapes.items()})

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the backbone that this adapter belongs to."""
        return str(self.manifest["backbone"]["fingerprint"])


class _Arrays(Mapping[str, "NDArray[Any]"]):
    """Every tensor of an adapter by a name, read when it is asked for."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        halves: tuple[Half, Half] = ("a", "b")
        self._halves = {f"{n}.{half}": (n, half) for n in adapter.factors for half in halves}
        self._saved = {f"saved.{name}": name for name in adapter.saved}
        self._rows = {f"tokens.{name}.rows": name for name in adapter.tokens}
        self._indices = {f"tokens.{name}.indices": name for name in adapter.tokens}

    def __getitem__(self, key: str) -> NDArray[Any]:
        if key in self._rows:
            rows: NDArray[Any] = self._adapter.tokens[self._rows[key]].rows.float().numpy()
            return rows
        if key in self._indices:
            return np.array(self._adapter.tokens[self._indices[key]].indices, dtype=np.int64)
        if key in self._saved:
            array: NDArray[Any] = self._adapter.saved[self._saved[key]].float().numpy()
            return array
        return self._adapter.half(*self._halves[key]).numpy()

    def __iter__(self) -> Iterator[str]:
        return iter([*self._halves, *self._saved, *self._rows, *self._indices])

    def __len__(self) -> int:
        return len(list(iter(self)))


def from_attached(
    attached: Mapping[str, LoraLinear],
    manifest: dict[str, Any],
    whole: Mapping[str, nn.Module] | None = None,
) -> Adapter:
    """Copy the factors out of a model's LoRA linears; the modules `whole` are saved whole.

    `attached` is what `attach` returned. Factors are float32 and on the CPU.
    """
    factors = {
        name: Factors(
            linear.a.detach().cpu().float().clone(),
            linear.b.detach().cpu().float().clone(),
            linear.scaling,
        )
        for name, linear in attached.items()
    }
    saved = {
        f"{name}.{key}": tensor.detach().cpu().clone()
        for name, module in (whole or {}).items()
        for key, tensor in module.state_dict().items()
    }
    return Adapter(factors, manifest, saved)


def check_backbone(adapter: Adapter, name: str, fingerprint: str) -> None:
    """A `MismatchError` that names both backbones if the adapter belongs to another one.

    >>> adapter = Adapter({}, {"backbone": {"name": "tiny", "fingerprint": "aa"}})
    >>> check_backbone(adapter, "other", "bb")
    Traceback (most recent call last):
    weft.errors.MismatchError: the adapter belongs to backbone tiny (aa), not to other (bb)
    """
    if adapter.fingerprint != fingerprint:
        backbone = adapter.manifest["backbone"]
        one, other = short_hashes(adapter.fingerprint, fingerprint)
        raise MismatchError(
            f"the adapter belongs to backbone {backbone.get('name')} ({one}), not to {name} ({other})"
        )

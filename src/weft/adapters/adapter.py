"""The trained artifact: LoRA factors, modules saved whole, and a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.adapters.factors import Factors, FactorShape, Half, LazyFactors
from weft.adapters.lora import LoraLinear
from weft.artifacts.hashing import hash_arrays
from weft.errors import WeftError

MANIFEST = "weft.json"


@dataclass(frozen=True, eq=False)
class Adapter:
    """Module name -> factors; `saved` holds tensors of modules saved whole, by full name.

    `manifest` carries at least `backbone` {name, fingerprint}, and what else is known:
    domains, data hash, branch, seed, parents, merge recipe, versions.
    """

    factors: Mapping[str, Factors]
    manifest: dict[str, Any]
    saved: Mapping[str, Tensor] = field(default_factory=dict)

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

    def __getitem__(self, key: str) -> NDArray[Any]:
        if key in self._saved:
            array: NDArray[Any] = self._adapter.saved[self._saved[key]].float().numpy()
            return array
        return self._adapter.half(*self._halves[key]).numpy()

    def __iter__(self) -> Iterator[str]:
        return iter([*self._halves, *self._saved])

    def __len__(self) -> int:
        return len(self._halves) + len(self._saved)


def from_attached(
    attached: Mapping[str, LoraLinear],
    manifest: dict[str, Any],
    whole: Mapping[str, nn.Module] | None = None,
) -> Adapter:
    """Copy the factors out of a model's LoRA linears; the modules `whole` are saved whole."""
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
    """An adapter of another backbone is an error that names both."""
    if adapter.fingerprint != fingerprint:
        own = adapter.manifest["backbone"]
        raise WeftError(
            f"the adapter belongs to backbone {own.get('name')} ({adapter.fingerprint[:12]}…), "
            f"not to {name} ({fingerprint[:12]}…)"
        )


def fold(model: nn.Module, adapter: Adapter) -> None:
    """Add every ΔW to the model's weights, in float32, stored in the weight's own dtype.

    Tensors saved whole replace the model's. A module or tensor that does not fit is a
    `WeftError`, and the model is then as it was.
    """
    sums: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for name, factors in adapter.factors.items():
            weight = _weight_of(model, name, (factors.b.shape[0], factors.a.shape[1]))
            sums.append((weight, weight.float() + factors.delta().to(weight.device)))
        for name, tensor in adapter.saved.items():
            module, _, _ = name.rpartition(".")
            sums.append((_tensor_of(model, module, name, tuple(tensor.shape)), tensor))
        for own, value in sums:
            own.copy_(value)


def _weight_of(model: nn.Module, module: str, shape: tuple[int, ...]) -> Tensor:
    """A linear's weight [out, in]."""
    weight = _tensor_of(model, module, f"{module}.weight", shape)
    if not isinstance(model.get_submodule(module), nn.Linear | LoraLinear):
        raise WeftError(f"the adapter's module '{module}' is not a linear one in the backbone")
    return weight


def _tensor_of(model: nn.Module, module: str, name: str, shape: tuple[int, ...]) -> Tensor:
    try:
        tensor = model.get_parameter(name)
    except AttributeError:
        raise WeftError(f"the adapter has a module '{module}' that the backbone lacks") from None
    if tuple(tensor.shape) != shape:
        raise WeftError(
            f"the adapter's module '{module}' has the shape {list(shape)}, "
            f"the backbone's {list(tensor.shape)}"
        )
    return tensor

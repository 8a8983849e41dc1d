"""The trained artifact: LoRA factors, modules saved whole, and a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.adapters.factors import Factors, FactorShape, Half, LazyFactors
from weft.adapters.header import PeftHeader, TokenRows
from weft.adapters.lora import LoraLinear
from weft.artifacts.hashing import hash_arrays, short_hashes
from weft.errors import WeftError

MANIFEST = "weft.json"


@dataclass(frozen=True, eq=False)
class Adapter:
    """Module name -> factors; `saved` holds tensors of modules saved whole, by full name.

    `manifest` carries at least `backbone` {name, fingerprint}, and what else is known:
    domains, data hash, branch, seed, parents, merge recipe, versions. `tokens` holds rows of
    embeddings that were trained alone, by the embedding's name; `peft` what PEFT's configuration
    says beside the weights, None where weft trained the adapter; `dtype` how the factors are
    stored, None where that differs or they are in memory.
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
        """What PEFT's configuration says beside the weights."""
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
        one, other = short_hashes(adapter.fingerprint, fingerprint)
        raise WeftError(
            f"the adapter belongs to backbone {own.get('name')} ({one}), not to {name} ({other})"
        )


def fold(model: nn.Module, adapter: Adapter) -> None:
    """Add every ΔW to the model's weights, in float32, stored in the weight's own dtype.

    Tensors saved whole, and rows of single tokens, replace the model's. A module or tensor that
    does not fit is a `WeftError`, and the model is then as it was.
    """
    sums: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for name, factors in adapter.factors.items():
            weight, turned = _weight_of(model, name, (factors.b.shape[0], factors.a.shape[1]))
            start = adapter.saved.get(f"{name}.weight", weight).to(weight.device)
            delta = factors.delta().to(weight.device)
            sums.append((weight, start.float() + (delta.T if turned else delta)))
        for name in adapter.saved.keys() - set(adapter.carried):
            module, _, _ = name.rpartition(".")
            tensor = adapter.saved[name]
            sums.append((_tensor_of(model, module, name, tuple(tensor.shape)), tensor))
        for name, tokens in adapter.tokens.items():
            weight = _parameter_of(model, name, f"{name}.weight")
            _check_rows(name, tokens, tuple(weight.shape))
            indices = torch.tensor(tokens.indices, device=weight.device)
            rows = tokens.rows.to(weight.device, weight.dtype)
            sums.append((weight, weight.index_copy(0, indices, rows)))
        for own, value in sums:
            own.copy_(value)


def _check_rows(name: str, tokens: TokenRows, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or tokens.rows.shape[1] != shape[1] or max(tokens.indices) >= shape[0]:
        raise WeftError(
            f"the adapter's rows of '{name}', {list(tokens.rows.shape)} up to token "
            f"{max(tokens.indices)}, don't fit the backbone's {list(shape)}"
        )


def _weight_of(model: nn.Module, module: str, shape: tuple[int, int]) -> tuple[Tensor, bool]:
    """A linear's weight [out, in]; or, true, [in, out] of GPT-2's `Conv1D`."""
    own = model.get_submodule(module) if _has_module(model, module) else None
    linear = isinstance(own, nn.Linear | LoraLinear)
    turned = own is not None and not linear and _is_conv1d(own)
    weight = _tensor_of(model, module, f"{module}.weight", shape[::-1] if turned else shape)
    if not turned and not linear:
        raise WeftError(f"the adapter's module '{module}' is not a linear one in the backbone")
    return weight, turned


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D  # takes a second, so only where it is in doubt

    return isinstance(module, Conv1D)


def _has_module(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _parameter_of(model: nn.Module, module: str, name: str) -> Tensor:
    try:
        return model.get_parameter(name)
    except AttributeError:
        raise WeftError(f"the adapter has a module '{module}' that the backbone lacks") from None


def _tensor_of(model: nn.Module, module: str, name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = _parameter_of(model, module, name)
    if tuple(tensor.shape) != shape:
        raise WeftError(
            f"the adapter's module '{module}' has the shape {list(shape)}, "
            f"the backbone's {list(tensor.shape)}"
        )
    return tensor

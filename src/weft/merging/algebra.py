"""Sums of weights written as one writes them: `base + 0.3 * (a - base) + 0.7 * (b - base)`.

Nothing is computed until a tensor is asked for. An expression is linear in its leaves, so it is
kept as leaf -> coefficient and simplified as it is built: above, the base cancels, and is not even
read. Coefficients are exact fractions, and a float stands for the decimal number that it prints
as: 1 − .3 − .7 is 0. Where a sum of coefficients is smaller than 1e-12 of what was added, as that
of 1 − 1/3 − 1/3 − 1/3 given as floats, it is rounding and counts as 0; a small factor is kept.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.adapters import Adapter, load_adapter
from weft.errors import MismatchError, NotFoundError, SettingError
from weft.merging.checkpoints.checkpoint import Checkpoint, open_checkpoint
from weft.merging.checkpoints.reconcile import bring_together
from weft.merging.checkpoints.source_files import checkpoint_of
from weft.merging.checkpoints.views import Renamed, Single, place_on
from weft.merging.engine.source import Memory, Spec, TensorSource
from weft.merging.engine.stream import MemorySink, Merge, check_alike, pieces, stream
from weft.merging.limits import MergeLimits, ReportProgress
from weft.merging.lora.sources import DeltaSource
from weft.merging.methods.registry import make_method
from weft.merging.paths import is_adapter, locate

_ROUNDING = Fraction(1, 10**12)

WeightsSource = str | Path | Mapping[str, Tensor] | Adapter | TensorSource


@dataclass(frozen=True)
class Leaf:
    """Weights that are used as they are; equal where they come from one path or one object."""

    identity: str | int
    source: TensorSource = field(compare=False)
    adapter: bool = field(compare=False, default=False)  # holds ΔW by module, not weights
    content: object = field(compare=False, default=None)  # held, so that its id stays its own


def weights(content: WeightsSource | Expression, label: str | None = None) -> Expression:
    """A leaf: a checkpoint (folder or file), an adapter's folder, or tensors in memory.

    An adapter stands for its ΔW, which is added to the weights of its modules. `label` names the
    leaf in errors and manifests: its folder's name unless stated. Raises `WeftError` for what can't
    be read, and for an adapter with modules saved whole, as those are no difference.

    >>> import torch
    >>> base, books, toys = (weights({"w": torch.tensor(row)}) for row in ([1.0], [2.0], [5.0]))
    >>> merged = base + 0.5 * (books - base) + 0.25 * (toys - base)
    >>> merged["w"]
    tensor([2.5000])
    """
    if isinstance(content, Expression):
        return content
    if isinstance(content, str | Path):
        path = locate(content)
        name, identity = label or path.absolute().name or str(path), str(path.resolve())
        if is_adapter(path):
            return _adapter(load_adapter(path, lazy=True), name, identity, content)
        return _leaf(Leaf(identity, open_checkpoint(path, name), content=content))
    if isinstance(content, Adapter):
        return _adapter(content, label or "the adapter", id(content), content)
    if isinstance(content, Mapping):
        source: TensorSource = Memory(label or "the tensors", content)
        return _leaf(Leaf(id(content), source, content=content))
    key = str(content.path.resolve()) if isinstance(content, Checkpoint) else id(content)
    source = content if label is None else _renamed(content, label)
    return _leaf(Leaf(key, source, content=content))


def mean(several: Sequence[WeightsSource | Expression]) -> Expression:
    """Σ θ_k / K."""
    if not several:
        raise SettingError("a mean needs at least one set of weights")
    first, *others = (weights(one) for one in several)
    return sum(others, first) / len(several)


def _leaf(leaf: Leaf) -> Expression:
    return Expression(((leaf, Fraction(1)),))


def _adapter(adapter: Adapter, label: str, identity: str | int, content: object) -> Expression:
    whole = [*adapter.saved, *adapter.tokens]
    if whole:
        raise SettingError(
            f"{label} saves '{min(whole)}' whole, which can't be added to other weights: fold the "
            "adapter into a checkpoint (weft fold)"
        )
    if adapter.header.fan_in_fan_out:
        raise SettingError(
            f"{label} changes weights that are stored [in, out] (fan_in_fan_out): fold it into its "
            "backbone with weft fold, and calculate with the checkpoint"
        )
    return _leaf(Leaf(identity, DeltaSource(label, adapter), adapter=True, content=content))


@dataclass(frozen=True, eq=False)
class Expression:
    """A linear combination of leaves: a `TensorSource`, so also a part or the base of any merge.

    It has the tensors of its checkpoints (all have the same), or, of adapters alone, one ΔW for
    each module. Values are float32; where it is one leaf with the coefficient 1, that leaf's own
    bits. Integer tensors must be the same in all checkpoints and come out as they are.
    """

    terms: tuple[tuple[Leaf, Fraction], ...]

    # numpy must leave `array_scalar * expression` to `__rmul__`
    __array_ufunc__ = None

    def __add__(self, other: Any) -> Expression:
        if isinstance(other, Expression):
            return _sum(self, other)
        if isinstance(other, int) and other == 0:  # where `sum` starts
            return self
        raise SettingError(f"weights can be added to weights only, not to {_in_words(other)}")

    __radd__ = __add__

    def __sub__(self, other: Any) -> Expression:
        if not isinstance(other, Expression):
            raise SettingError(
                f"from weights only weights can be subtracted, not {_in_words(other)}"
            )
        return _sum(self, -other)

    def __mul__(self, factor: Any) -> Expression:
        if isinstance(factor, Expression):
            raise SettingError(
                "weights can't be multiplied by weights: a merge is linear in its parts"
            )
        exact = _exact(factor)
        return Expression(_simple({leaf: exact * by for leaf, by in self.terms}))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Expression:
        if isinstance(divisor, Expression):
            raise SettingError(
                "weights can't be divided by weights: a merge is linear in its parts"
            )
        exact = _exact(divisor)
        if not exact:
            raise SettingError("weights can't be divided by zero")
        return self * (1 / exact)

    def __neg__(self) -> Expression:
        return self * -1

    def __pos__(self) -> Expression:
        return self

    def __repr__(self) -> str:
        return f"<weights {self.label}>"

    @property
    def label(self) -> str:
        """The formula: `0.3*a + 0.7*b`."""
        formula = " + ".join(
            leaf.source.label if by == 1 else f"{float(by):.6g}*{leaf.source.label}"
            for leaf, by in self.terms
        )
        return formula.replace("+ -", "- ")

    @property
    def coefficients(self) -> dict[str, float]:
        """Leaf's label -> its coefficient."""
        pairs = zip(self._parts, self.terms, strict=True)
        return {part.label: float(by) for part, (_, by) in pairs}

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """Shapes and dtypes of what `read` gives."""
        stored = self._parts[0].specs
        if self._alone is not None:
            return stored
        return {
            name: Spec(spec.shape, torch.float32 if spec.dtype.is_floating_point else spec.dtype)
            for name, spec in stored.items()
        }

    def __contains__(self, name: object) -> bool:
        return name in self.specs

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, name: str) -> Tensor:
        """One tensor, computed now."""
        if name not in self.specs:
            raise NotFoundError(f"there is no tensor '{name}' in {self.label}")
        return self._computed([name])[name]

    def tensors(self, threads: int | None = None) -> dict[str, Tensor]:
        """Every tensor, in memory."""
        return self._computed(list(self.specs), threads)

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements [start, start + count) of the flattened tensor; summed in float64, rounded once."""
        if self._alone is not None:
            return self._alone.read(name, start, count)
        blocks = [part.read(name, start, count) for part in self._parts]
        if not self.specs[name].dtype.is_floating_point:
            self._check_equal(name, blocks)
            return blocks[0]
        out = torch.zeros(count, dtype=torch.float64)
        for block, (_, by) in zip(blocks, self.terms, strict=True):
            out.add_(block.double(), alpha=float(by))
        return out.float()

    def save(
        self,
        out: Path | str,
        dtype: torch.dtype | None = None,
        *,
        threads: int | None = None,
        progress: ReportProgress | None = None,
    ) -> None:
        """Write a checkpoint's folder, streamed, whole or not at all.

        `dtype` is by default each tensor's in the first checkpoint of the formula. The same
        call goes on where an interrupted one stopped.
        """
        from weft.merging.checkpoints.folder_merge import CheckpointOutput, merge_into_folder

        if self.terms[0][0].adapter:
            raise SettingError(
                f"{self.label} is of adapters alone: add a checkpoint, or merge them"
            )
        by = [float(by) for _, by in self.terms]
        merge = Merge(self._parts, make_method("linear"), lambda _: by)
        output = CheckpointOutput(dtype=dtype, recipe=self._recipe(Path(out), dtype))
        merge_into_folder(merge, Path(out), output, MergeLimits(threads=threads), progress)

    def _recipe(self, out: Path, dtype: torch.dtype | None) -> dict[str, Any]:
        """What `weft merge` can replay, where all leaves are checkpoints; else the formula."""
        dtypes = {} if dtype is None else {"dtype": str(dtype).removeprefix("torch.")}
        parts = [
            {"path": os.path.relpath(one.path, out), "name": part.label, "weight": float(by)}
            for part, (_, by) in zip(self._parts, self.terms, strict=True)
            if (one := checkpoint_of(part)) is not None
        ]
        if len(parts) < len(self.terms):
            return {"method": "linear", "expression": self.label, **dtypes}
        return {"method": "linear", "parts": parts, **dtypes}

    @property
    def lead(self) -> TensorSource:
        """The first term's source: the others have its tensors, and rows for the same tokens."""
        return self._parts[0]

    @property
    def _alone(self) -> TensorSource | None:
        """The only leaf, if its coefficient is 1."""
        (_, by), *others = self.terms
        return self._parts[0] if by == 1 and not others else None

    @cached_property
    def _parts(self) -> list[TensorSource]:
        """A source a term, all with the same names, and with labels of their own."""
        sources: list[TensorSource] = []
        for leaf, _ in self.terms:
            source, taken = leaf.source, {one.label for one in sources}
            if source.label in taken:
                number = next(
                    n for n in range(2, len(taken) + 3) if f"{source.label} {n}" not in taken
                )
                source = _renamed(source, f"{source.label} {number}")
            sources.append(source)
        whole = [s for s, (leaf, _) in zip(sources, self.terms, strict=True) if not leaf.adapter]
        if whole:
            whole = list(bring_together(whole, None).parts)
            check_alike(whole)
        deltas = sources[len(whole) :]  # `_simple` puts checkpoints first
        return [*whole, *place_on(deltas, whole[0] if whole else None)]

    def _computed(self, names: Sequence[str], threads: int | None = None) -> dict[str, Tensor]:
        specs = {name: self.specs[name] for name in names}
        sink = MemorySink(specs)
        if self._alone is not None:
            for name in names:
                for start, count in pieces(specs[name], rows=False):
                    values = self._alone.read(name, start, count)
                    sink.tensors[name].view(-1)[start : start + count] = values
            return sink.tensors
        by = [float(by) for _, by in self.terms]
        parts = [Single(part, tuple(names)) for part in self._parts]
        stream(Merge(parts, make_method("linear"), lambda _: by), sink, threads=threads)
        return sink.tensors

    def _check_equal(self, name: str, blocks: Sequence[Tensor]) -> None:
        for part, block in zip(self._parts[1:], blocks[1:], strict=True):
            if not torch.equal(block, blocks[0]):
                raise MismatchError(
                    f"tensor '{name}' holds integers that differ "
                    f"in {self._parts[0].label} and {part.label}"
                )


def _renamed(source: TensorSource, label: str) -> TensorSource:
    if isinstance(source, Checkpoint):  # stays one, of which a merge records the files
        return open_checkpoint(source.path, label)
    return Renamed(label, source)


def _sum(one: Expression, other: Expression) -> Expression:
    coefficients = dict(one.terms)
    for leaf, by in other.terms:
        before = coefficients.get(leaf, Fraction(0))
        after = before + by
        small = abs(after) <= _ROUNDING * max(abs(before), abs(by))
        coefficients[leaf] = Fraction(0) if small else after
    total = Expression(_simple(coefficients))
    _ = total._parts  # what does not fit is an error here, where it is written
    return total


def _simple(coefficients: Mapping[Leaf, Fraction]) -> tuple[tuple[Leaf, Fraction], ...]:
    """Checkpoints first, no zeros but one: some checkpoint must stay to say which tensors there are."""
    order = sorted(coefficients.items(), key=lambda term: term[0].adapter)
    terms = tuple((leaf, by) for leaf, by in order if by)
    if not terms or (terms[0][0].adapter and not order[0][0].adapter):
        return ((order[0][0], Fraction(0)), *terms)
    return terms


def _exact(number: Any) -> Fraction:
    """A scalar as a fraction; a float is the decimal number that it prints as."""
    if isinstance(number, Tensor) and number.numel() == 1:
        number = number.item()
    if isinstance(number, Fraction):
        return number
    if isinstance(number, numbers.Integral):
        return Fraction(int(number))
    if not isinstance(number, numbers.Real):
        raise SettingError(f"weights can be multiplied by numbers only, not by {_in_words(number)}")
    value = float(number)
    if not math.isfinite(value):
        raise SettingError(f"weights can't be multiplied by {value}")
    return Fraction(repr(value))


def _in_words(value: object) -> str:
    return (
        f"'{value}'"
        if isinstance(value, str | Path | numbers.Number)
        else f"a {type(value).__name__}"
    )

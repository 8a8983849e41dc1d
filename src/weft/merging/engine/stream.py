"""Streams tensors through a merging method, a block at a time, and knows nothing of any method.

What comes out has the same bits at any number of threads, amount of memory or layout of files:
blocks are cut by a tensor's shape alone, partial sums are added in the order of blocks, parts are
put into an order that depends on their bytes only, and every block is computed by one thread.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from weft.errors import DataError, MismatchError, SettingError
from weft.merging.engine.method import OPTIONS, Block, Known, Method, Pass
from weft.merging.engine.options import check_part_options
from weft.merging.engine.schedule import Step, Work, run_all, threads_alone
from weft.merging.engine.source import Spec, TensorSource, cast
from weft.merging.engine.source import measured as measured
from weft.merging.engine.sums import InOrder, RunningSum, as_bytes, inverse, tensor_places

BLOCK = 1 << 18  # elements: few enough for a core's own cache, many beside a call's cost
_MOST = torch.finfo(torch.float32).max


class Sink(Protocol):
    """Where merged tensors go. Writing is safe from several threads at once."""

    def wants(self, name: str) -> bool:
        """False where the tensor is there already."""
        ...

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Elements from `start` of the flattened tensor: float32, or those of a copied tensor."""
        ...

    def finish(self, name: str) -> None:
        """Every element of this tensor has been written; called by one thread."""
        ...


@dataclass(frozen=True)
class Merge:
    """What is merged how: sources of the same tensors, a method, the weights of each tensor."""

    parts: Sequence[TensorSource]
    method: Method
    weights: Callable[[str], Sequence[float]]  # tensor name -> K weights
    base: TensorSource | None = None
    options: Callable[[str], Mapping[str, Sequence[float]]] | None = None  # name -> option -> K
    # What is read, and differences from the base, rounded before a method sees them: to a dtype, or
    # differences alone to that in which the base is stored.
    round_to: torch.dtype | Literal["stored"] | None = None


def stream(
    merge: Merge,
    sink: Sink,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Merge every tensor that the sink wants, in the order of the first part.

    `progress` is called with the bytes read, by the thread that read them. Raises
    `WeftError` for a part that holds NaN or infinity, and for integer tensors that differ. Names
    and shapes are checked by `check_alike`.
    """
    merge.method.check(len(merge.parts))
    check_alike(merge.parts, merge.base)
    check_part_options(merge)
    early, late = split_passes(merge.method)
    with threads_alone(threads) as pool:
        run = _Run(merge, pool, progress)
        for one in early:
            run.everywhere(one)
        wanted = [name for name in merge.parts[0].specs if sink.wants(name)]
        run_all(pool, (run.tensor(name, late, sink) for name in wanted))


def split_passes(method: Method) -> tuple[list[Pass], list[Pass]]:
    """The passes over all tensors up to the last global one, and those made tensor by tensor."""
    passes = list(method.passes())
    last = max((i for i, one in enumerate(passes) if one.scope == "global"), default=-1)
    return passes[: last + 1], passes[last + 1 :]


def bytes_to_read(merge: Merge, wants: Callable[[str], bool]) -> int:
    """What `stream` will report to its `progress` in all."""
    early, late = split_passes(merge.method)
    sources = [*merge.parts, *([] if merge.base is None else [merge.base])]
    total = 0
    for name, spec in merge.parts[0].specs.items():
        if measured(spec):
            times = len(early) + (len(late) + 1 if wants(name) else 0)
            read = [
                *(merge.parts[k] for k in read_parts(merge, name)),
                *sources[len(merge.parts) :],
            ]
            total += times * sum(source.specs[name].bytes for source in read)
        elif wants(name):
            total += sum(part.specs[name].bytes for part in merge.parts)
    return total


def read_parts(merge: Merge, name: str) -> list[int]:
    """The parts that a tensor is read from: all but those of weight 0, if the method skips them."""
    skips = merge.method.skips_zero
    return [k for k, weight in enumerate(merge.weights(name)) if weight or not skips]


def check_alike(parts: Sequence[TensorSource], base: TensorSource | None = None) -> None:
    """Sources must have the same tensors: names, shapes, and floating point or not."""
    if not parts:
        raise SettingError("a merge needs at least one part")
    labels = [part.label for part in parts]
    if len(set(labels)) < len(labels):
        raise SettingError(f"two parts are named '{max(labels, key=labels.count)}'")
    first = parts[0]
    for other in [*parts[1:], *([] if base is None else [base])]:
        odd = first.specs.keys() ^ other.specs.keys()
        if odd:
            name = min(odd)
            there, lacking = (first, other) if name in first.specs else (other, first)
            raise MismatchError(f"tensor '{name}' is in {there.label} but not in {lacking.label}")
        for name, spec in first.specs.items():
            other_spec = other.specs[name]
            if other_spec.shape != spec.shape:
                raise MismatchError(
                    f"tensor '{name}' has the shape {list(spec.shape)} in {first.label} "
                    f"and {list(other_spec.shape)} in {other.label}"
                )
            if other_spec.dtype.is_floating_point != spec.dtype.is_floating_point:
                raise MismatchError(
                    f"tensor '{name}' is {spec.dtype} in {first.label} "
                    f"and {other_spec.dtype} in {other.label}".replace("torch.", "")
                )


def pieces(spec: Spec, *, rows: bool) -> list[tuple[int, int]]:
    """Cut a tensor into (start, count) of at most BLOCK elements, or of whole rows."""
    step = max(1, BLOCK // spec.columns) * spec.columns if rows and spec.columns else BLOCK
    return [(start, min(step, spec.size - start)) for start in range(0, spec.size, step)]


@dataclass
class _Run:
    merge: Merge
    pool: ThreadPoolExecutor
    progress: Callable[[int], None] | None

    def __post_init__(self) -> None:
        self.shared: dict[str, _Shared] = {}  # measured by global passes
        self.measured: dict[str, dict[str, Any]] = {}  # by tensor: by passes of tensor scope
        self.orders: dict[str, tuple[int, ...]] = {}
        self.places = tensor_places(self.merge.parts[0].specs)

    def spec(self, name: str) -> Spec:
        return self.merge.parts[0].specs[name]

    def everywhere(self, one: Pass) -> None:
        """One pass over all tensors."""
        names = [name for name, spec in self.merge.parts[0].specs.items() if measured(spec)]
        if one.scope == "tensor":
            run_all(self.pool, (self.measure(name, one) for name in names))
            return
        if not names:
            return
        if not one.needed(self.shared_known(None)):
            self.skip(names)
            return
        totals = InOrder(names)
        run_all(self.pool, (self.add(name, one, totals) for name in names))
        count = sum(self.spec(name).size for name in names)
        settled = self.pool.submit(one.settle, totals.sum, self.shared_known(None), count)
        self.shared[one.key] = _Shared(one.per_part, settled.result())

    def add(self, name: str, one: Pass, totals: InOrder) -> Work:
        total = yield from self.look(name, one)
        if one.per_part:  # back into the order in which the parts were named
            total = total[torch.tensor(inverse(self.orders[name]))]
        totals.put(name, total)

    def skip(self, names: Sequence[str]) -> None:
        """Count as read what a pass that is not needed would have read."""
        if self.progress is not None:
            sources = [*self.merge.parts, *([] if self.merge.base is None else [self.merge.base])]
            self.progress(sum(one.specs[name].bytes for name in names for one in sources))

    def measure(self, name: str, one: Pass) -> Work:
        yield from self.put_in_order(name)
        if not one.needed(self.known(name)):
            self.skip([name])
            return
        total = yield from self.look(name, one)
        known, size, measured_here = (
            self.known(name),
            self.spec(name).size,
            self.measured.setdefault(name, {}),
        )
        # By a thread of the pool: those compute alone.
        yield Step(
            lambda key: one.settle(total, known, size),
            [one.key],
            lambda value: measured_here.update({one.key: value}),
        )

    def look(self, name: str, one: Pass) -> Generator[Step, None, Tensor]:
        yield from self.put_in_order(name)
        known, total = self.known(name), RunningSum()
        yield Step(lambda piece: one.look(self.block(name, *piece), known), self.cut(name), total)
        return total.value

    def known(self, name: str) -> Known:
        order = self.orders[name]
        return self.shared_known(order) | self.options(name, order) | self.measured.get(name, {})

    def shared_known(self, order: Sequence[int] | None) -> dict[str, Any]:
        known: dict[str, Any] = {
            key: one.value if order is None or not one.per_part else [one.value[k] for k in order]
            for key, one in self.shared.items()
        }
        if order is not None:
            return known
        first = next((n for n, spec in self.merge.parts[0].specs.items() if measured(spec)), None)
        return known if first is None else known | self.options(first, range(len(self.merge.parts)))

    def options(self, name: str, order: Sequence[int]) -> dict[str, Any]:
        """The parts' own options for a tensor, in an order."""
        if self.merge.options is None:
            return {}
        options = self.merge.options(name)
        return {OPTIONS: {key: [values[k] for k in order] for key, values in options.items()}}

    def tensor(self, name: str, passes: Sequence[Pass], sink: Sink) -> Work:
        """The passes of one tensor, then its merged elements."""
        if measured(self.spec(name)):
            yield from self.put_in_order(name)
            for one in passes:
                yield from self.measure(name, one)
            known = self.known(name)
            yield Step(lambda piece: self.combine(name, piece, known, sink), self.cut(name))
        else:
            yield Step(lambda piece: self.copy(name, piece, sink), self.cut(name))
        self.measured.pop(name, None)
        sink.finish(name)

    def combine(self, name: str, piece: tuple[int, int], known: Known, sink: Sink) -> None:
        block = self.block(name, *piece)
        merged = self.merge.method.combine(block, known)
        if self.merge.method.relative and block.base is not None:
            merged = block.base + merged
        sink.write(name, piece[0], merged)

    def copy(self, name: str, piece: tuple[int, int], sink: Sink) -> None:
        """Integers can't be merged: every part must have the same."""
        first, *others = self.merge.parts
        values = self.raw(first, name, *piece)
        for other in others:
            if not torch.equal(values, self.raw(other, name, *piece)):
                raise MismatchError(
                    f"tensor '{name}' holds integers that differ in {first.label} and {other.label}"
                )
        sink.write(name, piece[0], values)

    def cut(self, name: str) -> list[tuple[int, int]]:
        return pieces(self.spec(name), rows=self.merge.method.rows)

    def block(self, name: str, start: int, count: int) -> Block:
        merge, order = self.merge, self.orders[name]
        base = None if merge.base is None else self.floats(merge.base, name, start, count)
        read = set(read_parts(merge, name))
        parts = [
            self.floats(merge.parts[k], name, start, count) if k in read else torch.zeros(count)
            for k in order
        ]
        if merge.method.relative and base is not None:
            parts = [
                self.rounded(part.sub_(base), merge.base, name) if k in read else part
                for part, k in zip(parts, order, strict=True)
            ]
        weights = [float(weight) for weight in merge.weights(name)]
        if not all(abs(weight) <= _MOST for weight in weights):
            raise SettingError(
                f"tensor '{name}': the weights {weights} are too large or not finite"
            )
        return Block(
            name,
            start,
            self.spec(name).columns,
            tuple(parts),
            tuple(weights[k] for k in order),
            tuple(merge.parts[k].label for k in order),
            base,
            self.places[name] + start,
        )

    def rounded(self, values: Tensor, base: TensorSource | None, name: str) -> Tensor:
        """Differences in the precision asked for."""
        dtype = self.merge.round_to
        if dtype == "stored":
            dtype = None if base is None else base.specs[name].dtype
        return values if dtype is None else values.to(dtype).to(torch.float32)

    def raw(self, source: TensorSource, name: str, start: int, count: int) -> Tensor:
        values = source.read(name, start, count)
        if self.progress is not None:
            self.progress(values.numel() * values.element_size())
        return values

    def floats(self, source: TensorSource, name: str, start: int, count: int) -> Tensor:
        """A fresh float32 copy; NaN and infinity are errors."""
        values = self.raw(source, name, start, count).to(torch.float32, copy=True)
        if isinstance(self.merge.round_to, torch.dtype):
            values = values.to(self.merge.round_to).to(torch.float32)
        # The sum of finite numbers may overflow too: only then is every one looked at.
        if not math.isfinite(values.sum().item()) and not torch.isfinite(values).all():
            raise DataError(f"tensor '{name}' of {source.label} holds NaN or infinity")
        return values

    def put_in_order(self, name: str) -> Iterator[Step]:
        """The parts by their bytes (then weight and label), for a method that is symmetric."""
        if name in self.orders:
            return
        if self.merge.method.symmetric and len(self.merge.parts) > 1:
            yield Step(self.order, [name], lambda order: self.orders.update({name: order}))
        else:
            self.orders[name] = tuple(range(len(self.merge.parts)))

    def order(self, name: str) -> tuple[int, ...]:
        parts, weights = self.merge.parts, self.merge.weights(name)
        every = sorted(range(len(parts)), key=lambda k: (weights[k], parts[k].label))
        order = [k for k in every if k in read_parts(self.merge, name)]
        contrast = functools.partial(self.contrast, name)
        order.sort(key=functools.cmp_to_key(contrast))
        return (*order, *(k for k in every if k not in order))

    def contrast(self, name: str, i: int, j: int) -> int:
        """-1, 0 or 1: the order of two parts' bytes in one tensor, a little read at first."""
        parts = self.merge.parts
        one, other = parts[i].specs[name].dtype, parts[j].specs[name].dtype
        if one != other:
            return -1 if str(one) < str(other) else 1
        size = self.spec(name).size
        for start, count in [(0, min(size, 256)), *self.cut(name)]:
            a, b = (as_bytes(parts[k].read(name, start, count)) for k in (i, j))
            if not torch.equal(a, b):
                return -1 if a.numpy().tobytes() < b.numpy().tobytes() else 1
        return 0


@dataclass(frozen=True)
class _Shared:
    per_part: bool
    value: Any


def merge_in_memory(merge: Merge, *, threads: int | None = None) -> dict[str, Tensor]:
    """The merged tensors, each in the dtype of the first part's."""
    sink = MemorySink(merge.parts[0].specs)
    stream(merge, sink, threads=threads)
    return sink.tensors


class MemorySink:
    """Collects tensors of known specs."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        self.tensors = {name: torch.empty(s.shape, dtype=s.dtype) for name, s in specs.items()}

    def wants(self, name: str) -> bool:
        return True

    def write(self, name: str, start: int, values: Tensor) -> None:
        tensor = self.tensors[name].view(-1)
        tensor[start : start + values.numel()] = cast(name, values, tensor.dtype)

    def finish(self, name: str) -> None:
        pass

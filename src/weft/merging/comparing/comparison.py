"""What to expect before a merge: how long the parts' task vectors are and how they lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from weft.adapters import Adapter
from weft.errors import DataError, MismatchError, SettingError
from weft.merging.comparing.measures import (
    ModelPlace,
    Spaces,
    Sums,
    measure_block,
    measure_factors,
    measure_spaces,
    place,
    total,
)
from weft.merging.engine.schedule import Step, Work, run_all, threads_alone
from weft.merging.engine.source import TensorSource
from weft.merging.engine.stream import check_alike, pieces

Matrix = tuple[tuple[float | None, ...], ...]  # K × K, symmetric
X = TypeVar("X")
PAIR_CHANCE = 0.5  # two unrelated elements have opposite signs half of the time


@dataclass(frozen=True)
class Row:
    """What is known of one group of tensors; K parts, in the order given.

    Undefined values are None: a cosine with a zero vector, a share of no elements.
    """

    name: str
    elements: int
    norms: tuple[float, ...]  # ‖τ_k‖, Frobenius
    cosines: Matrix  # <τ_i, τ_j> / (‖τ_i‖ ‖τ_j‖)
    conflicts: Matrix  # of the elements where both are non-zero, the share with opposite signs
    conflict: float | None  # the same among any two parts; chance: 1 − 2^(1−K)
    norm_of_mean: (
        float | None
    )  # ‖mean of τ‖ / mean of ‖τ‖: 1 for parallel, 1/√K for orthogonal parts
    # Adapters only; means over the modules of the group.
    output_overlap: Matrix | None = None
    output_chance: Matrix | None = None
    input_overlap: Matrix | None = None
    input_chance: Matrix | None = None
    effective_ranks: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class ModuleAngles:
    """Principal angles in degrees, smallest first, between two adapters' spaces in one module."""

    module: str
    parts: tuple[str, str]
    output: tuple[float, ...]  # column spaces of B
    input: tuple[float, ...]  # row spaces of A


@dataclass(frozen=True)
class Contrast:
    """K parts side by side: as a whole, by layer and by kind of tensor."""

    labels: tuple[str, ...]
    adapters: bool  # else checkpoints with a base
    whole: Row
    layers: tuple[Row, ...]  # embeddings, every block, head and rest: those that occur
    kinds: tuple[Row, ...]  # by name within a block: query, key, …
    angles: tuple[ModuleAngles, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Every two parts."""
        return [(i, j) for j in range(len(self.labels)) for i in range(j)]

    @property
    def chance_conflict(self) -> float:
        """The share of elements where unrelated parts, all non-zero, don't have one sign."""
        return float(1 - 2.0 ** (1 - len(self.labels)))

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and None; sign conflicts of unrelated parts beside those found."""
        values = asdict(self)
        for row in (values["whole"], *values["layers"], *values["kinds"]):
            row["kept"] = row.pop("norm_of_mean")
        chance = {"pair": PAIR_CHANCE, "any": self.chance_conflict}
        return values | {"chance_conflict": chance}


def contrast_checkpoints(
    parts: Sequence[TensorSource],
    base: TensorSource,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Contrast:
    """Task vectors θ_k − θ_base of K checkpoints, a block of each in memory a thread.

    Integer tensors are left out. `progress` is called with the number of elements of every block that is done.
    Raises `WeftError` where tensors differ in name or shape, or hold NaN or infinity.
    """
    check_alike(parts, base)
    names = [name for name, spec in base.specs.items() if spec.dtype.is_floating_point]
    sums = {name: total(len(parts), ()) for name in names}

    def work(name: str) -> Work:
        def take(one: Sums) -> None:
            sums[name] = sums[name] + one
            if progress is not None:
                progress(one.elements)

        def measure(piece: tuple[int, int]) -> Sums:
            return measure_block(parts, base, name, *piece)

        yield Step(measure, pieces(base.specs[name], rows=False), take)

    with threads_alone(threads) as pool:
        run_all(pool, map(work, names))
    labels = tuple(part.label for part in parts)
    make = partial(_row, parts=len(parts), sums=sums, spaces={})
    return Contrast(labels, False, *_grouped(names, make))


def contrast_adapters(
    parts: Sequence[Adapter], labels: Sequence[str], *, threads: int | None = None
) -> Contrast:
    """ΔW = s·BA of K adapters of one backbone; a module that only some have is 0 in the others.

    Modules saved whole are left out, as they are no difference to a known base; `notes` names
    them. Modules are matched across known wrappers (`weft.merging.lora.module_names`). Raises
    `WeftError` for adapters of different backbones and modules of different shape.

    >>> import torch
    >>> from weft.adapters import Adapter, Factors
    >>> def rank_one(row: list[float]) -> Adapter:
    ...     factors = Factors(torch.tensor([row]), torch.ones(2, 1), scaling=1.0)
    ...     return Adapter({"query": factors}, {"backbone": {"name": "b", "fingerprint": "b"}})
    >>> parts = [rank_one([1.0, 0.0]), rank_one([1.0, 1.0])]
    >>> whole = contrast_adapters(parts, ["books", "toys"]).whole
    >>> [round(norm, 3) for norm in whole.norms], round(whole.cosines[0][1], 3)
    ([1.414, 2.0], 0.707)
    """
    from weft.merging.lora.module_names import align
    from weft.merging.lora.shared_backbone import check_one_backbone

    if not parts or len(set(labels)) != len(parts) or len(labels) != len(parts):
        raise SettingError("a comparison needs one adapter or more, each with a label of its own")
    for part, label in zip(parts, labels, strict=True):
        check_one_backbone(labels[0], parts[0], label, part)
    aligned = align(parts, labels, union=True)
    parts = aligned.adapters
    shapes = _shapes(parts, labels)
    names = list(shapes)

    def measure(name: str) -> tuple[Sums, Spaces]:
        factors = [part.factors.get(name) for part in parts]
        for one, label in zip(factors, labels, strict=True):
            if one is not None and not (one.a.isfinite().all() and one.b.isfinite().all()):
                raise DataError(f"module '{name}' of {label} holds NaN or infinity")
        return measure_factors(factors, shapes[name]), measure_spaces(factors)

    measured = dict(zip(names, _all(measure, names, threads), strict=True))
    sums = {name: one for name, (one, _) in measured.items()}
    spaces = {name: one for name, (_, one) in measured.items()}
    make = partial(_row, parts=len(parts), sums=sums, spaces=spaces)
    saved = sorted({name for part in parts for name in (*part.saved, *part.tokens)})
    whole = (f"saved whole and not compared: {', '.join(saved)}",) if saved else ()
    notes = (*aligned.notes, *whole)
    angles = tuple(_angles(labels, spaces))
    return Contrast(tuple(labels), True, *_grouped(names, make), angles, notes)


def _shapes(parts: Sequence[Adapter], labels: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Module -> [out, in], of every part's modules."""
    shapes: dict[str, tuple[int, int]] = {}
    for part, label in zip(parts, labels, strict=True):
        for name, shape in part.shapes.items():
            delta = shape.delta
            if shapes.setdefault(name, delta) != delta:
                raise MismatchError(
                    f"module '{name}' has the shape {list(delta)} in {label} "
                    f"and {list(shapes[name])} in another part"
                )
    return shapes


def _all(job: Callable[[str], X], names: Sequence[str], threads: int | None) -> list[X]:
    """`map` over threads; an error ends it."""
    results: list[X] = []
    with threads_alone(threads) as pool:
        run_all(pool, [_once(Step(job, names, results.append))])
    return results


def _once(step: Step) -> Work:
    yield step


def _grouped(
    names: Sequence[str], make: Callable[[str, Sequence[str]], Row]
) -> tuple[Row, tuple[Row, ...], tuple[Row, ...]]:
    """The whole, the layers in the model's order, and the kinds in alphabetical order."""
    places = {name: place(name) for name in names}
    layers: dict[tuple[int, str, int], list[str]] = {}
    kinds: dict[str, list[str]] = {}
    for name, one in places.items():
        order = 1 if one.block is not None else 0 if one.stack == "embeddings" else 2
        layers.setdefault((order, one.stack, one.block or 0), []).append(name)
        if one.kind:
            kinds.setdefault(one.kind, []).append(name)
    stacks = len({one.stack for one in places.values() if one.block is not None})
    titles = _short(kinds)
    return (
        make("all", names),
        tuple(
            make(_title(places[members[0]], stacks), members)
            for _, members in sorted(layers.items())
        ),
        tuple(make(titles[kind], kinds[kind]) for kind in sorted(kinds)),
    )


def _title(one: ModelPlace, stacks: int) -> str:
    if one.block is None:
        return one.stack
    return f"block {one.block}" if stacks == 1 else f"{one.stack} {one.block}"


def _short(kinds: Iterable[str]) -> dict[str, str]:
    """The last word of a kind where it is like no other's: query, but attention.output.dense."""
    last = {kind: kind.rpartition(".")[2] for kind in kinds}
    words = list(last.values())
    return {kind: word if words.count(word) == 1 else kind for kind, word in last.items()}


def _row(
    title: str,
    names: Sequence[str],
    *,
    parts: int,
    sums: dict[str, Sums],
    spaces: dict[str, Spaces],
) -> Row:
    s = total(parts, (sums[name] for name in names))
    norms = s.gram.diagonal().clamp(min=0).sqrt()
    of_modules = [spaces[name] for name in names] if spaces else []
    return Row(
        title,
        s.elements,
        tuple(norms.tolist()),
        _matrix(s.gram, norms[:, None] * norms, clamp=True),
        _matrix(s.opposite, s.both),
        s.mixed / s.several if s.several else None,
        float(s.gram.sum().clamp(min=0).sqrt() / norms.sum()) if norms.sum() > 0 else None,
        **(_means(of_modules) if of_modules else {}),
    )


def _matrix(above: Tensor, below: Tensor, *, clamp: bool = False) -> Matrix:
    quotients = above.double() / below
    if clamp:
        quotients = quotients.clamp(-1, 1)
    rows: list[list[float]] = quotients.tolist()
    return tuple(tuple(None if math.isnan(x) else x for x in row) for row in rows)


def _means(of_modules: Sequence[Spaces]) -> dict[str, Any]:
    def mean(matrices: Sequence[list[list[float | None]]]) -> Matrix:
        size = range(len(matrices[0]))
        return tuple(tuple(_mean(m[i][j] for m in matrices) for j in size) for i in size)

    ranks = zip(*(one.effective_ranks for one in of_modules), strict=True)
    return {
        "output_overlap": mean([one.output_overlap for one in of_modules]),
        "output_chance": mean([one.output_chance for one in of_modules]),
        "input_overlap": mean([one.input_overlap for one in of_modules]),
        "input_chance": mean([one.input_chance for one in of_modules]),
        "effective_ranks": tuple(map(_mean, ranks)),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _angles(labels: Sequence[str], spaces: dict[str, Spaces]) -> Iterable[ModuleAngles]:
    for module, one in spaces.items():
        for j in range(len(labels)):
            for i in range(j):
                output, input_ = one.output_angles[i][j], one.input_angles[i][j]
                if output is not None and input_ is not None:
                    yield ModuleAngles(module, (labels[i], labels[j]), tuple(output), tuple(input_))

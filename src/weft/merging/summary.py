"""What a merge did, in a few lines for the person who asked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json
from weft.merging.checkpoints.model_card import MANIFEST
from weft.merging.plan import MergePlan

LOST = 0.05  # of the norm: more than this is worth a warning


@dataclass(frozen=True)
class MergeSummary:
    """Lines to print, and what to warn of."""

    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def summarise_merge(plan: MergePlan, out: Path) -> MergeSummary:
    """Of a merge whose result lies in `out`: the weights used, and of adapters the rank that was
    written and what it could not keep."""
    lines = [weights_line(plan)]
    if plan.parts.kind != "adapters":
        return MergeSummary(tuple(lines))
    manifest = read_json(out / MANIFEST)
    merge = manifest.get("merge", {}) if isinstance(manifest, dict) else {}
    ranks = [shape.rank for one in plan.parts.adapters for shape in one.shapes.values()]
    return _of_adapters(merge, max(ranks, default=0), lines)


def _of_adapters(merge: Mapping[str, Any], parts: int, lines: list[str]) -> MergeSummary:
    rank, modules = merge["written"]["rank"], merge["written"]["modules"]
    text = f"rank {rank} in {modules} module{'s' * (modules != 1)}; the parts have up to {parts}"
    truncation = merge.get("truncation")
    if truncation is None:
        more = "; --rank cuts it down, at a loss that is then printed" if rank > 2 * parts else ""
        return MergeSummary((*lines, f"{text}; nothing was cut off{more}"))
    worst = truncation["worst"]
    shares = (
        f"{_share(truncation['kept'])} of the norm kept, {_share(truncation['lost'])} cut off "
        f"(their squares add up to 1); worst in {worst['module']}: {_share(worst['kept'])} kept, "
        f"{_share(worst['lost'])} cut off"
    )
    lines.append(f"{text}; {shares}")
    if max(truncation["lost"], worst["lost"]) <= LOST:
        return MergeSummary(tuple(lines))
    warning = (
        f"rank {rank} can't hold what '{merge['method']}' gives: {_share(truncation['lost'])} of "
        f"the norm is cut off, {_share(worst['lost'])} in {worst['module']}; a larger --rank, or "
        "none, keeps more"
    )
    return MergeSummary(tuple(lines), (warning,))


def weights_line(plan: MergePlan) -> str:
    """`weights .2 each (default)`, or one for each part by its label."""
    default = " (the method's default)" if plan.default_weights else ""
    rows = set(plan.weights.table.values())  # rules too may give every tensor the same
    specs: Sequence[Any] = rows.pop() if len(rows) == 1 else plan.specs
    if not all(isinstance(spec, int | float) for spec in specs):
        return "weights by layer or name, as weft.json says"
    if len(set(specs)) == 1:
        each = " each" if len(specs) > 1 else ""
        return f"weights {_number(specs[0])}{each}{default}"
    pairs = zip(plan.parts.labels, specs, strict=True)
    return "weights " + ", ".join(f"{label} {_number(spec)}" for label, spec in pairs) + default


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-0.", "-.").removeprefix("0") if value else "0"


def _share(value: float) -> str:
    return f"{value:.0%}" if value < 0.995 or value == 1 else f"{value:.1%}"

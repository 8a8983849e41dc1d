"""Merging adapters, without a backbone in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from weft import __version__
from weft.adapters import Adapter
from weft.errors import WeftError
from weft.merging.linear import Space, linear_delta, linear_factors


def merge_adapters(
    parts: Sequence[Adapter], weights: Sequence[float] | None = None, *, space: Space = "delta"
) -> Adapter:
    """Σ λ_i θ_i of adapters of one backbone; weights are 1/K each unless given.

    `space: delta` sums the products ΔW = s·BA (rank Σr, exact); `space: factors` sums A and B
    separately (needs one rank and scaling). Refuses adapters of different backbones, target
    modules, ways to score items (`recommender`), or modules saved whole; weights are taken as they are and not normalised.
    """
    if not parts:
        raise WeftError("a merge needs at least one adapter")
    given = [1 / len(parts)] * len(parts) if weights is None else [float(w) for w in weights]
    if len(given) != len(parts):
        raise WeftError(f"{len(parts)} adapters need {len(parts)} weights, not {len(given)}")
    if not all(math.isfinite(weight) for weight in given):
        raise WeftError(f"the merge weights must be finite numbers, not {given}")
    _check_alike(parts, space)
    kernel = {"delta": linear_delta, "factors": linear_factors}[space]
    factors = {
        module: kernel([part.factors[module] for part in parts], given)
        for module in parts[0].factors
    }
    recipe = {"method": "linear", "space": space, "weights": given}
    return Adapter(factors, _manifest(parts, recipe))


def _check_alike(parts: Sequence[Adapter], space: Space) -> None:
    first = parts[0]
    for number, part in enumerate(parts[1:], start=2):
        if part.fingerprint != first.fingerprint:
            raise WeftError(
                f"adapter 1 belongs to backbone {first.manifest['backbone']['name']} "
                f"({first.fingerprint[:12]}…), adapter {number} to "
                f"{part.manifest['backbone']['name']} ({part.fingerprint[:12]}…)"
            )
        _check_recommenders(first, part, number)
        odd = set(part.factors) ^ set(first.factors)
        if odd:
            raise WeftError(f"module '{min(odd)}' is in only one of adapters 1 and {number}")
        for module, factors in first.factors.items():
            other = part.factors[module]
            same_outside = (
                factors.a.shape[1] == other.a.shape[1] and factors.b.shape[0] == other.b.shape[0]
            )
            same_inside = factors.rank == other.rank and factors.scaling == other.scaling
            if not same_outside or (space == "factors" and not same_inside):
                raise WeftError(
                    f"module '{module}': adapters 1 and {number} differ in shape, rank or scaling"
                )
    if any(part.saved for part in parts):
        raise WeftError("modules saved whole can't be merged by this method")


def _check_recommenders(first: Adapter, part: Adapter, number: int) -> None:
    """Factors trained to score items in one way say nothing when used in another."""
    one, other = (adapter.manifest.get("recommender") for adapter in (first, part))
    if one == other:
        return
    if not isinstance(one, dict) or not isinstance(other, dict):
        lacking = 1 if one is None else number
        raise WeftError(
            f"adapters 1 and {number} can't be merged: adapter {lacking} does not say how it "
            "scores items (recommender)"
        )
    field = min(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    raise WeftError(
        f"recommender.{field} is {one.get(field)} in adapter 1 and {other.get(field)} "
        f"in adapter {number}"
    )


def _manifest(parts: Sequence[Adapter], recipe: dict[str, Any]) -> dict[str, Any]:
    first = parts[0].manifest
    domains = dict.fromkeys(name for part in parts for name in part.manifest.get("domains", []))
    manifest = {
        "backbone": first["backbone"],
        "domains": list(domains),
        "data": {n: h for part in parts for n, h in part.manifest.get("data", {}).items()},
        "parents": [part.weights_hash for part in parts],
        "merge": recipe,
        "versions": {"weft": __version__},
    }
    if "recommender" in first:
        manifest["recommender"] = first["recommender"]
    return manifest

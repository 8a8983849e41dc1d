"""Sentences about a comparison, each only where its numbers support it."""

from __future__ import annotations

import math

from weft.merging.comparing.comparison import Contrast, Matrix, Row

ALIKE = 0.95  # cosine from which two parts are nearly the same
AGAINST = -0.1  # cosine below which two parts undo each other
APART = 0.05  # |cosine| up to which parts count as orthogonal
LOUDER = 3.0  # ratio of norms from which one part dominates
MIXED = 0.25  # share of elements with opposite signs that is worth a word
BY_CHANCE = 0.05  # how far from chance a share of conflicts may be and still be that
SHARED = 0.9  # overlap of two spaces that are nearly one
SWING = 0.2  # how far a layer's cosine must be from the whole's


def hints(contrast: Contrast) -> list[str]:
    """What the numbers mean for a merge, in plain words; empty where nothing stands out."""
    sentences = _zeros(contrast) + _lengths(contrast)
    if len(contrast.labels) > 1:
        sentences += [
            *_directions(contrast),
            *_signs(contrast),
            *_layers(contrast),
            *_spaces(contrast),
        ]
    return sentences


def _zeros(c: Contrast) -> list[str]:
    return [
        f"{label} changes nothing: its task vector is zero."
        for label, norm in zip(c.labels, c.whole.norms, strict=True)
        if norm == 0
    ]


def _lengths(c: Contrast) -> list[str]:
    norms = [(norm, label) for norm, label in zip(c.whole.norms, c.labels, strict=True) if norm]
    if len(norms) < 2:
        return []
    (least, small), (most, large) = min(norms), max(norms)
    if most < LOUDER * least:
        return []
    return [
        f"Norms differ {most / least:.1f}×: {large} dominates {small} in a sum with equal weights."
    ]


def _directions(c: Contrast) -> list[str]:
    cosines = [(value, i, j) for i, j in c.pairs if (value := c.whole.cosines[i][j]) is not None]
    out = []
    for value, i, j in cosines:
        pair = f"{c.labels[i]} and {c.labels[j]}"
        if value >= ALIKE:
            out.append(f"{pair} are nearly the same (cosine {value:.3f}): merging adds little.")
        elif value <= AGAINST:
            out.append(f"{pair} pull against each other (cosine {value:.3f}): a sum undoes a part.")
    largest = max((abs(value) for value, _, _ in cosines), default=1.0)
    if largest <= APART and c.whole.norm_of_mean is not None:
        out.append(
            f"The parts are nearly orthogonal (largest |cosine| {largest:.3f}): their mean is only "
            f"{c.whole.norm_of_mean:.0%} as long as they are, so a sum may need weights above 1/K."
        )
    return out


def _signs(c: Contrast) -> list[str]:
    """Against chance: unrelated parts disagree in half of what both change, and that is no alarm."""
    if c.whole.conflict is None or c.whole.conflict < MIXED:
        return []
    chance = c.chance_conflict
    conflict = f"Signs conflict in {c.whole.conflict:.0%} of the elements that several parts change"
    spread = 3 * math.sqrt(chance * (1 - chance) / max(1, c.whole.elements))
    if abs(c.whole.conflict - chance) <= max(BY_CHANCE, spread):
        return [f"{conflict}, as chance gives ({chance:.0%}): the parts' signs are unrelated."]
    if c.whole.conflict < chance:
        return [f"{conflict}, fewer than chance gives ({chance:.0%})."]
    more = f"more than chance gives ({chance:.0%})"
    return [f"{conflict}, {more}: the parts undo each other there; electing signs acts on it."]


def _layers(c: Contrast) -> list[str]:
    """The layer where the parts agree least, if it differs much from the whole."""
    whole = mean_cosine(c.whole, c.pairs)
    cosines = [
        (value, row.name) for row in c.layers if (value := mean_cosine(row, c.pairs)) is not None
    ]
    if whole is None or not cosines:
        return []
    least, name = min(cosines)
    if whole - least < SWING:
        return []
    return [f"The parts agree least in {name} (mean cosine {least:.3f}; overall {whole:.3f})."]


def mean_cosine(row: Row, pairs: list[tuple[int, int]]) -> float | None:
    """Over pairs; None where no pair has one."""
    known = [value for i, j in pairs if (value := row.cosines[i][j]) is not None]
    return math.fsum(known) / len(known) if known else None


def _spaces(c: Contrast) -> list[str]:
    out = []
    for what, overlap, chance in (
        ("read the same input directions (A)", c.whole.input_overlap, c.whole.input_chance),
        ("write to the same output directions (B)", c.whole.output_overlap, c.whole.output_chance),
    ):
        if overlap is not None and chance is not None:
            out += _shared(c, what, overlap, chance)
    return out


def _shared(c: Contrast, what: str, overlap: Matrix, chance: Matrix) -> list[str]:
    out = []
    for i, j in c.pairs:
        value, random = overlap[i][j], chance[i][j]
        # Large spaces overlap by chance alone: half of what is left must be shared too.
        if value is not None and random is not None and value >= SHARED and random <= value / 2:
            out.append(
                f"{c.labels[i]} and {c.labels[j]} {what}: overlap {value:.2f}, chance {random:.2f}."
            )
    return out

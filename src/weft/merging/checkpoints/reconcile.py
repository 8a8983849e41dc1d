"""Models of one architecture whose tensors are called or kept differently, brought together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from weft.errors import notice
from weft.merging.checkpoints.quantised import check_plain
from weft.merging.checkpoints.source_files import checkpoint_of
from weft.merging.checkpoints.views import Absent, Matched
from weft.merging.engine.method import Method
from weft.merging.engine.source import TensorSource
from weft.merging.engine.stream import pieces
from weft.merging.vocabulary.match import match_vocabularies
from weft.merging.vocabulary.rules import ROWS, TokenizerRules
from weft.merging.vocabulary.tensors import is_embedding, is_head


@dataclass(frozen=True, eq=False)
class Ready:
    """Sources that can be merged tensor by tensor, as far as names and rows go."""

    parts: tuple[TensorSource, ...]
    base: TensorSource | None


def bring_together(
    parts: Sequence[TensorSource],
    base: TensorSource | None,
    method: Method | None = None,
    *,
    absent: Sequence[bool] = (),
    tokenizer: TokenizerRules | None = None,
    dtype: torch.dtype | None = None,
) -> Ready:
    """The sources as a merge reads them.

    A part that is `absent` (of weight 0) is never read, where `method` leaves such parts out and no
    vocabulary is asked for. The
    others get the names of the first of them, where theirs lack or have one prefix more; tensors
    that a model is the same without (an output layer that is the embedding once more, counted
    positions) are left out where another source has none; and rows of embeddings mean the same
    tokens, or are aligned as `tokenizer` says. Notices name what was matched. Quantised
    weights and rows of different tokens are a `WeftError`.
    """
    gone = [False] * len(parts)
    if len(absent) == len(parts) and not all(absent) and method is not None and method.skips_zero:
        # A vocabulary that is asked for may be that of a part of weight 0, or have its tokens.
        gone = list(absent) if tokenizer is None or tokenizer.source == ROWS else gone
    gone = [out or isinstance(part, Absent) for part, out in zip(parts, gone, strict=True)]
    present = [part for part, out in zip(parts, gone, strict=True) if not out]
    sources = [*present, *([] if base is None else [base])]
    for source in sources:
        check_plain(source, dtype)
    sources = _match_names(_drop_doubles(_match_names(sources)))
    whole = None if base is None else sources[-1]
    aligned, origin = match_vocabularies(sources[: len(present)], whole, tokenizer)
    left = iter(aligned)
    sources_in_order = [
        Absent(part.label, aligned[0]) if out else next(left)
        for part, out in zip(parts, gone, strict=True)
    ]
    return Ready(tuple(sources_in_order), origin)


def _match_names(sources: Sequence[TensorSource]) -> list[TensorSource]:
    """The sources under the names of the first."""
    first = sources[0]
    matched = [first]
    for other in sources[1:]:
        names = _prefixed(first.specs, other.specs)
        if names is None:
            matched.append(other)
            continue
        here, there = next((a, b) for a, b in names.items() if a != b)
        notice(f"tensors of {other.label} are matched by name: its '{there}' is '{here}'")
        matched.append(Matched(other, names))
    return matched


def _prefixed(wanted: Mapping[str, object], names: Mapping[str, object]) -> dict[str, str] | None:
    """Wanted name -> name, where all names are wanted ones but for one prefix, more or less.

    None where they are the same as they are, or no prefix does it for all names that can be: a
    name that is left over on one side must be lacking on the other.
    """
    if wanted.keys() == names.keys():
        return None
    best: dict[str, str] = {}
    for more, less in _prefixes(wanted, names):
        pairs = {}
        for name in names:
            turned = name if name in wanted else f"{more}{name.removeprefix(less)}"
            if turned in wanted and (turned == name or name.startswith(less)):
                pairs[turned] = name
        if len(pairs) > len(best):
            best = pairs
    unchanged = sum(1 for turned, name in best.items() if turned == name)
    # Either side may have more (a head, say): that is then refused by name.
    if len(best) == unchanged or len(best) < min(len(wanted), len(names)):
        return None
    rest = {name: name for name in names if name not in set(best.values())}
    return {**best, **rest} if not rest.keys() & best.keys() else None


def _prefixes(
    wanted: Mapping[str, object], names: Mapping[str, object]
) -> Iterator[tuple[str, str]]:
    """(prefix to add, prefix to take away), as the first name without a partner allows."""
    lone = next((name for name in names if name not in wanted), None)
    if lone is None:
        return
    for name in wanted:
        if name.endswith(f".{lone}"):
            yield name.removesuffix(lone), ""
    words = lone.split(".")
    for at in range(1, len(words)):
        if ".".join(words[at:]) in wanted:
            yield "", ".".join(words[:at]) + "."


def _drop_doubles(sources: Sequence[TensorSource]) -> list[TensorSource]:
    """Without tensors that a source needs not have, where another one does without them: output
    layers that are an embedding once more, and numbers that follow from the configuration."""
    common = set.intersection(*(set(one.specs) for one in sources))
    reduced: list[TensorSource] = []
    for source in sources:
        why = {name: _needless(source, name) for name in source.specs if name not in common}
        drop = {name: reason for name, reason in why.items() if reason}
        if not drop:
            reduced.append(source)
            continue
        for reason in dict.fromkeys(drop.values()):
            name, *others = [name for name, one in drop.items() if one == reason]
            more = f" and {len(others)} more" if others else ""
            notice(f"'{name}'{more} of {source.label} is left out: {reason}")
        reduced.append(Matched(source, {n: n for n in source.specs if n not in drop}))
    return reduced


def _needless(source: TensorSource, name: str) -> str | None:
    """Why a model of this source is the same without a tensor."""
    spec = source.specs[name]
    if name.endswith("rotary_emb.inv_freq"):
        return "it follows from config.json"
    if name.rpartition(".")[2] == "position_ids" and not spec.dtype.is_floating_point:
        counted = torch.arange(spec.size)
        same = torch.equal(source.read(name, 0, spec.size).long(), counted)
        return "it counts positions" if same else None
    if not (is_head(name) or is_embedding(name)) or _untied(source):
        return None
    for other, other_spec in source.specs.items():
        partner = is_embedding(other) if len(spec.shape) > 1 else is_head(other)
        if partner and other_spec == spec and other != name and _equal(source, name, other):
            twin = "the embedding" if len(spec.shape) > 1 else f"'{other}'"
            return f"it is {twin} once more"
    return None


def _untied(source: TensorSource) -> bool:
    """Whether the configuration says that the output layer has weights of its own."""
    checkpoint = checkpoint_of(source)
    config = (checkpoint.config if checkpoint is not None else None) or {}
    return config.get("tie_word_embeddings") is False


def _equal(source: TensorSource, one: str, other: str) -> bool:
    return all(
        torch.equal(
            *(source.read(name, *piece).contiguous().view(torch.uint8) for name in (one, other))
        )
        for piece in pieces(source.specs[one], rows=False)
    )

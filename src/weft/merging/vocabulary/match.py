"""Whether rows of embeddings mean the same in all models of a merge; aligned where asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from weft.errors import MismatchError, NotFoundError, notice
from weft.merging.checkpoints.checkpoint import Checkpoint
from weft.merging.engine.source import TensorSource
from weft.merging.vocabulary.align import Aligned
from weft.merging.vocabulary.output import output_vocabulary
from weft.merging.vocabulary.rows import RowPlan, plan_rows
from weft.merging.vocabulary.rules import BASE, ROWS, UNION, TokenizerRules
from weft.merging.vocabulary.tensors import vocabulary_tensors
from weft.merging.vocabulary.tokens import (
    Vocabulary,
    first_difference,
    has_vocabulary,
    read_vocabulary,
    same_files,
)

_REMEDY = (
    "align rows by token (--tokenizer base or union), or say that rows mean the same in all "
    "(--tokenizer rows)"
)


@dataclass(frozen=True, eq=False)
class _Model:
    """A source with the vocabulary of its checkpoint, where it has one."""

    source: TensorSource
    axes: Mapping[str, int]  # its tensors with an axis of tokens

    @property
    def label(self) -> str:
        return self.source.label

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """Whose tokenizer files count; of a formula, its first checkpoint's."""
        step: TensorSource | None = self.source
        while step is not None and not isinstance(step, Checkpoint):
            step = getattr(step, "source", getattr(step, "lead", None))
        return step

    @property
    def folder(self) -> Path | None:
        """Of the tokenizer files, where there are any."""
        home = None if self.checkpoint is None else self.checkpoint.home
        return home if home is not None and has_vocabulary(home) else None

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        if isinstance(self.source, Aligned):
            return Vocabulary(Path(), self.source.output.ids)
        return None if self.folder is None else read_vocabulary(self.folder)

    def rows_of(self, name: str) -> int:
        return self.source.specs[name].shape[self.axes[name]]

    @property
    def rows(self) -> int:
        """How many rows all of its vocabulary tensors have."""
        return min(map(self.rows_of, self.axes), default=0)


def match_vocabularies(
    parts: Sequence[TensorSource], base: TensorSource | None, rules: TokenizerRules | None
) -> tuple[list[TensorSource], TensorSource | None]:
    """The parts and the base as they can be merged row by row.

    Without rules, tokenizers that give a row to different tokens are a `WeftError` that names the
    first such token; models without a tokenizer file are named in a notice. With rules, every
    model's rows are put where the output's vocabulary has their tokens.
    """
    sources = [*parts, *([] if base is None else [base])]
    if all(isinstance(source, Aligned) for source in sources):
        return list(parts), base  # as they came
    models = [_Model(source, vocabulary_tensors(source.specs)) for source in sources]
    if rules is not None and rules.source != ROWS:
        aligned = _align(models, base is not None, rules)
        return aligned[: len(parts)], None if base is None else aligned[-1]
    if rules is None and len(models) > 1 and models[0].axes:
        _compare(models)
    return list(parts), base


def _compare(models: Sequence[_Model]) -> None:
    known = [one for one in models if one.folder is not None]
    for other in known[1:]:
        _check_same(known[0], other)
    lacking = [one.label for one in models if one.folder is None and one.checkpoint is not None]
    if lacking and not known:
        notice(
            f"none of {_listed(lacking)} has a tokenizer file: row i of an embedding is taken to "
            "mean the same token in all"
        )
    elif lacking:
        have = "have" if len(lacking) > 1 else "has"
        notice(
            f"{_listed(lacking)} {have} no tokenizer file, so the rows of the embeddings are taken "
            f"to mean the same tokens as in {known[0].label}"
        )


def _check_same(one: _Model, other: _Model) -> None:
    assert one.folder is not None and other.folder is not None
    aligned = isinstance(one.source, Aligned) or isinstance(other.source, Aligned)
    if not aligned and one.rows == other.rows and same_files(one.folder, other.folder):
        return
    assert one.vocabulary is not None and other.vocabulary is not None
    a, b = one.vocabulary.ids, other.vocabulary.ids
    if a is b:
        return
    token = first_difference(a, b, (one.rows, other.rows))
    if token is None:
        return
    raise MismatchError(
        f"the tokenizers of {one.label} and {other.label} differ: token {token!r} is "
        f"{_place(a.get(token), one.rows)} in {one.label} and "
        f"{_place(b.get(token), other.rows)} in {other.label}; {_REMEDY}"
    )


def _place(row: int | None, rows: int) -> str:
    return "no row" if row is None or row >= rows else f"row {row}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _align(models: Sequence[_Model], with_base: bool, rules: TokenizerRules) -> list[TensorSource]:
    for one in models:
        if one.checkpoint is None or one.vocabulary is None:
            raise MismatchError(
                f"tokenizer: {one.label} has no tokenizer file, so its rows can't be aligned by "
                "token"
            )
    axes = models[0].axes
    if not axes:
        raise MismatchError(f"tokenizer: {models[0].label} has no embedding, so there are no rows")
    for one in models[1:]:
        odd = axes.items() ^ one.axes.items()
        if odd:
            raise MismatchError(
                f"tokenizer: tensor '{min(odd)[0]}' has an axis of tokens in {models[0].label} or "
                f"in {one.label}, not in both"
            )
    rules = rules.renamed(lambda name: _label(name, models))
    base = len(models) - 1 if with_base else None
    if rules.base is not None:
        base = [one.label for one in models].index(rules.base)
    owner = _owner(models, base, rules)
    assert owner.checkpoint is not None and owner.vocabulary is not None
    others = [one for one in models if one is not owner] if rules.source == UNION else []
    output = output_vocabulary(
        (owner.checkpoint, owner.vocabulary, owner.rows),
        [(one.vocabulary, one.rows) for one in others if one.vocabulary is not None],
        rules,
    )
    plans: dict[str, list[RowPlan]] = {}
    by_sizes: dict[tuple[int, ...], list[RowPlan]] = {}
    for name in axes:
        sizes = tuple(one.rows_of(name) for one in models)
        if sizes not in by_sizes:
            known = [
                (one.label, one.vocabulary.ids, size)
                for one, size in zip(models, sizes, strict=True)
                if one.vocabulary is not None
            ]
            by_sizes[sizes] = plan_rows(output.ids, output.rows, known, rules.tokens, base)
        plans[name] = by_sizes[sizes]
    donors = [one.source for one in models]
    return [
        Aligned(one.source, output, axes, {name: plans[name][k] for name in axes}, donors)
        for k, one in enumerate(models)
    ]


def _owner(models: Sequence[_Model], base: int | None, rules: TokenizerRules) -> _Model:
    """Whose tokenizer the output starts from."""
    if rules.source in (BASE, UNION):
        return models[0 if base is None else base]
    return next(one for one in models if one.label == rules.source)


def _label(name: str, models: Sequence[_Model]) -> str:
    """The label of the model that a rule names: by its label, or by its path."""
    for one in models:
        if name == one.label or (one.checkpoint is not None and _is_at(one.checkpoint, name)):
            return one.label
    known = ", ".join(one.label for one in models)
    raise NotFoundError(f"tokenizer: '{name}' is none of {known}")


def _is_at(checkpoint: Checkpoint, name: str) -> bool:
    from weft.merging.paths import locate

    return locate(name).resolve() == checkpoint.path.resolve()

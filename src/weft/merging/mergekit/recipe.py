"""mergekit's YAML, read as a weft recipe that does what mergekit documents.

What mergekit leaves implicit is stated: trimming per tensor to exactly k entries, signs elected by
weighted task vectors with a zero sum counting as positive, `normalize` and `rescale` by the
method's own default, sparse task vectors rescaled to their L1 norm, the first number of a gradient
for all that lies outside the layers. Weft computes in float32 where mergekit computes in `dtype`,
and its random masks are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from weft.errors import SettingError
from weft.merging.mergekit.forms import BaseUse, MergekitForm
from weft.merging.mergekit.methods import UNKNOWN, mergekit_methods
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.mergekit.slices import (
    FileSection,
    LayersOf,
    Listed,
    Model,
    OutputSlice,
    sliced_models,
    whole_models,
)
from weft.merging.mergekit.slices import path_of as _path
from weft.merging.recipe import MergeRecipe
from weft.settings import validate

_UNUSED = {"int8_mask": "it only saves mergekit memory"}


class _MergekitFile(FileSection):
    merge_method: str
    models: tuple[Model, ...] | None = None
    slices: tuple[OutputSlice, ...] | None = None
    base_model: Any = None
    parameters: dict[str, Any] | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: Any = None
    tokenizer: dict[str, Any] | None = None
    chat_template: str | None = None
    name: str | None = None


def translate(
    values: Mapping[str, Any],
    notice: Callable[[str], None],
    layers_of: LayersOf = lambda path: None,
) -> MergeRecipe:
    """A mergekit configuration as a recipe; `notice` is called with a sentence for each entry that
    has no effect here.

    `layers_of` gives the number of layers of the model at a path, None where it is not known: only
    with it are slices that leave layers out known from those that put every layer where it is.

    Raises `WeftError` for what weft can't do, by name: an unknown method, LoRA on the fly,
    a setting that differs where weft has one.
    """
    if values.get("modules"):
        raise SettingError("modules: weft merges whole models only")
    file = validate(_MergekitFile, values)
    form = _form(file.merge_method)
    listed = _listed(file, form.base, layers_of)
    reader = ParameterReader(
        file.merge_method,
        listed.parts,
        listed.base,
        listed.spans,
        file.parameters or {},
        file.dtype,
    )
    numbered = [text for text in reader.filters() if any(map(str.isdigit, text))]
    if listed.stacks and numbered:
        raise SettingError(
            f"filter '{min(numbered)}': stacked layers are numbered anew, so a filter with a number "
            "means one layer in a model and another in what comes out"
        )
    tokenizer = _tokenizer(file, listed, reader, notice)
    for sentence in _without_effect(file, listed, reader, form):
        notice(sentence)
    method, options = form.build(reader)
    parts = [listed.place(model) for model in reader.models]
    for option, values_of in options.items():
        parts = [part | {option: one} for part, one in zip(parts, values_of, strict=True)]
    fields: dict[str, Any] = {
        "method": method,
        "parts": parts,
        "dtype": file.out_dtype or file.dtype,
    }
    if form.ranks and file.dtype != "float32" and _leaves_out(method, options):
        fields["round_to"] = file.dtype or "stored"
    if form.base in ("origin", "optional") and reader.base is not None:
        base = listed.place(reader.base)
        fields["base"] = base.get("path") or {"slices": base["slices"]}
    if tokenizer is not None:
        fields["tokenizer"] = tokenizer
    return validate(MergeRecipe, fields)


def _form(merge_method: str) -> MergekitForm:
    if merge_method not in mergekit_methods():
        why = UNKNOWN.get(merge_method, "is not known")
        known = ", ".join(sorted(mergekit_methods()))
        raise SettingError(f"merge_method '{merge_method}' {why}; these work: {known}")
    return mergekit_methods()[merge_method]


def _without_effect(
    file: _MergekitFile, listed: Listed, reader: ParameterReader, form: MergekitForm
) -> Iterator[str]:
    """A sentence for each entry that changes nothing here."""
    if file.slices is not None and file.base_model is not None and listed.base is None:
        yield "base_model has no effect on slices here: the first slice's model says what it is"
    if file.name is not None:
        yield "'name' has no effect: it is for files of several merges"
    for name in sorted(reader.names() - set(form.parameters)):
        why = _UNUSED.get(name, f"{file.merge_method} has no such parameter")
        yield f"'{name}' has no effect: {why}"
    for name in sorted(reader.of_base()):
        yield f"'{name}' of the base_model has no effect: task vectors start from it"


def _leaves_out(method: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether entries are left out by their size."""
    cut = "density" in options or method.get("density", 1.0) < 1
    return bool(method["name"] == "arcee_fusion" or ("keep" in method and cut))


def _listed(file: _MergekitFile, use: BaseUse, layers_of: LayersOf) -> Listed:
    """The parts of the merge, and their parameters."""
    if (file.models is None) == (file.slices is None):
        raise SettingError("say models or slices, one of them")
    base = None if file.base_model is None else _path(file.base_model)
    if file.slices is not None:
        return sliced_models(file.slices, base, use, layers_of)
    if base is None and use in ("origin", "part"):
        raise SettingError(f"merge_method '{file.merge_method}' needs a base_model")
    return whole_models(file.models or (), base, use)


def _tokenizer(
    file: _MergekitFile, listed: Listed, reader: ParameterReader, notice: Callable[[str], None]
) -> dict[str, Any] | None:
    """Whose vocabulary comes out."""
    if file.chat_template is not None:
        notice("chat_template has no effect: the first model's files are copied")
    if file.tokenizer is None and file.tokenizer_source is None:
        return None
    if listed.stacks:
        _one_vocabulary(file, listed, notice)
        return None
    rules = dict(file.tokenizer or {})
    source = rules.pop("source", None) or file.tokenizer_source or "union"
    tokens = rules.pop("tokens", None) or {}
    if not isinstance(tokens, Mapping):
        raise SettingError("tokenizer.tokens is no mapping of tokens to rules")
    fields = {
        **rules,
        "source": source if source in ("base", "union") else _path(source),
        "tokens": {token: _token_rule(rule) for token, rule in tokens.items()},
    }
    if mergekit_methods()[file.merge_method].base == "ignored" and file.base_model is not None:
        fields["base"] = _path(file.base_model)  # one of the parts, as for mergekit
    return fields


def _one_vocabulary(file: _MergekitFile, listed: Listed, notice: Callable[[str], None]) -> None:
    """Models whose embedding and head are stacked have one vocabulary, or are refused when they are
    opened: a source that can only be that one changes nothing, any other is a `WeftError`."""
    rules = dict(file.tokenizer or {})
    source = rules.pop("source", None) or file.tokenizer_source or "union"
    if source == "base":
        source = file.base_model
    ends = {stack[k]["path"] for stack in listed.stacks.values() for k in (0, -1)}
    if any(rules.values()) or (source != "union" and (not source or _path(source) not in ends)):
        raise SettingError(
            "tokenizer: weft can't change the vocabulary of stacked layers; merge the stacks first"
        )
    notice("the tokenizer's source has no effect: models that are stacked have one vocabulary")


def _token_rule(rule: Any) -> Any:
    """A rule with paths for models."""
    if not isinstance(rule, Mapping):
        return rule
    source = rule.get("source")
    if isinstance(source, Mapping) and "kind" in source:
        if "model" in source:
            source = {**source, "model": _path(source["model"])}
    elif source is not None:
        source = _path(source)
    return {**rule, "source": source}

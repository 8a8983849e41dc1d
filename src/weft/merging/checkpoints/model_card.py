"""What lies beside merged weights: the parent's configuration and tokenizer, a manifest, a card."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.travelling import carry_files
from weft.artifacts.versions import library_versions
from weft.backbones.companions import copy_beside
from weft.backbones.files import CONFIG, INDEX, with_dtype
from weft.merging.checkpoints.checkpoint import Checkpoint
from weft.merging.checkpoints.layer_stack import Stacked
from weft.merging.checkpoints.shards import Shard
from weft.merging.checkpoints.source_files import checkpoint_of
from weft.merging.engine.source import TensorSource
from weft.merging.vocabulary.output import OutputVocabulary
from weft.safe_text import fenced, markdown, yaml_text

MANIFEST, CARD = "weft.json", "README.md"


@dataclass(frozen=True)
class Parent:
    """A part or base as the manifest names it: file name (or "content") -> BLAKE3."""

    label: str
    files: Mapping[str, str]

    def described(self) -> dict[str, Any]:
        return {"label": self.label, "files": dict(self.files)}


@dataclass(frozen=True)
class Story:
    """What was merged into what, for people and programs that find the output."""

    recipe: Mapping[str, Any]
    parents: Sequence[Parent]
    base: Parent | None
    dtype: torch.dtype | None
    files: Mapping[str, str]  # output file -> BLAKE3
    left_out: Mapping[str, str] = field(default_factory=dict)  # file beside the weights -> why
    notes: Sequence[str] = ()


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """The index that transformers reads, where there are several files."""
    if len(shards) > 1:
        total = sum(one.bytes for shard in shards for one in shard.layout.tensors.values())
        weight_map = {name: shard.name for shard in shards for name in shard.layout.tensors}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX, index)


def copy_companions(
    source: Checkpoint | None,
    folder: Path,
    dtype: torch.dtype | None,
    vocabulary: OutputVocabulary | None = None,
) -> None:
    """Configuration, tokenizer and whatever else a copy needs; the configuration then says `dtype`,
    and both have the tokens of `vocabulary`. A notice names what is left out."""
    if source is None:
        return
    copy_beside(source.beside, folder)
    config = source.config
    if config is not None and dtype is not None:
        config = with_dtype(config, str(dtype).removeprefix("torch."))
    if config is not None and vocabulary is not None:
        config = _with_rows(config, vocabulary.rows)
        vocabulary.extend_files(folder)
    if config is not None and (config is not source.config or isinstance(source, Stacked)):
        write_json(folder / CONFIG, dict(config))  # of stacked layers their number is its own


def _with_rows(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """vocab_size set where it is stated, also for the text part of a model of several."""
    text = config.get("text_config")
    inner = {"text_config": _with_rows(text, rows)} if isinstance(text, dict) else {}
    stated = "vocab_size" in config or not inner
    return {**config, **inner, **({"vocab_size": rows} if stated else {})}


def write_story(folder: Path, name: str, story: Story, config: Mapping[str, Any] | None) -> None:
    """`weft.json` and the model card."""
    dtype = None if story.dtype is None else str(story.dtype).removeprefix("torch.")
    manifest = {
        "kind": "merged checkpoint",
        "merge": dict(story.recipe),
        "parents": [parent.described() for parent in story.parents],
        "base": None if story.base is None else story.base.described(),
        "dtype": dtype,
        "files": dict(story.files),
        **({"left_out": dict(story.left_out)} if story.left_out else {}),
        **({"notes": list(story.notes)} if story.notes else {}),
        "versions": _versions(),
    }
    write_json(folder / MANIFEST, manifest)
    (folder / CARD).write_text(_card(name, story, config, manifest), "utf-8")


def carry_recommender(parts: Sequence[TensorSource], folder: Path) -> None:
    """How the parts score items stays in what they are merged into, where all of them agree; so do the
    files that travel with their weights, which must agree."""
    checkpoints = [one for one in map(checkpoint_of, parts) if one is not None]
    carry_files([one.path for one in checkpoints], folder)
    recommenders = [_recommender_of(part) for part in parts]
    if recommenders[0] and all(one == recommenders[0] for one in recommenders):
        write_json(folder / MANIFEST, read_json(folder / MANIFEST) | recommenders[0])


def _recommender_of(part: TensorSource) -> dict[str, Any]:
    checkpoint = checkpoint_of(part)
    path = None if checkpoint is None else checkpoint.path / MANIFEST
    manifest = read_json(path) if path is not None and path.is_file() else None
    if not isinstance(manifest, dict):
        return {}
    return {key: manifest[key] for key in ("recommender", "split") if key in manifest}


@functools.cache
def _versions() -> dict[str, str]:
    return library_versions()


def _card(
    name: str, story: Story, config: Mapping[str, Any] | None, manifest: Mapping[str, Any]
) -> str:
    parents = [*story.parents, *([] if story.base is None else [story.base])]
    front = {
        "library_name": "transformers",
        "tags": ["merge", "weft"],
        "base_model": list(dict.fromkeys(parent.label for parent in parents)),
        "base_model_relation": "merge",
    }
    rows = [
        f"| {'base' if parent is story.base else 'part'} | {_cell(parent.label)} | {_cell(file)} "
        f"| `{digest[:16]}…` |"
        for parent in parents
        for file, digest in parent.files.items()
    ]
    versions = ", ".join(f"{key} {value}" for key, value in manifest["versions"].items())
    sections = [
        f"---\n{_yaml(front)}---",
        f"# {markdown(name)}",
        f"{len(story.parents)} checkpoints merged into one by weft, without training.",
        "## Recipe",
        fenced(_yaml(story.recipe), "yaml"),
        "## What was merged",
        "| | name | file | BLAKE3 |\n|---|---|---|---|\n" + "\n".join(rows),
        *_left_out(story),
        "## Use",
        fenced(_use(name, config), "python"),
        f"Made with {versions}. `{MANIFEST}` has every hash in full.",
    ]
    return "\n\n".join(sections) + "\n"


def _left_out(story: Story) -> list[str]:
    """What else to know before use: files that are missing here, and what was taken for granted."""
    lines = [f"- {_cell(note)}" for note in story.notes]
    lines += [
        f"- {_cell(name)} was not copied: {_cell(why)}" for name, why in story.left_out.items()
    ]
    return ["## To know", "\n".join(lines)] if lines else []


def _yaml(value: Any) -> str:
    plain = json.loads(json.dumps(value))  # tuples and the like
    return yaml_text(plain)


def _cell(text: str) -> str:
    return markdown(text)


def _use(name: str, config: Mapping[str, Any] | None) -> str:
    architectures = (config or {}).get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    auto = "AutoModelForCausalLM" if str(first).endswith("ForCausalLM") else "AutoModel"
    if config is None:
        return (
            "from safetensors.torch import load_file\n\n"
            f"tensors = load_file({name + '/model.safetensors'!r})\n"
        )
    return f"from transformers import {auto}\n\nmodel = {auto}.from_pretrained({name!r})\n"

"""What lies beside merged weights: the parent's configuration and tokenizer, a manifest, a card."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.stages import library_versions
from weft.backbones.files import CONFIG, INDEX
from weft.merging.checkpoint import Checkpoint
from weft.merging.output import Shard
from weft.merging.source import Source

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


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """The index that transformers reads, where there are several files."""
    if len(shards) > 1:
        total = sum(one.bytes for shard in shards for one in shard.layout.tensors.values())
        weight_map = {name: shard.name for shard in shards for name in shard.layout.tensors}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX, index)


def copy_companions(source: Checkpoint | None, folder: Path, dtype: torch.dtype | None) -> None:
    """Configuration and tokenizer files; the configuration then says `dtype`."""
    if source is None:
        return
    for path in source.companions:
        copy = folder / path.relative_to(source.path)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    if dtype is not None and source.config is not None:
        name = str(dtype).removeprefix("torch.")
        write_json(folder / CONFIG, _with_dtype(source.config, name))


def _with_dtype(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Set where it is said, also for the parts of a model of several."""
    changed = {
        key: _with_dtype(value, name) if key.endswith("_config") and _says(value) else value
        for key, value in config.items()
    }
    said = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    return changed | dict.fromkeys(said, name)


def _says(value: Any) -> bool:
    return isinstance(value, dict) and ("dtype" in value or "torch_dtype" in value)


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
        "versions": _versions(),
    }
    write_json(folder / MANIFEST, manifest)
    (folder / CARD).write_text(_card(name, story, config, manifest), "utf-8")


def carry_recommender(parts: Sequence[Source], folder: Path) -> None:
    """How the parts score items stays in what they are merged into, where all of them agree."""
    said = [_recommender_of(part) for part in parts]
    if said[0] and all(one == said[0] for one in said):
        write_json(folder / MANIFEST, read_json(folder / MANIFEST) | said[0])


def _recommender_of(part: Source) -> dict[str, Any]:
    path = part.path / MANIFEST if isinstance(part, Checkpoint) else None
    found = read_json(path) if path is not None and path.is_file() else None
    if not isinstance(found, dict):
        return {}
    return {key: found[key] for key in ("recommender", "split") if key in found}


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
        f"# {name}",
        f"{len(story.parents)} checkpoints merged into one by weft, without training.",
        "## Recipe",
        f"```yaml\n{_yaml(story.recipe)}```",
        "## What was merged",
        "| | name | file | BLAKE3 |\n|---|---|---|---|\n" + "\n".join(rows),
        "## Use",
        f"```python\n{_use(name, config)}```",
        f"Made with {versions}. `{MANIFEST}` has every hash in full.",
    ]
    return "\n\n".join(sections) + "\n"


def _yaml(value: Any) -> str:
    plain = json.loads(json.dumps(value))  # tuples and the like
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


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

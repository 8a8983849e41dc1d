"""The files of a model's folder, and writing a changed copy of one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from weft.artifacts.atomic import read_json, write_json
from weft.errors import MismatchError

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
COMPANIONS = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "chat_templates/*.jinja",
    "additional_chat_templates/*.jinja",
    "vocab.*",
    "vocabulary.json",
    "merges.txt",
    "bpe.codes",
    "bpe.model",
    "dict.txt",
    "normalizer.json",
    "source.spm",
    "target.spm",
    "tokenizer.model",
    "tokenizer.model.v*",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "*.tiktoken",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "feature_extractor_config.json",
    "audio_tokenizer_config.json",
    "modules.json",
    "sentence_*_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
"""Files beside the weights that a copy of the model needs, as shell patterns; never code."""


def check_documents(folder: Path) -> None:
    """A `DataError` for a JSON file of a model's folder that is broken, or costly to parse; before
    a library reads it that has no such bounds."""
    for pattern in (*COMPANIONS, INDEX):
        for path in folder.glob(pattern):
            if path.suffix == ".json":
                read_json(path)


def write_copy(source: Path, model: nn.Module, folder: Path) -> None:
    """The model folder `source` once more in an existing `folder`, with `model`'s parameters in it.

    Tensors keep the names and files that they have in `source`, so that copies of one source can be
    merged; parameters are written in their own dtype, what the model does not have (an unused
    head) as it is. Raises `MismatchError` where the source lacks a parameter that is trained.
    """
    left = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for parameter, name in parameters_of(tensors, model).items():
            tensors[name] = left.pop(parameter)
        save_file(tensors, folder / path.name, metadata={"format": "pt"})
    if lost := trained & set(left):
        raise MismatchError(f"{source} has no tensor for the model's parameter '{min(lost)}'")
    copy_files(source, folder)
    config = read_json(folder / CONFIG)
    dtypes = {p.dtype for p in model.parameters()}
    if isinstance(config, dict) and len(dtypes) == 1:
        write_json(folder / CONFIG, with_dtype(config, str(dtypes.pop()).removeprefix("torch.")))


def with_dtype(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with that dtype where it states one, also for the parts of a model of
    several."""
    changed = {
        key: with_dtype(value, name) if key.endswith("_config") and _states_dtype(value) else value
        for key, value in config.items()
    }
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    return changed | dict.fromkeys(keys, name)


def _states_dtype(value: Any) -> bool:
    return isinstance(value, dict) and ("dtype" in value or "torch_dtype" in value)


def tensor_names(folder: Path) -> list[str]:
    """The names of all tensors in a model's folder."""
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names += list(file.keys())
    return names


def parameters_of(names: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Parameter of the model -> the one of `names`, of its folder's tensors, that it is: the same
    name, or the same behind the prefix of a model with a head (`bert.`)."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    parameters = {name for name, _ in model.named_parameters()}
    matches = {}
    for name in names:
        short = name.removeprefix(prefix)
        if name in parameters or short in parameters:
            matches[name if name in parameters else short] = name
    return matches


def copy_files(source: Path, folder: Path) -> None:
    """Configuration, tokenizer and the index of weights, where there are any. There is no
    notice of code that is left out: a model that needs it was not loaded in the first place."""
    from weft.backbones.companions import companions_of, copy_beside

    copy_beside(companions_of(source), folder, notify=False)
    if (source / INDEX).is_file():
        shutil.copyfile(source / INDEX, folder / INDEX)

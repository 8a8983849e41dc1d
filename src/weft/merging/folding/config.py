"""The configuration and the tokenizer of a folded checkpoint, where the adapter changes them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json, write_json
from weft.backbones.files import COMPANIONS, CONFIG
from weft.errors import MismatchError
from weft.merging.folding.folded import Folded
from weft.merging.lora.token_rows import HEAD, INPUTS

_NO_TOKENIZER = (
    CONFIG,
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "feature_extractor_config.json",
    "modules.json",
    "sentence_*_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
TOKENIZER = tuple(pattern for pattern in COMPANIONS if pattern not in _NO_TOKENIZER)
"""The files of a tokenizer, as shell patterns."""
_CLASSES = {  # task -> transformers' table of classes by kind of model
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}
_LABELS = ("classifier.weight", "classifier.out_proj.weight", "score.weight")


def adjust_config(folder: Path, folded: Folded) -> dict[str, Any] | None:
    """Write config.json anew where the vocabulary, the tying or the head is another than the
    backbone's; returns it."""
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not isinstance(config, dict):
        return None
    changed = dict(config)
    rows = changed_vocabulary(folded)
    if rows is not None:
        changed = _set(changed, "vocab_size", rows)
    if folded.untied:
        changed = _set(changed, "tie_word_embeddings", False)
    labels = _labels(folded)
    if labels is not None and labels != _known_labels(config):
        changed["id2label"] = {str(k): f"LABEL_{k}" for k in range(labels)}
        changed["label2id"] = {f"LABEL_{k}": k for k in range(labels)}
        changed.pop("num_labels", None)
    name = _class(folded, config)
    if name is not None:
        changed["architectures"] = [name]
    if changed != config:
        write_json(folder / CONFIG, changed)
    return changed


def take_tokenizer(adapter: Path, folder: Path) -> bool:
    """Put the adapter's tokenizer in the place of the backbone's, if its folder has one."""
    files = _tokenizer_files(adapter)
    if not any(name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt") for name in files):
        return False
    for name in _tokenizer_files(folder):
        (folder / name).unlink()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(adapter / name, folder / name)
    return True


def _tokenizer_files(folder: Path) -> list[str]:
    paths = {path for pattern in TOKENIZER for path in folder.glob(pattern) if path.is_file()}
    return [path.relative_to(folder).as_posix() for path in sorted(paths)]


def changed_vocabulary(folded: Folded) -> int | None:
    """The number of tokens where the adapter changes it; the same at both ends, or a `WeftError`."""
    ends = {
        name: piece
        for name, piece in folded.pieces.items()
        if name.rpartition(".")[0].rpartition(".")[2] in (HEAD, *INPUTS, "shared")
        and len(piece.spec.shape) == 2
    }
    rows = {n: one.spec.shape[0] for n, one in ends.items() if one.saved is not None}
    both = {n: one.spec.shape[0] for n, one in ends.items()} if rows else {}
    if len(set(both.values())) > 1:
        sizes = " and ".join(f"{count} in '{name}'" for name, count in both.items())
        raise MismatchError(f"{folded.label} has another number of tokens at each end: {sizes}")
    count = next(iter(rows.values()), None)
    return None if count == folded.backbone.vocab_size else count


def _set(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Where the key stands: of a model of several parts, in the one of text."""
    text = config.get("text_config")
    inside = isinstance(text, dict) and (key in text or key not in config)
    changed = dict(config)
    if inside and isinstance(text, dict):
        changed["text_config"] = {**text, key: value}
    if not inside or key in config:
        changed[key] = value
    return changed


def _labels(folded: Folded) -> int | None:
    """The number of classes of a head that the adapter brings."""
    for name, piece in folded.pieces.items():
        if piece.saved is not None and name.endswith(_LABELS):
            return piece.spec.shape[0]
    return None


def _known_labels(config: Mapping[str, Any]) -> int:
    named = config.get("id2label")
    return len(named) if isinstance(named, dict) else int(config.get("num_labels", 2))


def check_added(folded: Folded) -> None:
    """A `WeftError` where the adapter brings a tensor for which no class of transformers has a
    place: it would be left out without a word when the folded checkpoint is loaded."""
    added = [name for name in folded.added if name != f"{HEAD}.weight"]
    if added and _class(folded, folded.backbone.config or {}) is None:
        raise MismatchError(
            f"{folded.label} saves '{added[0]}' whole, which {folded.backbone.label} lacks, and "
            "nothing says of which class the model with it is (task_type, auto_mapping)"
        )


def _class(folded: Folded, config: Mapping[str, Any]) -> str | None:
    """The class of a backbone with a head that it had not before."""
    header = folded.adapter.header
    if set(folded.added) <= {f"{HEAD}.weight"}:
        return None
    if header.task_type in _CLASSES:
        from transformers.models.auto import modeling_auto

        table: Mapping[str, Any] = getattr(modeling_auto, _CLASSES[header.task_type])
        name = table.get(str(config.get("model_type")))
        return name if isinstance(name, str) else None
    named = (header.auto_mapping or {}).get("base_model_class")
    return named if isinstance(named, str) else None

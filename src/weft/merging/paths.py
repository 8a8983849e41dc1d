"""Where what a recipe names lies, and sizes as people write them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from weft.backbones.load import KNOWN, find_backbone
from weft.errors import SettingError

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for kind, base in (("B", 1000), ("iB", 1024))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(path: Path) -> bool:
    """Whether this is a folder with an adapter's configuration."""
    return os.path.lexists(path / ADAPTER_CONFIG)


def bytes_of(size: str | int) -> int:
    """'5GB', '512 MiB' or a number of bytes; KB is 1000 bytes, KiB 1024.

    >>> bytes_of("1.5kB"), bytes_of("512 MiB")
    (1500, 536870912)
    """
    match = _SIZE.fullmatch(str(size))
    units = {unit.lower(): factor for unit, factor in _UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise SettingError(f"'{size}' is no size in bytes; say for example 5GB or 512MiB")
    count = int(float(match[1]) * units[match[2].lower()])
    if count < 1:
        raise SettingError(f"a size of '{size}' holds nothing")
    return count


def locate(path: str | Path, folder: Path = Path()) -> Path:
    """A path relative to a folder; else a backbone's short name (minilm), or an `owner/name` in
    the Hugging Face cache."""
    there = folder / Path(path).expanduser()
    if not there.exists() and str(path) in KNOWN:
        return find_backbone(str(path))
    if not there.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        with suppress(HFValidationError, LocalEntryNotFoundError):
            return Path(snapshot_download(str(path), local_files_only=True))
    return there

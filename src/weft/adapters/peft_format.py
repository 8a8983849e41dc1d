"""An adapter as a folder that PEFT loads: weights, configuration, and weft's manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field, FiniteFloat
from torch import Tensor

from weft.adapters.adapter import MANIFEST, Adapter
from weft.adapters.contents import TOKENS, Contents, sort_tensors
from weft.adapters.factors import Factors, Half, LazyFactors, LazyTensors
from weft.adapters.header import TokenRows
from weft.adapters.peft_config import LoraConfigFile
from weft.adapters.tensor_file import TensorFile, open_tensors
from weft.artifacts.documents import read_object
from weft.artifacts.pickles import pickle_advice, pickled_weights
from weft.artifacts.tensors import Stored, read_header
from weft.errors import DataError, NotFoundError, WeftError
from weft.settings import StrictModel
from weft.settings.files import validate_file

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
HASH, SCALING = "weights_hash", "scaling"  # entries of the manifest that belong to the files


def load_adapter(path: Path | str, *, lazy: bool = False, backbone: str | None = None) -> Adapter:
    """Read an adapter folder written by weft or PEFT.

    A folder from PEFT itself has no `weft.json`, so no fingerprint: its backbone is known by the
    name in its configuration alone. It merges with adapters of the same stated name, but can't be
    put on a backbone, as nothing says that it is the right one. `backbone` is the name for a folder
    that names none. With `lazy`, factors and tensors are read
    from the file each time they are asked for and take no memory; the hash that the manifest
    states is still checked at once, in one pass over the file.

    Raises `NotFoundError` where there is no folder, and `DataError` for one that is not whole.

    >>> import tempfile
    >>> from weft.adapters import save_adapter
    >>> factors = Factors(a=torch.ones(1, 3), b=torch.ones(2, 1), scaling=0.5)
    >>> manifest = {"backbone": {"name": "tiny", "fingerprint": "0" * 64}, "domains": ["toys"]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(Adapter({"layer.0.query": factors}, manifest), Path(folder) / "toys")
    ...     adapter = load_adapter(Path(folder) / "toys")
    >>> adapter.manifest["domains"], adapter.shapes
    (['toys'], {'layer.0.query': FactorShape(out=2, inside=3, rank=1, scaling=0.5)})
    """
    path = Path(path)
    if not path.is_dir():
        raise NotFoundError(f"{path} is not an adapter folder")
    config = LoraConfigFile(path / CONFIG)
    manifest = _manifest_in(path, config, backbone)
    _check_readable(path)
    file = open_tensors(path / WEIGHTS)
    contents = sort_tensors(file, config, manifest.get(SCALING, {}), _backbone_tensors(config))

    def half(module: str, half: Half) -> Tensor:
        return file.read(contents.half(module, half.upper())).float()

    places = contents.places
    factors: Mapping[str, Factors] = LazyFactors(contents.shapes, half)
    names = tuple(contents.saved)
    saved: Mapping[str, Tensor] = LazyTensors(names, lambda name: file.read(places[name]))
    if not lazy:
        factors, saved = dict(factors), dict(saved)
    tokens = {
        module: TokenRows(indices, file.read(places[module + TOKENS]))
        for module, indices in contents.tokens.items()
    }
    dtype = _dtype(file, contents)
    adapter = Adapter(factors, manifest, saved, tokens, config.header, dtype, config.declares)
    stated = manifest.get(HASH)
    if stated is not None and stated != adapter.weights_hash:
        raise DataError(
            f"{path / WEIGHTS} does not match {MANIFEST} ({HASH} differs): one of them was changed"
        )
    return adapter


def load_adapters(
    paths: Sequence[Path],
    *,
    lazy: bool = True,
    threads: int | None = None,
    backbone: str | None = None,
) -> list[Adapter]:
    """Several adapters, in the order of their paths; hashes are checked side by side."""
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda path: load_adapter(path, lazy=lazy, backbone=backbone), paths))


def _check_readable(folder: Path) -> None:
    """A `DataError` that says how to convert weights that are there as a pickle alone."""
    pickled = pickled_weights(folder, ("adapter_model",))
    if pickled and not (folder / WEIGHTS).exists():
        raise DataError(pickle_advice(folder, pickled, WEIGHTS))


def _dtype(file: TensorFile, contents: Contents) -> torch.dtype | None:
    """The dtype of all factors in the file; None where they differ."""
    halves = (contents.half(module, side) for module in contents.shapes for side in "AB")
    dtypes = {file.tensors[name].dtype for name in halves}
    return dtypes.pop() if len(dtypes) == 1 else None


def _backbone_tensors(config: LoraConfigFile) -> Mapping[str, Stored]:
    """The backbone's tensors, not read, where it is a folder on this machine; else none."""
    name = config.entries.base_model_name_or_path
    folder = Path(name) if name else None
    try:
        if folder is None or not (folder / "config.json").is_file():
            return {}
        files = sorted(folder.glob("*.safetensors"))
        return {name: one for path in files for name, one in read_header(path).tensors.items()}
    except (OSError, ValueError, WeftError):  # the backbone is not needed here
        return {}


class _ManifestPart(StrictModel):
    """Entries that are checked where a file has them; others may be there."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _NamedBackbone(_ManifestPart):
    name: str = Field(min_length=1)
    fingerprint: str = Field(min_length=1)


class _Manifest(_ManifestPart):
    """The entries of weft.json that weft itself reads."""

    backbone: _NamedBackbone
    domains: list[str] = []
    data: dict[str, str] = {}
    recommender: dict[str, Any] | None = None
    scaling: dict[str, FiniteFloat] = {}
    weights_hash: str | None = None


def _manifest_in(folder: Path, config: LoraConfigFile, backbone: str | None) -> dict[str, Any]:
    """The manifest in `weft.json`; without one, the backbone's name in PEFT's configuration or
    from the caller."""
    name = config.entries.base_model_name_or_path or backbone
    if (folder / MANIFEST).exists():
        return _read_manifest(folder / MANIFEST)
    if not name:
        raise DataError(
            f"{folder / CONFIG} names no backbone (base_model_name_or_path), "
            f"and there is no {MANIFEST} that does: name it there, or with --backbone or --base"
        )
    return {"backbone": {"name": name, "fingerprint": f"name:{name}"}}


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_object(path)
    validate_file(path, _Manifest, {"backbone": {}, **manifest}, DataError)
    return manifest

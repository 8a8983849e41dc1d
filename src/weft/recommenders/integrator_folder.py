"""A trained integrator as a folder, which names its adapters by hash.

integrator.json            kind and settings, backbone, recommender, adapters by hash
integrator.safetensors     what was trained: integrator and head
adapters/<hash>/           each adapter, a PEFT folder as any other
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from torch import Tensor

from weft.adapters import Adapter, load_adapter, save_adapter
from weft.adapters.tensor_file import open_tensors, write_tensors
from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.hashing import hash_arrays
from weft.errors import DataError, MismatchError, NotFoundError, located
from weft.integration.integrator import IntegratorSettings
from weft.integration.kinds import integrator_settings
from weft.settings import StrictModel
from weft.settings.files import read_manifest

MANIFEST, WEIGHTS, ADAPTERS = "integrator.json", "integrator.safetensors", "adapters"


@dataclass(frozen=True, eq=False)
class TrainedIntegrator:
    """Settings, trained tensors and the adapters that they belong to, in their order.

    `manifest` carries `backbone` {name, fingerprint}, `recommender` (how it scores), `best` (the
    adapter whose head training began with), and what else is known: domains, data, seed, versions.
    """

    settings: IntegratorSettings
    tensors: Mapping[str, Tensor]
    adapters: Sequence[Adapter]
    manifest: Mapping[str, Any]

    @property
    def weights_hash(self) -> str:
        """Of settings, trained tensors and adapters."""
        arrays = {name: tensor.float().numpy() for name, tensor in self.tensors.items()}
        rest = [self.settings.model_dump(mode="json"), [a.weights_hash for a in self.adapters]]
        return hash_arrays(arrays, rest)


class _AdapterEntry(StrictModel):
    model_config = ConfigDict(extra="ignore")

    hash: str = Field(min_length=1)
    domains: list[str] = []


class _Backbone(StrictModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    fingerprint: str


class _Manifest(StrictModel):
    """The entries of integrator.json that weft reads."""

    model_config = ConfigDict(extra="ignore")

    integrator: dict[str, Any]
    backbone: _Backbone
    recommender: dict[str, Any]
    adapters: list[_AdapterEntry] = Field(min_length=1)
    best: int = 0
    weights_hash: str


def write_integrator(trained: TrainedIntegrator, folder: Path) -> None:
    """Write a trained integrator's files into an existing folder, its adapters included."""
    entries = [
        {"hash": one.weights_hash, "domains": one.manifest.get("domains", [])}
        for one in trained.adapters
    ]
    plan = {name: (t.dtype, tuple(t.shape)) for name, t in trained.tensors.items()}
    write_tensors(folder / WEIGHTS, plan, trained.tensors.__getitem__)
    for one in trained.adapters:
        place = folder / ADAPTERS / one.weights_hash
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            save_adapter(one, place)
    parts = {"integrator": trained.settings.model_dump(mode="json"), "adapters": entries}
    write_json(
        folder / MANIFEST, {**trained.manifest, **parts, "weights_hash": trained.weights_hash}
    )


def load_integrator(path: Path) -> TrainedIntegrator:
    """Read an integrator's folder and its adapters.

    An adapter that is named and not there, or is another one, is a `WeftError`; so are tensors that
    are not those of integrator.json.
    """
    manifest = _read(path / MANIFEST)
    adapters = []
    for one in manifest.adapters:
        place = path / ADAPTERS / one.hash
        if not place.is_dir():
            of = f" (of {', '.join(one.domains)})" if one.domains else ""
            raise NotFoundError(
                f"{path / MANIFEST} names the adapter {one.hash[:12]}…{of}, and {place} is missing"
            )
        adapter = load_adapter(place)
        if adapter.weights_hash != one.hash:
            raise MismatchError(
                f"{place} is not the adapter that {MANIFEST} names (its hash differs)"
            )
        adapters.append(adapter)
    with located(f"{path / MANIFEST}: integrator"):
        settings = integrator_settings(manifest.integrator)
    if not 0 <= manifest.best < len(adapters):
        raise DataError(f"{path / MANIFEST}: best: there is no adapter {manifest.best}")
    file = open_tensors(path / WEIGHTS)
    tensors = {name: file.read(name) for name in file.tensors}
    trained = TrainedIntegrator(settings, tensors, adapters, read_json(path / MANIFEST))
    if trained.weights_hash != manifest.weights_hash:
        raise MismatchError(f"{path / WEIGHTS} is not what {MANIFEST} names (weights_hash differs)")
    return trained


def _read(path: Path) -> _Manifest:
    return read_manifest(path, _Manifest)

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
from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.artifacts.documents import read_object
from weft.artifacts.hashing import hash_arrays, short_hashes
from weft.backbones import Precision, load_backbone
from weft.backbones.load import named_backbone
from weft.data.catalogue import save_catalogue
from weft.data.domain import Catalogue
from weft.data.source import checked
from weft.errors import WeftError
from weft.integration.kinds import AnyIntegratorSettings, integrator_settings
from weft.recommenders.cross_encoder import CrossEncoderSettings
from weft.recommenders.integrated import Integrated
from weft.recommenders.item_counts import ItemCounts
from weft.settings import StrictModel

SAID, WEIGHTS, ADAPTERS = "integrator.json", "integrator.safetensors", "adapters"


@dataclass(frozen=True, eq=False)
class TrainedIntegrator:
    """Settings, trained tensors and the adapters that they belong to, in their order.

    `manifest` carries `backbone` {name, fingerprint}, `recommender` (how it scores), `best` (the
    adapter whose head training began with), and what else is known: domains, data, seed, versions.
    """

    settings: AnyIntegratorSettings
    tensors: Mapping[str, Tensor]
    adapters: Sequence[Adapter]
    manifest: Mapping[str, Any]

    @property
    def weights_hash(self) -> str:
        """Of settings, trained tensors and adapters."""
        arrays = {name: tensor.float().numpy() for name, tensor in self.tensors.items()}
        said = [self.settings.model_dump(mode="json"), [a.weights_hash for a in self.adapters]]
        return hash_arrays(arrays, said)


class _Named(StrictModel):
    model_config = ConfigDict(extra="ignore")

    hash: str = Field(min_length=1)
    domains: list[str] = []


class _Backbone(StrictModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    fingerprint: str


class _Said(StrictModel):
    """The entries of integrator.json that weft reads."""

    model_config = ConfigDict(extra="ignore")

    integrator: dict[str, Any]
    backbone: _Backbone
    recommender: dict[str, Any]
    adapters: list[_Named] = Field(min_length=1)
    best: int = 0
    weights_hash: str


def is_integrator(path: Path) -> bool:
    """Whether a folder is a trained integrator's."""
    return (path / SAID).is_file()


def write_integrator(trained: TrainedIntegrator, folder: Path) -> None:
    """Write a trained integrator's files into an existing folder, its adapters included."""
    named = [
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
    said = {"integrator": trained.settings.model_dump(mode="json"), "adapters": named}
    write_json(folder / SAID, {**trained.manifest, **said, "weights_hash": trained.weights_hash})


def save_integrator(
    trained: TrainedIntegrator,
    catalogue: Catalogue | None,
    path: Path,
    *,
    replace: bool = False,
    counts: ItemCounts | None = None,
) -> None:
    """Write the folder, with the catalogue that it ranks, whole or not at all."""
    with new_directory(path, replace=replace) as folder:
        write_integrator(trained, folder)
        if catalogue is not None:
            save_catalogue(catalogue, folder)
        if counts is not None:
            counts.save(folder)


def load_integrator(path: Path) -> TrainedIntegrator:
    """Read an integrator's folder and its adapters.

    An adapter that is named and not there, or is another one, is a `WeftError`; so are tensors that
    are not those of integrator.json.
    """
    said = _read(path / SAID)
    adapters = []
    for one in said.adapters:
        place = path / ADAPTERS / one.hash
        if not place.is_dir():
            of = f" (of {', '.join(one.domains)})" if one.domains else ""
            raise WeftError(f"{path / SAID} names the adapter {one.hash[:12]}…{of}, and {place} "
                            "is missing")  # fmt: skip
        adapter = load_adapter(place)
        if adapter.weights_hash != one.hash:
            raise WeftError(f"{place} is not the adapter that {SAID} names (its hash differs)")
        adapters.append(adapter)
    for field, check in (
        ("recommender", lambda: checked(CrossEncoderSettings, said.recommender)),
        ("integrator", lambda: integrator_settings(said.integrator)),
    ):
        try:
            settings = check()
        except WeftError as error:
            raise WeftError(f"{path / SAID}: {field}: {error}") from None
    assert not isinstance(settings, CrossEncoderSettings)
    if not 0 <= said.best < len(adapters):
        raise WeftError(f"{path / SAID}: best: there is no adapter {said.best}")
    file = open_tensors(path / WEIGHTS)
    tensors = {name: file.read(name) for name in file.tensors}
    trained = TrainedIntegrator(settings, tensors, adapters, read_json(path / SAID))
    if trained.weights_hash != said.weights_hash:
        raise WeftError(f"{path / WEIGHTS} is not what {SAID} says (weights_hash differs)")
    return trained


def _read(path: Path) -> _Said:
    values = read_object(path)
    try:
        return checked(_Said, values)
    except WeftError as error:
        raise WeftError(f"{path}: {error}") from None


def integrated_recommender(
    trained: TrainedIntegrator,
    catalogue: Catalogue | None = None,
    *,
    precision: Precision = "auto",
    device: str = "cpu",
    manifest: Path | None = None,
) -> Integrated:
    """A recommender, for use, out of a trained integrator and its backbone by name; `manifest` is
    the file that names it."""
    said = trained.manifest["backbone"]
    name = said["name"] if manifest is None else named_backbone(said["name"], manifest)
    backbone = load_backbone(name, precision=precision, device=device)
    if backbone.fingerprint != said["fingerprint"]:
        one, other = short_hashes(said["fingerprint"], backbone.fingerprint)
        raise WeftError(
            f"the integrator belongs to backbone {said['name']} ({one}), "
            f"not to {backbone.name} ({other})"
        )
    return Integrated(
        backbone,
        checked(CrossEncoderSettings, trained.manifest["recommender"]),
        trained.adapters,
        trained.settings,
        catalogue,
        best=trained.manifest.get("best", 0),
        tensors=trained.tensors,
    )


def load_integrated(
    path: Path, catalogue: Catalogue, *, precision: Precision = "auto", device: str = "cpu"
) -> tuple[TrainedIntegrator, Integrated]:
    """An integrator's folder and the recommender in it, over a catalogue."""
    trained = load_integrator(path)
    made = integrated_recommender(
        trained, catalogue, precision=precision, device=device, manifest=path / SAID
    )
    return trained, made

"""What a recommender's folder may hold beside its catalogue, recognised in this one place.

    weft.json, adapter_*           an adapter, a valid PEFT folder                  SavedAdapter
    weft.json, a model's files     a model trained or merged in full                SavedCheckpoint
    integrator.*, adapters/        an integrator and its adapters                   SavedIntegrator
    weft.json alone                the untrained backbone (zero-shot)               SavedZeroShot
    weft.json, own files           what has no backbone: counts, tables, a network  SavedAlone

`weft.json` (or integrator.json) has in `recommender` how items are scored, in `split` under which
split it was trained, and in `artifacts` which files travel with the weights, by hash.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.travelling import INTEGRATOR, MANIFEST, check_files, copy_travelling
from weft.data.domain import Catalogue
from weft.errors import DataError, MismatchError, NotFoundError, SettingError, located
from weft.recommenders.contract import BackboneRecommender, Recommender, RecommenderSettings
from weft.recommenders.kinds import make_recommender, recommender_class, recommender_settings

if TYPE_CHECKING:
    import torch

    from weft.adapters import Adapter
    from weft.backbones import Precision
    from weft.recommenders.integrator_folder import TrainedIntegrator

MANIFESTS = (MANIFEST, INTEGRATOR, "adapter_config.json")
LEAVE_ONE_OUT = "leave_one_out"


@dataclass(frozen=True)
class Opening:
    """How a recommender is opened. `cache` is a folder for item vectors; with `light` it starts
    sooner where it can, with the same bits; `backbone` takes the place of the one that the folder
    names."""

    precision: Precision = "auto"
    device: str = "cpu"
    cache: Path | None = None
    light: bool = False
    backbone: str | None = None


@dataclass(frozen=True, eq=False)
class SavedForm(ABC):
    """What a folder holds, read as far as it is checked; `folder` is None before it is written."""

    manifest: Mapping[str, Any]
    folder: Path | None = None

    file: ClassVar[str] = MANIFEST
    needs_backbone: ClassVar[bool] = True

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it; what is missing or damaged is a `WeftError` that names the file."""
        return cls(_manifest_of(folder / cls.file), folder)

    @property
    def stated_in(self) -> str:
        """The file that a message names."""
        return self.file if self.folder is None else str(self.folder / self.file)

    @property
    def settings(self) -> RecommenderSettings:
        """How items are scored; a `WeftError` that names the file where it does not say."""
        block = self.manifest.get("recommender")
        if self.folder is not None and not (self.folder / self.file).exists():
            raise NotFoundError(
                f"{self.stated_in} does not exist, which says how a recommender scores items"
            )
        if not isinstance(block, dict):
            raise DataError(f"{self.stated_in} does not say how this recommender scores items")
        with located(f"{self.stated_in}: recommender"):
            return recommender_settings(block)

    @property
    def split(self) -> Any:
        """The split under which it was trained: other splits may test what it has seen."""
        return self.manifest.get("split", LEAVE_ONE_OUT)

    def may_have_trained_on(self, domain: str) -> bool:
        """Whether a domain's users may have been in its training."""
        return domain in self.manifest.get("domains", [domain])

    def recommender(
        self,
        catalogue: Catalogue | None,
        opening: Opening | None = None,
        *,
        settings: RecommenderSettings | None = None,
    ) -> Recommender:
        """The recommender over a catalogue; other `settings` score the same weights in another
        way."""
        opening = opening or Opening()
        if self.folder is not None:
            check_files(self.folder)
        recommender = self._open(catalogue, settings or self.settings, opening)
        recommender.cache = opening.cache
        if self.folder is not None:
            recommender.read(self.folder)
        return recommender

    @abstractmethod
    def _open(
        self, catalogue: Catalogue | None, settings: RecommenderSettings, opening: Opening
    ) -> Recommender: ...

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Write it into an existing folder, files that travel with it too; entries of `manifest` take
        the place of its own."""
        self._write(folder, {**self.manifest, **manifest})
        if self.folder is not None:
            copy_travelling(self.folder, folder)

    @abstractmethod
    def _write(self, folder: Path, manifest: dict[str, Any]) -> None: ...

    def _backbone(self, opening: Opening) -> str:
        """The backbone's name, for loading."""
        if opening.backbone is not None:
            return opening.backbone
        from weft.backbones.load import named_backbone

        entry = self.manifest.get("backbone")
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise DataError(f"{self.stated_in}: backbone.name: it names no backbone")
        return name if self.folder is None else named_backbone(name, self.folder / self.file)


@dataclass(frozen=True, eq=False)
class SavedAlone(SavedForm):
    """What needs no backbone: `Recommender.write` wrote it. Folders of earlier versions hold
    popularity and have no `recommender` but `kind: popularity`."""

    needs_backbone = False

    @property
    def settings(self) -> RecommenderSettings:
        if self.manifest.get("kind") == "popularity" and "recommender" not in self.manifest:
            return recommender_settings({"kind": "popularity"})
        return super().settings

    def _open(
        self, catalogue: Catalogue | None, settings: RecommenderSettings, opening: Opening
    ) -> Recommender:
        return make_recommender(None, settings, catalogue, device=opening.device)

    def _write(self, folder: Path, manifest: dict[str, Any]) -> None:
        assert self.folder is not None
        for source in self.folder.iterdir():
            if source.suffix == ".safetensors" and source.is_file():
                link_or_copy(source, folder / source.name)
        write_json(folder / MANIFEST, manifest)


@dataclass(frozen=True, eq=False)
class SavedZeroShot(SavedForm):
    """The backbone as it is: `backbone` {name, fingerprint} and `recommender` are all there is."""

    @classmethod
    def of(cls, backbone: str, settings: RecommenderSettings) -> Self:
        """Of a backbone by name, without loading it."""
        from weft.backbones.load import stated_name

        entry = {"name": stated_name(backbone), "fingerprint": _fingerprint(backbone)}
        return cls({"backbone": entry, "recommender": settings.model_dump(mode="json")})

    def may_have_trained_on(self, domain: str) -> bool:
        return False

    def _open(
        self, catalogue: Catalogue | None, settings: RecommenderSettings, opening: Opening
    ) -> Recommender:
        name = self._backbone(opening)
        recommender = make_recommender(
            name, settings, catalogue, precision=opening.precision, device=opening.device,
            light=opening.light,
        )  # fmt: skip
        stated, there = self.manifest["backbone"].get("fingerprint"), recommender.weights_hash
        if stated != there:
            raise MismatchError(
                f"{self.folder} was measured on the backbone {self.manifest['backbone']['name']} "
                f"({stated}), and the one of this name here is another ({there})"
            )
        return recommender

    def _write(self, folder: Path, manifest: dict[str, Any]) -> None:
        write_json(folder / MANIFEST, {**manifest, "kind": "zero_shot"})


@cache
def _fingerprint(backbone: str) -> str:
    from weft.backbones.load import find_backbone, fingerprint_of

    return fingerprint_of(find_backbone(backbone))


@dataclass(frozen=True, eq=False)
class SavedCheckpoint(SavedForm):
    """A model trained in full, or merged: the folder is a backbone as any other, with how it scores
    in its weft.json."""

    def _open(
        self, catalogue: Catalogue | None, settings: RecommenderSettings, opening: Opening
    ) -> Recommender:
        return make_recommender(
            str(self.folder), settings, catalogue, precision=opening.precision,
            device=opening.device, light=opening.light,
        )  # fmt: skip

    def _write(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Weights are linked where the file system allows it: one model for many catalogues takes
        the place of one."""
        assert self.folder is not None
        for source in sorted(self.folder.rglob("*")):
            if source.is_file() and source.name != MANIFEST:
                copy = folder / source.relative_to(self.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(source, copy)
        write_json(folder / MANIFEST, manifest)


@dataclass(frozen=True, eq=False)
class SavedAdapter(SavedForm):
    """An adapter; factors are written in float32, or rounded to `dtype`."""

    adapter: Adapter = field(kw_only=True)
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, adapter: Adapter, dtype: torch.dtype | None = None) -> Self:
        """Of an adapter in memory."""
        return cls(adapter.manifest, adapter=adapter, dtype=dtype)

    @classmethod
    def read(cls, folder: Path) -> Self:
        from weft.adapters import load_adapter

        adapter = load_adapter(folder)
        return cls(adapter.manifest, folder, adapter=adapter)

    def _open(
        self, catalogue: Catalogue | None, settings: RecommenderSettings, opening: Opening
    ) -> Recommender:
        return make_recommender(
            self._backbone(opening), settings, catalogue, adapter=self.adapter,
            precision=opening.precision, device=opening.device, light=opening.light,
        )  # fmt: skip

    def _write(self, folder: Path, manifest: dict[str, Any]) -> None:
        from weft.adapters import write_adapter

        write_adapter(replace(self.adapter, manifest=manifest), folder, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class SavedIntegrator(SavedForm):
    """A trained integrator with its adapters."""

    trained: TrainedIntegrator = field(kw_only=True)

    file = INTEGRATOR

    @classmethod
    def read(cls, folder: Path) -> Self:
        from weft.recommenders.integrator_folder import load_integrator

        trained = load_integrator(folder)
        return cls(trained.manifest, folder, trained=trained)

    @classmethod
    def of(cls, trained: TrainedIntegrator) -> Self:
        """Of a trained integrator in memory."""
        return cls(trained.manifest, trained=trained)

    def _open(
        self, catalogue: Catalogue | None, settings: RecommenderSettings, opening: Opening
    ) -> Recommender:
        from weft.artifacts.hashing import short_hashes
        from weft.backbones import load_backbone
        from weft.recommenders.integrated import IntegratedBackbone

        stated, kind = self.manifest["backbone"], recommender_class(settings.kind)
        if not issubclass(kind, BackboneRecommender):
            raise SettingError(
                f"{self.stated_in}: a {settings.kind} has no backbone to integrate in"
            )
        backbone = load_backbone(
            self._backbone(opening), precision=opening.precision, device=opening.device,
            head=kind.backbone_head,
        )  # fmt: skip
        if backbone.fingerprint != stated["fingerprint"]:
            one, other = short_hashes(stated["fingerprint"], backbone.fingerprint)
            raise MismatchError(
                f"the integrator belongs to backbone {stated['name']} ({one}), "
                f"not to {backbone.name} ({other})"
            )
        integrated = IntegratedBackbone(
            backbone,
            self.trained.adapters,
            self.trained.settings,
            best=self.manifest.get("best", 0),
            tensors=self.trained.tensors,
        )
        return kind(integrated, settings, catalogue)

    def _write(self, folder: Path, manifest: dict[str, Any]) -> None:
        from weft.recommenders.integrator_folder import write_integrator

        write_integrator(replace(self.trained, manifest=manifest), folder)


_BY_KIND: Mapping[str, type[SavedForm]] = {
    "recommender": SavedAlone,
    "popularity": SavedAlone,
    "zero_shot": SavedZeroShot,
    "checkpoint": SavedCheckpoint,
    "merged checkpoint": SavedCheckpoint,
}


def is_recommender(folder: Path) -> bool:
    """Whether a folder is a recommender's, not one that holds several."""
    return any((folder / name).is_file() for name in MANIFESTS)


def form_in(folder: Path) -> type[SavedForm]:
    """Which form a recommender's folder has; nothing but its manifest is read."""
    if (folder / INTEGRATOR).is_file():
        return SavedIntegrator
    if not (folder / MANIFEST).is_file():
        return SavedAdapter
    return _BY_KIND.get(str(_manifest_of(folder / MANIFEST).get("kind")), SavedAdapter)


def read_form(folder: Path) -> SavedForm:
    """What a recommender's folder holds."""
    if not is_recommender(folder):
        raise NotFoundError(
            f"{folder} is no recommender's folder: it has none of {', '.join(MANIFESTS)}"
        )
    return form_in(folder).read(folder)


def _manifest_of(file: Path) -> dict[str, Any]:
    values = read_json(file)
    if not isinstance(values, dict):
        raise DataError(f"{file} holds no JSON object")
    return values


def link_or_copy(source: Path, copy: Path) -> None:
    """Link a file where the file system allows it, else copy it."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)

"""Domains: prepared from their folder, and what others take of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from weft.artifacts.atomic import read_json
from weft.data.catalogue import load_catalogue, save_catalogue
from weft.data.domain import Catalogue, Domain, IntArray
from weft.data.filters import Filters, apply_filters, describe
from weft.data.folder import MANIFEST, load_domain, save_domain
from weft.data.mall import mall
from weft.data.splits import SplitSettings, make_split, sample_train
from weft.errors import NotFoundError
from weft.evaluation.candidates import train_counts
from weft.learning.probes import Probes, load_probes, save_probes, sequences
from weft.stages.stage import OUTSIDE_KEY, Workspace
from weft.systems.recipe import Mall
from weft.systems.stages.base import RecipeStage

DOMAIN = "domain"
COUNTS = "counts.npy"


@dataclass(frozen=True, kw_only=True, eq=False)
class PrepareDomain(RecipeStage):
    """A domain from its folder, or from the generated mall, filtered."""

    name: str
    filters: Filters = field(default_factory=Filters)
    mall: Mall | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)  # of the files in `path`
    path: Path | None = field(default=None, metadata=OUTSIDE_KEY)

    def describe(self) -> str:
        return f"domain {self.name}"

    def run(self, workspace: Workspace) -> None:
        domain, source, removed = self.open()
        save_domain(domain, workspace.out / DOMAIN, source=source, filters=removed)

    def open(self) -> tuple[Domain, dict[str, Any], Any]:
        """(the domain, its hash before the filters, what they removed), before the stage is done."""
        if self.mall is not None:
            generated = _mall(self.mall.seed, self.mall.users, self.mall.items)
            if self.name not in generated:
                raise NotFoundError(
                    f"the mall has no domain '{self.name}'; it has {', '.join(generated)}"
                )
            domain = generated[self.name]
        else:
            assert self.path is not None
            domain = load_domain(self.path, self.name)
        source = {"hash": domain.hash}
        domain, removed = apply_filters(domain, self.filters)
        return domain, source, describe(removed)

    def domain(self, run: Path) -> Domain:
        return load_domain(self.folder(run) / DOMAIN)

    def source_hash(self, run: Path) -> str | None:
        """The domain's hash as `weft data inspect` prints it: of its folder, before the filters."""
        source = read_json(self.folder(run) / DOMAIN / MANIFEST).get("source", {})
        value = source.get("hash") if isinstance(source, dict) else None
        return value if isinstance(value, str) else None


@lru_cache(maxsize=1)
def _mall(seed: int, users: int, items: int) -> Mapping[str, Domain]:
    return mall(seed, users, items)


@dataclass(frozen=True, kw_only=True, eq=False)
class TakeCatalogue(RecipeStage):
    """A domain's catalogue and nothing else of it."""

    domain: PrepareDomain

    def describe(self) -> str:
        return f"catalogue of {self.domain.name}"

    def run(self, workspace: Workspace) -> None:
        save_catalogue(self.domain.domain(workspace.run).items, workspace.out)

    def catalogue(self, run: Path) -> Catalogue:
        return load_catalogue(self.folder(run))


@dataclass(frozen=True, kw_only=True, eq=False)
class CountItems(RecipeStage):
    """How often each item was bought in training: for probes that are `popular` alone."""

    domain: PrepareDomain
    split: SplitSettings

    def describe(self) -> str:
        return f"count items of {self.domain.name}"

    def run(self, workspace: Workspace) -> None:
        split = make_split(self.domain.domain(workspace.run), self.split)
        np.save(workspace.out / COUNTS, np.asarray(train_counts(split.train)))

    def counts(self, run: Path) -> IntArray:
        """[items] int64"""
        counts: IntArray = np.load(self.folder(run) / COUNTS)
        return counts


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawSequences(RecipeStage):
    """As many real training sequences as the catalogue has items, or all: a control of learning."""

    domain: PrepareDomain
    split: SplitSettings
    seed: int

    def describe(self) -> str:
        return f"sequences of {self.domain.name}"

    def run(self, workspace: Workspace) -> None:
        domain = self.domain.domain(workspace.run)
        train = make_split(domain, self.split).train
        drawn = sample_train(train, len(domain.items), self.seed)
        save_probes(sequences(drawn.histories(), drawn.targets), workspace.out)

    def probes(self, run: Path) -> Probes:
        return load_probes(self.folder(run))

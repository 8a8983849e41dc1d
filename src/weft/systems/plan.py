"""From a recipe to stages: the parts that every system shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from weft.artifacts.atomic import read_json
from weft.artifacts.hashing import hash_file, hash_json
from weft.backbones.load import dtype_of, find_backbone
from weft.data.catalogue import FILE as CATALOGUE
from weft.data.catalogue import load_catalogue
from weft.data.titles import require_texts
from weft.errors import WeftError
from weft.recommenders.kinds import AnySettings
from weft.stages.stage import Stage
from weft.systems.common_stages import (
    branch_seed,
    evaluate_recommender,
    get_catalogue,
    get_domain,
    train_branch,
    train_checkpoint,
)
from weft.systems.recipe import Branches, Study
from weft.training.batches import seed_of

Rows = Mapping[str, tuple[str, Stage | None]]
"""Row name -> (what it is, the stage of its adapter; None: the zero-shot backbone)."""


@dataclass(frozen=True)
class Plan:
    """A recipe bound to its data folder, backbone and device."""

    recipe: Study
    data: Path | None
    device: str

    @cached_property
    def scoring(self) -> dict[str, Any]:
        """The settings of every stage that encodes text."""
        name = self.recipe.backbone
        return {
            "backbone": {"name": name, "files": _files_hash(find_backbone(name))},
            "recommender": self.recipe.recommender.model_dump(mode="json"),
            "precision": str(dtype_of(self.recipe.precision)).removeprefix("torch."),
            "device": self.device,
        }

    @cached_property
    def blocks(self) -> int | None:
        """The backbone's transformer blocks, where its configuration says how many."""
        config = read_json(find_backbone(self.recipe.backbone) / "config.json")
        count = config.get("num_hidden_layers") if isinstance(config, dict) else None
        return count if isinstance(count, int) else None

    @cached_property
    def split(self) -> Any:
        """The recipe's split, as JSON."""
        return self.recipe.evaluate.model_dump(mode="json")["split"]

    @cached_property
    def domains(self) -> dict[str, Stage]:
        """Domain name -> its stage, in the recipe's order."""
        return {spec.name: self._domain(spec.name) for spec in self.recipe.domains}

    def _domain(self, name: str) -> Stage:
        spec = next(one for one in self.recipe.domains if one.name == name)
        settings: dict[str, Any] = {"name": name, "filters": spec.filters.model_dump(mode="json")}
        if self.recipe.mall is not None:
            generated = self.recipe.mall.model_dump(mode="json")
            return Stage(get_domain, settings | {"mall": generated}, {}, f"domain {name}")
        if self.data is None:
            raise WeftError("this recipe reads domains from folders: say where with --data")
        folder = (self.data / (spec.path or name)).resolve()
        if not folder.is_dir():
            raise WeftError(f"domain '{name}': there is no folder {folder}")
        if (folder / CATALOGUE).is_file():
            require_texts(name, load_catalogue(folder))
        hashes = {p.name: hash_file(p) for p in sorted(folder.glob("*.parquet"))}
        settings |= {"mall": None, "hashes": hashes}
        return Stage(get_domain, settings, {}, f"domain {name}", places={"path": str(folder)})

    def catalogue(self, name: str) -> Stage:
        """A domain's catalogue, and nothing else of it."""
        return Stage(get_catalogue, {}, {"domain": self.domains[name]}, f"catalogue of {name}")

    def branch(
        self,
        names: list[str],
        seed: int,
        *,
        longer: int = 1,
        twin: int = 0,
        how: Branches | None = None,
        draw: int | None = None,
        said: str = "",
    ) -> Stage:
        """One branch on these domains' examples, trained as the recipe's branches or as `how`: an
        adapter, or a checkpoint where all parameters are trained.

        The LoRA start and the drawn examples depend on `seed` alone, with `draw` the examples on
        that instead; batches and dropout also on the set of domains and the `twin` number. `said`
        is added to the label.
        """
        names = [name for name in self.domains if name in names]  # one order whoever asks
        branches = how or self.recipe.branches
        kind = "+".join(names)
        settings = {
            **self.scoring,
            "recommender": self.recipe.recommender.for_training().model_dump(mode="json"),
            "split": self.split,
            "branch": kind,
            "examples": branches.examples,
            "train": branches.loop(longer=longer),
            "validation": self.validation(branches.validation.users, 10)
            if branches.validation
            else None,
            "data_seed": seed_of(seed, "data") if draw is None else draw,
            "seed": branch_seed(seed, names, twin),
        }
        extra = (f" ×{longer}" if longer > 1 else "") + (f" twin {twin}" if twin else "") + said
        label = f"train {kind}{extra}, seed {seed}"
        parents = {f"domain{i}": self.domains[name] for i, name in enumerate(names)}
        aside = {"aside": branches.aside()}
        if branches.parameters == "all":
            return Stage(train_checkpoint, settings, parents, label, aside)
        settings["lora"] = branches.lora.model_dump(mode="json")
        settings["init_seed"] = seed_of(seed, "lora")
        return Stage(train_branch, settings, parents, label, aside)

    def validation(self, users: int, at: int) -> dict[str, Any]:
        """How a stage measures validation users: as the recipe measures test users, but fewer,
        and among candidates where it has any; of two ways to treat histories, unmasked."""
        evaluate = self.recipe.evaluate
        changes: dict[str, Any] = {
            "users": users, "at": (at,), "full": evaluate.candidates is None,
        }  # fmt: skip
        if evaluate.mask_history == "both":
            changes["mask_history"] = False
        return evaluate.model_copy(update=changes).model_dump(mode="json")

    def evaluation(
        self,
        target: str,
        row: str,
        adapter: Stage | None,
        floor: str = "",
        seed: int | None = None,
        scorer: AnySettings | None = None,
        more: Mapping[str, Stage] | None = None,
        users: int | None = None,
    ) -> Stage:
        """The ranks of one recommender on one target's test users; `scorer` are other settings
        than the recipe's for how it scores, `more` are further parents, `users` another
        number of test users."""
        evaluate = self.recipe.evaluate
        if users is not None:
            evaluate = evaluate.model_copy(update={"users": users})
        settings: dict[str, Any] = {
            "evaluate": evaluate.model_dump(mode="json"),
            "floor": floor,
            "show_users": self.recipe.show_users,
        }
        if floor != "popularity":
            settings |= self.scoring
        if scorer is not None:  # a row of its own, whose suggestions are not shown
            settings["recommender"] = scorer.model_dump(mode="json")
            settings["show_users"] = 0
        parents = {"domain": self.domains[target]}
        if adapter is not None:
            parents["adapter"] = adapter
        parents |= more or {}
        label = f"evaluate {row} on {target}" + ("" if seed is None else f", seed {seed}")
        return Stage(evaluate_recommender, settings, parents, label)


class Sketch(Plan):
    """A plan with neither data nor backbone, for what can be known of a recipe without them: its
    rows, and all that planning refuses. Its stages can't be run."""

    def __init__(self, recipe: Study) -> None:
        super().__init__(recipe, None, "cpu")

    @cached_property
    def scoring(self) -> dict[str, Any]:
        return {
            "backbone": {"name": self.recipe.backbone, "files": ""},
            "recommender": self.recipe.recommender.model_dump(mode="json"),
            "precision": "float32",
            "device": self.device,
        }

    @cached_property
    def blocks(self) -> int | None:
        return None

    def _domain(self, name: str) -> Stage:
        return Stage(get_domain, {"name": name}, {}, f"domain {name}")


def _files_hash(folder: Path) -> str:
    """Of all that decides a backbone's vectors: weights, configuration, tokenizer, pooling."""
    kinds = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "1_Pooling/*.json")
    files = sorted({path for kind in kinds for path in folder.glob(kind)})
    return hash_json([[str(path.relative_to(folder)), hash_file(path)] for path in files])


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"

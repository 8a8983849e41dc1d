"""From a recipe to stages: the parts that every system shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from weft.artifacts.atomic import read_json
from weft.artifacts.hashing import hash_file, hash_json
from weft.backbones import Precision
from weft.backbones.load import dtype_of, find_backbone
from weft.data.catalogue import FILE as CATALOGUE
from weft.data.catalogue import load_catalogue
from weft.data.splits import SplitSettings
from weft.data.titles import require_texts
from weft.errors import NotFoundError, SettingError
from weft.evaluation.protocol import EvaluationSettings
from weft.recommenders.contract import RecommenderSettings
from weft.recommenders.kinds import recommender_class
from weft.systems.recipe import Branches, DomainSpec, StudyRecipe
from weft.systems.stages.domains import CountItems, PrepareDomain, TakeCatalogue
from weft.systems.stages.evaluation import (
    EvaluatePopularity,
    EvaluateRecommender,
    EvaluateWeights,
    EvaluateZeroShot,
)
from weft.systems.stages.scoring import ScoringSettings
from weft.systems.stages.training import LearnFiles, TrainBranch, TrainCheckpoint, branch_seed
from weft.systems.stages.weights import AdapterStage, CheckpointStage, WeightsStage
from weft.training.batches import seed_of

PRECISIONS: dict[torch.dtype, Precision] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}


@dataclass(frozen=True)
class BranchOptions:
    """What distinguishes a branch from the one that the recipe's `branches:` describe."""

    longer: int = 1  # times the epochs
    twin: int = 0  # another number: other batches and dropout
    branches: Branches | None = None  # in place of the recipe's
    data_seed: int | None = None  # of the drawn examples, in place of the run's
    label: str = ""  # is added to the label
    start: AdapterStage | CheckpointStage | None = None  # where training goes on from


@dataclass(frozen=True)
class EvaluationOptions:
    """What distinguishes an evaluation from the one that the recipe's `evaluate:` describes."""

    seed: int | None = None  # of the run that its weights are of, for the label
    recommender: RecommenderSettings | None = None  # other settings for how it scores
    users: int | None = None  # another number of test users


@dataclass(frozen=True)
class Plan:
    """A recipe bound to its data folder, backbone and device."""

    recipe: StudyRecipe
    data: Path | None
    device: str

    @cached_property
    def scoring(self) -> ScoringSettings:
        """The settings of every stage that reads text."""
        return ScoringSettings(
            backbone=self.recipe.backbone,
            files=backbone_hash(find_backbone(self.recipe.backbone)),
            recommender=self.recipe.recommender,
            precision=PRECISIONS[dtype_of(self.recipe.precision)],
            device=self.device,
        )

    @cached_property
    def blocks(self) -> int | None:
        """The backbone's transformer blocks, where its configuration says how many."""
        config = read_json(find_backbone(self.recipe.backbone) / "config.json")
        count = config.get("num_hidden_layers") if isinstance(config, dict) else None
        return count if isinstance(count, int) else None

    @property
    def split(self) -> SplitSettings:
        """The recipe's split."""
        return self.recipe.evaluate.split

    # --- domains

    @cached_property
    def domains(self) -> dict[str, PrepareDomain]:
        """Domain name -> its stage, in the recipe's order."""
        return {spec.name: self._domain(spec) for spec in self.recipe.domains}

    def _domain(self, spec: DomainSpec) -> PrepareDomain:
        if self.recipe.mall is not None:
            return PrepareDomain(name=spec.name, filters=spec.filters, mall=self.recipe.mall)
        if self.data is None:
            raise SettingError("this recipe reads domains from folders: say where with --data")
        folder = (self.data / (spec.path or spec.name)).resolve()
        if not folder.is_dir():
            raise NotFoundError(f"domain '{spec.name}': there is no folder {folder}")
        if (folder / CATALOGUE).is_file():
            require_texts(spec.name, load_catalogue(folder))
        hashes = {path.name: hash_file(path) for path in sorted(folder.glob("*.parquet"))}
        return PrepareDomain(name=spec.name, filters=spec.filters, hashes=hashes, path=folder)

    def catalogue(self, name: str) -> TakeCatalogue:
        """A domain's catalogue, and nothing else of it."""
        return TakeCatalogue(domain=self.domains[name])

    def item_counts(self, name: str) -> CountItems:
        """How often each of a domain's items was bought in training."""
        return CountItems(domain=self.domains[name], split=self.split)

    # --- training

    @cached_property
    def shared_files(self) -> LearnFiles | None:
        """The files that all branches carry, where the recommender has any."""
        if not recommender_class(self.recipe.recommender.kind).files:
            return None
        domains = tuple(self.domains.values())
        scoring = self.scoring.for_training()
        return LearnFiles(domains=domains, split=self.split, scoring=scoring)

    def branch(
        self, names: Sequence[str], seed: int, options: BranchOptions | None = None
    ) -> TrainBranch | TrainCheckpoint:
        """One branch on these domains' examples, trained as the recipe's branches or as the options
        have it: an adapter, or a checkpoint where all parameters are trained.

        The LoRA start and the drawn examples depend on `seed` alone; batches and dropout also on
        the set of domains and the `twin` number.
        """
        branches = (options and options.branches) or self.recipe.branches
        if branches.parameters == "all":
            return self.checkpoint_branch(names, seed, options)
        return self.adapter_branch(names, seed, options)

    def adapter_branch(
        self, names: Sequence[str], seed: int, options: BranchOptions | None = None
    ) -> TrainBranch:
        """`branch`, of an adapter."""
        options = options or BranchOptions()
        branches = options.branches or self.recipe.branches
        names = self._ordered(names)
        return TrainBranch(
            label=_branch_label(names, seed, options),
            domains=tuple(self.domains[name] for name in names),
            scoring=self.scoring.for_training(),
            split=self.split,
            examples=branches.examples,
            train=branches.loop(longer=options.longer),
            validation=self._branch_validation(branches),
            data_seed=_data_seed(seed, options),
            seed=branch_seed(seed, names, options.twin),
            lora=branches.lora,
            init_seed=seed_of(seed, "lora"),
            start=options.start,
            shared_files=self.shared_files,
        )

    def checkpoint_branch(
        self, names: Sequence[str], seed: int, options: BranchOptions | None = None
    ) -> TrainCheckpoint:
        """`branch`, of every parameter."""
        options = options or BranchOptions()
        branches = options.branches or self.recipe.branches
        names = self._ordered(names)
        if isinstance(options.start, AdapterStage):
            raise SettingError("a checkpoint can't be trained on from an adapter")
        return TrainCheckpoint(
            label=_branch_label(names, seed, options),
            domains=tuple(self.domains[name] for name in names),
            scoring=self.scoring.for_training(),
            split=self.split,
            examples=branches.examples,
            train=branches.loop(longer=options.longer),
            validation=self._branch_validation(branches),
            data_seed=_data_seed(seed, options),
            seed=branch_seed(seed, names, options.twin),
            start=options.start,
            shared_files=self.shared_files,
        )

    def _ordered(self, names: Sequence[str]) -> list[str]:
        """One order whoever asks."""
        return [name for name in self.domains if name in names]

    def _branch_validation(self, branches: Branches) -> EvaluationSettings | None:
        validation = branches.validation
        return None if validation is None else self.validation(validation.users, (10,))

    def validation(self, users: int, at: tuple[int, ...]) -> EvaluationSettings:
        """How validation users are measured: as the recipe measures test users, but fewer, and
        among candidates where it has any; of two ways to treat histories, unmasked."""
        evaluate = self.recipe.evaluate
        masking = evaluate.mask_history
        return evaluate.model_copy(
            update={
                "users": users,
                "at": at,
                "full": evaluate.candidates is None,
                "mask_history": False if masking == "both" else masking,
            }
        )

    # --- evaluation

    def evaluation(
        self,
        target: str,
        row: str,
        weights: WeightsStage | None,
        options: EvaluationOptions | None = None,
    ) -> EvaluateRecommender:
        """The ranks of one recommender on one target's test users; without `weights` that of the
        untrained backbone."""
        options = options or EvaluationOptions()
        evaluate, shown, scoring = self.recipe.evaluate, self.recipe.show_users, self.scoring
        if options.users is not None:
            evaluate = evaluate.model_copy(update={"users": options.users})
        if options.recommender is not None:  # a row of its own, whose suggestions are not shown
            scoring, shown = scoring.model_copy(update={"recommender": options.recommender}), 0
        label = evaluation_label(target, row, options.seed)
        domain = self.domains[target]
        if weights is None:
            return EvaluateZeroShot(
                label=label, domain=domain, evaluate=evaluate, show_users=shown, scoring=scoring
            )
        return EvaluateWeights(
            label=label, domain=domain, evaluate=evaluate, show_users=shown, scoring=scoring,
            weights=weights,
        )  # fmt: skip

    def popularity(self, target: str) -> EvaluatePopularity:
        """The ranks by what was bought most."""
        return EvaluatePopularity(
            label=evaluation_label(target, "popularity"),
            domain=self.domains[target],
            evaluate=self.recipe.evaluate,
            show_users=self.recipe.show_users,
        )


class Sketch(Plan):
    """A plan with neither data nor backbone, for what can be known of a recipe without them: its
    rows, and all that planning refuses. Its stages can't be run."""

    def __init__(self, recipe: StudyRecipe) -> None:
        super().__init__(recipe, None, "cpu")

    @cached_property
    def scoring(self) -> ScoringSettings:
        return ScoringSettings(
            backbone=self.recipe.backbone,
            files="",
            recommender=self.recipe.recommender,
            precision="float32",
            device=self.device,
        )

    @cached_property
    def blocks(self) -> int | None:
        return None

    def _domain(self, spec: DomainSpec) -> PrepareDomain:
        return PrepareDomain(name=spec.name)


def evaluation_label(target: str, row: str, seed: int | None = None) -> str:
    return f"evaluate {row} on {target}" + ("" if seed is None else f", seed {seed}")


def _branch_label(names: Sequence[str], seed: int, options: BranchOptions) -> str:
    longer = f" ×{options.longer}" if options.longer > 1 else ""
    twin = f" twin {options.twin}" if options.twin else ""
    return f"train {'+'.join(names)}{longer}{twin}{options.label}, seed {seed}"


def _data_seed(seed: int, options: BranchOptions) -> int:
    return seed_of(seed, "data") if options.data_seed is None else options.data_seed


def backbone_hash(folder: Path) -> str:
    """Of all that decides a backbone's vectors: weights, configuration, tokenizer, pooling."""
    kinds = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "1_Pooling/*.json")
    files = sorted({path for kind in kinds for path in folder.glob(kind)})
    return hash_json([[str(path.relative_to(folder)), hash_file(path)] for path in files])


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"

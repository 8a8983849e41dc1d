"""The stage that learns merging weights without labels (AdaMerging)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from weft.artifacts.atomic import write_json
from weft.data.domain import IntArray
from weft.data.splits import SplitSettings, make_split, sample_train
from weft.errors import SettingError
from weft.learning.adamerging import entropy_of_logits, learn_adamerging
from weft.learning.optimise import LearningRun
from weft.recommenders.text.listwise import Listwise
from weft.recommenders.text.lm.packing import next_logits
from weft.stages.stage import Workspace
from weft.systems.stages.base import DomainSizes, Work
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.merging import WEIGHTS, MergeWeightsStage
from weft.systems.stages.scoring import ScoringStage
from weft.systems.stages.weights import AdapterStage
from weft.systems.weaverec.recipe import AdaMerging
from weft.training.batches import seed_of


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnByEntropy(ScoringStage, MergeWeightsStage):
    """AdaMerging over the parts: weights for each module that make the first token of the answer to
    unlabelled prompts as sure as can be.

    The prompts are those of validation users of every domain that is merged (the paper takes test
    users'); no answer is looked at.
    """

    parts: tuple[AdapterStage, ...]
    domains: tuple[PrepareDomain, ...]
    split: SplitSettings
    adamerging: AdaMerging
    seed: int

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        return Work(examples=self.adamerging.steps * self.adamerging.batch)

    def run(self, workspace: Workspace) -> None:
        settings = self.adamerging
        parts = [one.adapter(workspace.run) for one in self.parts]
        recommender = self.scoring.open(None)
        if not isinstance(recommender, Listwise):
            raise SettingError("AdaMerging needs a listwise recommender")
        prompts: list[IntArray] = []
        for one in self.domains:
            examples = make_split(one.domain(workspace.run), self.split).validation
            drawn = sample_train(examples, settings.prompts, self.seed)
            texts, _ = recommender.training_texts(drawn)
            prompts += [texts.of(row) for row in range(len(texts))]
        language = recommender.language

        def entropy(model: nn.Module, step: int) -> Tensor:
            random = np.random.Generator(np.random.PCG64(seed_of(self.seed, "batch", step)))
            rows = random.choice(
                len(prompts), size=min(settings.batch, len(prompts)), replace=False
            )
            torch.manual_seed(seed_of(self.seed, "step", step))
            return entropy_of_logits(next_logits(language, [prompts[row] for row in rows.tolist()]))

        learned = learn_adamerging(
            recommender.model,
            parts,
            entropy,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            key=self.key,
            run=LearningRun(
                workspace.scratch, lambda step, steps, _: workspace.report(step, steps, "steps")
            ),
        )
        record = {"weights": dict(learned.modules), "entropies": learned.entropies}
        write_json(workspace.out / WEIGHTS, record)

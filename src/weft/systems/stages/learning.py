"""Learning the weights of a merge from catalogues.

The stage gets weights and catalogues; no stage above it that holds an interaction is a parent of
it, unless a recipe asks for a control that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import write_json
from weft.backbones.load import find_backbone
from weft.errors import SettingError
from weft.learning.collaborative import learn_collaborative, learn_from_sequences, learned_of
from weft.learning.optimise import LearnedCoefficients, LearningRun
from weft.learning.part_models import Reading
from weft.learning.settings import CollaborativeSettings
from weft.merging.merge import plan_merge
from weft.recommenders.text.bi_encoder import BiEncoderSettings
from weft.stages.stage import Workspace
from weft.systems.stages.base import DomainSizes, Work
from weft.systems.stages.domains import CountItems, DrawSequences, TakeCatalogue
from weft.systems.stages.merging import WEIGHTS, MergeWeightsStage
from weft.systems.stages.scoring import ScoringStage
from weft.systems.stages.weights import AdapterStage, CheckpointStage

VECTORS = "vectors"  # item vectors of the parts, shared by a run's stages


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnWeights(ScoringStage, MergeWeightsStage):
    """Merging weights learned from catalogues and checkpoints or adapters (weft.learning).

    Part k speaks for catalogue k. `counts` are only for probes that are `popular`, `sequences` only
    for the control that learns from real ones.
    """

    parts: tuple[AdapterStage, ...] | tuple[CheckpointStage, ...]
    names: tuple[str, ...]
    catalogues: tuple[TakeCatalogue, ...]
    counts: tuple[CountItems, ...] = ()
    sequences: tuple[DrawSequences, ...] = ()
    collaborative: CollaborativeSettings
    seed: int

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        return Work(examples=self.collaborative.steps * self.collaborative.batch)

    def run(self, workspace: Workspace) -> None:
        run, settings, backbone = workspace.run, self.collaborative, self.scoring.backbone
        recommender = self.scoring.recommender
        if not isinstance(recommender, BiEncoderSettings):
            raise SettingError("merging weights are learned of bi-encoders")
        parts: list[Any] = []
        base: str | None = None
        for part in self.parts:
            if isinstance(part, CheckpointStage):
                parts.append(part.checkpoint(run))
                base = str(find_backbone(backbone))
            else:
                parts.append(part.adapter(run))
        plan = plan_merge(parts, settings.method, None, base=base, labels=list(self.names))
        catalogues = [one.catalogue(run) for one in self.catalogues]
        reading = Reading(
            recommender,
            backbone,
            self.scoring.precision,
            self.scoring.device,
            workspace.shared(VECTORS),
        )
        learning = LearningRun(
            workspace.scratch, lambda step, steps, _: workspace.report(step, steps, "steps")
        )
        probes = [one.probes(run) for one in self.sequences]
        if probes:
            learned = learn_from_sequences(
                plan, catalogues, probes, settings, reading=reading, seed=self.seed, run=learning
            )
        else:
            learned = learn_collaborative(
                plan,
                catalogues,
                settings,
                reading=reading,
                seed=self.seed,
                popularity=[one.counts(run) for one in self.counts] or None,
                run=learning,
            )
        write_json(workspace.out / WEIGHTS, learned.to_json())

    def learned(self, run: Path) -> LearnedCoefficients:
        """The coefficients, and how their learning went."""
        return learned_of(self.record(run))

    def notes(self, run: Path) -> list[str]:
        """What a reader must know of the learning."""
        notes: list[str] = self.record(run)["notes"]
        return notes

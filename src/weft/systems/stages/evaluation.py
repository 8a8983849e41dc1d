"""Measuring: the ranks of one recommender on one domain's test users."""

from __future__ import annotations

import itertools
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft import __version__
from weft.artifacts.atomic import read_json, write_json
from weft.data.domain import Examples
from weft.data.splits import Split, make_split
from weft.evaluation.candidates import train_counts
from weft.evaluation.evaluate import chosen_examples, evaluate, evaluate_both
from weft.evaluation.protocol import EvaluationSettings
from weft.evaluation.result import Result
from weft.recommenders.contract import ReadingProgress, Recommender
from weft.recommenders.forms import SavedForm, SavedZeroShot
from weft.recommenders.saved import save_recommender
from weft.recommenders.sequential.popularity import Popularity
from weft.stages.stage import Workspace
from weft.systems.stages.base import DomainSizes, Group, RecipeStage, Work
from weft.systems.stages.choice import ChoiceStage
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.scoring import ScoringStage
from weft.systems.stages.weights import Published, WeightsStage, split_json

RESULT, MASKED = "result", "result-masked"  # folders of ranks; the second with `mask_history: both`
SUGGESTIONS = "suggestions.json"
ANSWER_COUNTS = "counts.json"  # what happened to prompts and answers of a language model


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationStage(RecipeStage):
    """A stage that leaves a result: per-user ranks with their protocol."""

    def result_folder(self, run: Path, *, masked: bool = False) -> Path:
        return self.folder(run) / (MASKED if masked else RESULT)

    def result(self, run: Path, *, masked: bool = False) -> Result:
        """Its ranks; `masked` without the items of a user's history."""
        return Result.load(self.result_folder(run, masked=masked))

    def has_masked(self, run: Path) -> bool:
        """Whether it has ranks of both kinds."""
        return self.result_folder(run, masked=True).is_dir()

    def suggestions(self, run: Path) -> Mapping[str, list[str]]:
        """User -> titles, for a few users."""
        suggestions: Mapping[str, list[str]] = read_json(self.folder(run) / SUGGESTIONS)
        return suggestions

    def answer_counts(self, run: Path) -> Mapping[str, int]:
        """What became of the prompts and answers of a language model; empty for others."""
        path = self.folder(run) / ANSWER_COUNTS
        counts: Mapping[str, int] = read_json(path) if path.is_file() else {}
        return counts


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateRecommender(EvaluationStage):
    """The ranks of a recommender on one domain's test users, and what it suggests to a few."""

    group: ClassVar[Group] = "evaluation"

    domain: PrepareDomain
    evaluate: EvaluationSettings
    show_users: int = 0

    @abstractmethod
    def scorer(self, run: Path, split: Split) -> Recommender:
        """The recommender, over the domain's catalogue."""

    def run(self, workspace: Workspace) -> None:
        split = make_split(self.domain.domain(workspace.run), self.evaluate.split)
        scorer = self.scorer(workspace.run, split)
        counts = train_counts(split.train)
        report_scoring(workspace, scorer, len(chosen_examples(split.test, self.evaluate)))
        measured = (scorer, split.test, self.evaluate)
        if self.evaluate.mask_history == "both":
            plain, masked = evaluate_both(*measured, counts=counts)
            masked.save(workspace.out / MASKED)
        else:
            plain = evaluate(*measured, counts=counts)
        plain.save(workspace.out / RESULT)
        if scorer.tally:
            write_json(workspace.out / ANSWER_COUNTS, dict(scorer.tally))
        suggestions = _suggestions(scorer, split.test, self.show_users)
        write_json(workspace.out / SUGGESTIONS, suggestions)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateWithText(ScoringStage, EvaluateRecommender):
    """Of a recommender that reads text."""

    @property
    def pace_group(self) -> str:
        recommender = self.scoring.recommender
        return f"evaluation {recommender.pace}"

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        domain = sizes[self.domain.name]
        return self.measuring_work(domain, self.evaluate, domain.test)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateBaseline(EvaluateRecommender):
    """Of a recommender that needs no training of the study: it can become a folder by itself."""

    @abstractmethod
    def weights(self, published: Published) -> Recommender | SavedForm:
        """What its folder holds."""

    def publish(self, run: Path, place: Path, published: Published) -> None:
        """Write it as a recommender's folder, in place of one that is there."""
        domain = published.domain
        manifest = {
            "domains": [domain.name],
            "data": {domain.name: domain.hash},
            "split": split_json(published.split),
            "versions": {"weft": __version__},
        }
        save_recommender(
            self.weights(published),
            domain.items,
            place,
            manifest=manifest,
            counts=published.counts,
            replace=True,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatePopularity(EvaluateBaseline):
    """Everyone is offered what was bought most in training."""

    def scorer(self, run: Path, split: Split) -> Recommender:
        return Popularity.of(split.train)

    def weights(self, published: Published) -> Recommender:
        return Popularity(catalogue=published.domain.items, counts=published.counts)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateZeroShot(EvaluateWithText, EvaluateBaseline):
    """The backbone as it comes."""

    def scorer(self, run: Path, split: Split) -> Recommender:
        return self.scoring.open(split.train.domain.items)

    def weights(self, published: Published) -> SavedForm:
        return SavedZeroShot.of(self.scoring.backbone, self.scoring.recommender)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateWeights(EvaluateWithText):
    """A recommender of weights that another stage has left: trained, merged or integrated."""

    weights: WeightsStage

    def scorer(self, run: Path, split: Split) -> Recommender:
        return self.weights.recommender(run, self.scoring, split.train.domain.items)


@dataclass(frozen=True, kw_only=True, eq=False)
class TakeBest(EvaluationStage):
    """The result of the first of the chosen: measured already, so no work is done twice."""

    results: tuple[EvaluationStage, ...]
    choice: ChoiceStage

    def run(self, workspace: Workspace) -> None:
        best = self.results[self.choice.chosen(workspace.run)[0]]
        for masked in (False, True):
            source = best.result_folder(workspace.run, masked=masked)
            if source.is_dir():
                shutil.copytree(source, workspace.out / source.name)
        write_json(workspace.out / SUGGESTIONS, {})


def report_scoring(
    workspace: Workspace, scorer: Recommender, users: int, of: int = 1, done: int = 0
) -> None:
    """Say what a recommender reads while it scores so many users, from its first text on; `done`
    of `of` such measurements are over."""
    total, unit = scorer.reading(users)
    read = float(total * done)

    def report(progress: ReadingProgress) -> None:
        nonlocal read
        if progress.count:
            read = min(read + progress.count, total * (done + 1))
            workspace.report(read, total * of, unit)

    scorer.on_read = report


@dataclass
class ValidationUsers:
    """Measures recommenders, one after the other, on drawn validation users of a domain, and
    reports what they read. The test targets are not looked at."""

    workspace: Workspace
    settings: EvaluationSettings
    recommenders: int  # how many are measured in all
    measured: int = 0

    def metrics(self, scorer: Recommender, split: Split) -> dict[str, float]:
        """The next recommender's."""
        users = len(chosen_examples(split.validation, self.settings))
        report_scoring(self.workspace, scorer, users, self.recommenders, self.measured)
        counts = train_counts(split.train)
        result = evaluate(scorer, split.validation, self.settings, part="validation", counts=counts)
        self.measured += 1
        return result.metrics()


def shown_users(test: Examples, count: int) -> Examples:
    """The users shown in a report, each with their last test target: spread evenly over the test
    users in their order."""
    if not len(test):
        return test
    test = test.take(np.flatnonzero(np.append(test.user[1:] != test.user[:-1], True)))
    rows = np.linspace(0, len(test) - 1, num=min(count, len(test)) + 2)[1:-1].astype(np.int64)
    return test.take(np.unique(rows))


def _suggestions(scorer: Recommender, test: Examples, count: int, k: int = 5) -> dict[str, Any]:
    if not count:
        return {}
    shown = shown_users(test, count)
    ranking = scorer.top_k(shown.histories(), k)
    titles = test.domain.items.titles
    return {
        user: [titles[item] for item in itertools.islice(items, k)]
        for user, items in zip(shown.user_ids(), ranking.items.tolist(), strict=True)
    }

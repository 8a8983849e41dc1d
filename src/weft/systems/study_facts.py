"""What a report says beside its numbers: warnings of rows, facts of targets, versions and data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from weft.data.domain import Domain
from weft.data.splits import Split, SplitSettings, make_split
from weft.evaluation.compare import Runs
from weft.evaluation.evaluate import chosen_examples
from weft.evaluation.leakage import LastTraining, target_facts
from weft.evaluation.protocol import EvaluationSettings
from weft.evaluation.result import Result
from weft.report.model import LeakageFacts, RowWarning
from weft.stages.graph import reached
from weft.stages.records import read_record
from weft.stages.stage import Stage
from weft.systems.baselines import ZERO_SHOT
from weft.systems.branch_notes import answer_notes, collapsed, unjudged
from weft.systems.rows import StudyRow
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.training import TrainingStage


def row_warnings(
    one: StudyRow, featured: str, trained: Iterable[TrainingStage], run: Path
) -> list[RowWarning]:
    """What spoils a row (a branch of it collapsed), and what to know of it: branches too short to
    judge, histories cut, answers that named nothing."""
    rests_on = {stage.key for stage in reached(one.evaluations)}
    branches = [stage for stage in trained if stage.key in rests_on]
    warnings = [RowWarning(text=text) for text in collapsed(branches, run)]
    warnings += [RowWarning(text=text, spoils=False) for text in unjudged(branches, run)]
    warnings += [RowWarning(text=text, spoils=False) for text in answer_notes([one], featured, run)]
    return list({one.text: one for one in warnings}.values())


def unchanged(one: StudyRow, results: Mapping[str, Runs]) -> list[RowWarning]:
    """A warning where a trained row puts every target exactly where the untrained backbone does."""
    trained, zero = results[one.row], results.get(ZERO_SHOT)
    if one.weights is None or not isinstance(trained, Result) or not isinstance(zero, Result):
        return []
    if not trained.frame.equals(zero.frame):
        return []
    return [RowWarning(text="It ranks every target as zero-shot does: training changed nothing.")]


class DomainFacts:
    """A run's domains, their splits and what training knew, each read once; `stages` are those of the
    domains."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        stages: Mapping[str, PrepareDomain],
        evaluate: EvaluationSettings,
    ) -> None:
        self.evaluate = evaluate
        self.splits: dict[str, Split] = {
            name: make_split(domain, evaluate.split) for name, domain in domains.items()
        }
        self._train_sizes = {
            (stages[name].key, str(evaluate.split)): len(split.train)
            for name, split in self.splits.items()
        }
        self._last = [LastTraining.of(split.train) for split in self.splits.values()]

    def targets(self, name: str) -> LeakageFacts:
        """Of the test targets that are measured."""
        split = self.splits[name]
        test = chosen_examples(split.test, self.evaluate)
        return LeakageFacts(**asdict(target_facts(test, split.train, self._last)))

    def shortfalls(self, trained: Iterable[TrainingStage], run: Path) -> dict[str, list[str]]:
        """Domain -> a sentence for each way in which fewer of its examples were trained on than a
        recipe asks for."""
        out: dict[str, list[str]] = {}
        for stage in trained:
            for name, text in self._shortfall(stage, run):
                if text not in out.setdefault(name, []):
                    out[name].append(text)
        return out

    def _train_size(self, domain: PrepareDomain, split: SplitSettings, run: Path) -> int:
        """Training examples of a domain as a stage has it: filtered or split in its own way, maybe."""
        place = (domain.key, str(split))
        if place not in self._train_sizes:
            self._train_sizes[place] = len(make_split(domain.domain(run), split).train)
        return self._train_sizes[place]

    def _shortfall(self, stage: TrainingStage, run: Path) -> Iterator[tuple[str, str]]:
        asked, batch = stage.examples, stage.train.batch
        for domain in stage.domains:
            name, there = domain.name, self._train_size(domain, stage.split, run)
            count = trained_examples(min(asked, there), batch)
            if count == asked:
                continue
            why = [f"the log has {there:,}"] if there < asked else []
            if count < min(asked, there):
                rest = min(asked, there) - count
                why.append(
                    f"{rest:,} {'is' if rest == 1 else 'are'} left over from batches of {batch:,}"
                )
            text = (
                f"{name}: {asked:,} training examples asked, {count:,} trained in an epoch: "
                f"{', and '.join(why)}."
            )
            yield name, text


def trained_examples(count: int, batch: int) -> int:
    """How many of `count` examples of a domain an epoch trains on: whole batches, unless there is
    none (see `training.batches.epoch_batches`)."""
    return count if count < batch else count - count % batch


def stage_versions(stages: Iterable[Stage], run: Path) -> dict[str, str]:
    """Of weft, Python and the libraries: several where a run went on under others."""
    versions: dict[str, dict[str, None]] = {}
    for stage in reached(stages):
        for name, number in read_record(stage.folder(run)).get("versions", {}).items():
            versions.setdefault(str(name), {})[str(number)] = None
    order = sorted(versions, key=lambda name: (name != "weft", name != "python"))
    return {name: " and ".join(versions[name]) for name in order}


def data_hashes(domains: Mapping[str, PrepareDomain], run: Path) -> dict[str, str]:
    """Each domain's hash as `weft data inspect` prints it: of its folder, before the filters."""
    hashes = {name: stage.source_hash(run) for name, stage in domains.items()}
    return {name: value for name, value in hashes.items() if value is not None}

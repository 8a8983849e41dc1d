"""What a report says beside its numbers: warnings of rows, facts of targets, what made it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json
from weft.data.domain import Domain
from weft.data.folder import MANIFEST
from weft.data.splits import Split, make_split
from weft.evaluation.compare import Runs
from weft.evaluation.evaluate import chosen_examples
from weft.evaluation.leakage import LastTraining, target_facts
from weft.evaluation.protocol import EvaluationSettings
from weft.evaluation.result import Result
from weft.report.model import RowWarning, TargetFacts
from weft.stages.stage import STAGE_FILE, Stage, reached
from weft.systems.measured import Measured
from weft.systems.notes import collapsed, counted, unjudged


def row_warnings(
    one: Measured, featured: str, trained: Mapping[str, Stage], run: Path
) -> list[RowWarning]:
    """What spoils a row (a branch of it collapsed), and what to know of it: branches too short to
    judge, histories cut, answers that named nothing."""
    rests_on = {stage.key for stage in reached(one.evaluations)}
    branches = {label: stage for label, stage in trained.items() if stage.key in rests_on}
    found = [RowWarning(text=text) for text in collapsed(branches, run)]
    found += [RowWarning(text=text, spoils=False) for text in unjudged(branches, run)]
    found += [RowWarning(text=text, spoils=False) for text in counted([one], featured, run)]
    return list({one.text: one for one in found}.values())


def unchanged(one: Measured, results: Mapping[str, Runs]) -> list[RowWarning]:
    """A warning where a trained row puts every target exactly where the untrained backbone does."""
    trained, zero = results[one.row], results.get("zero-shot")
    if one.adapter is None or not isinstance(trained, Result) or not isinstance(zero, Result):
        return []
    if not trained.frame.equals(zero.frame):
        return []
    return [RowWarning(text="It ranks every target as zero-shot does: training changed nothing.")]


class DomainFacts:
    """A run's domains, their splits and what training knew, each read once."""

    def __init__(self, domains: Mapping[str, Domain], evaluate: EvaluationSettings) -> None:
        self.evaluate = evaluate
        self.splits: dict[str, Split] = {
            name: make_split(domain, evaluate.split) for name, domain in domains.items()
        }
        self._last = [LastTraining.of(split.train) for split in self.splits.values()]

    def targets(self, name: str) -> TargetFacts:
        """Of the test targets that are measured."""
        split = self.splits[name]
        test = chosen_examples(split.test, self.evaluate)
        return TargetFacts(**asdict(target_facts(test, split.train, self._last)))

    def shortfalls(self, trained: Iterable[Stage]) -> dict[str, list[str]]:
        """Domain -> a sentence for each way in which fewer of its examples were trained on than a
        recipe asks for."""
        out: dict[str, list[str]] = {}
        for stage in trained:
            for name, text in self._shortfall(stage):
                if text not in out.setdefault(name, []):
                    out[name].append(text)
        return out

    def _shortfall(self, stage: Stage) -> Iterator[tuple[str, str]]:
        said = stage.settings
        if "examples" not in said or "train" not in said:
            return
        asked, batch = int(said["examples"]), int(said["train"]["batch"])
        for parent in stage.parents.values():
            name = parent.settings.get("name")
            if name not in self.splits:
                continue
            there = len(self.splits[name].train)
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
    found: dict[str, dict[str, None]] = {}
    for stage in reached(stages):
        path = stage.folder(run) / STAGE_FILE
        versions: Any = read_json(path).get("versions", {}) if path.is_file() else {}
        for name, number in versions.items():
            found.setdefault(str(name), {})[str(number)] = None
    order = sorted(found, key=lambda name: (name != "weft", name != "python"))
    return {name: " and ".join(found[name]) for name in order}


def data_hashes(stages: Mapping[str, Stage], run: Path) -> dict[str, str]:
    """Each domain's hash as `weft data inspect` prints it: of its folder, before the filters."""
    out = {}
    for name, stage in stages.items():
        source = read_json(stage.folder(run) / "domain" / MANIFEST).get("source", {})
        if isinstance(source, dict) and isinstance(source.get("hash"), str):
            out[name] = source["hash"]
    return out

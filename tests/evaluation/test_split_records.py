"""What protocols and manifests hold of a split: results and models that exist are read by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from worlds import Fixed, domain

from weft.artifacts.atomic import read_json
from weft.data.domain import Catalogue, Domain, Examples, Sequences
from weft.data.splits import Split, SplitSettings, make_split
from weft.data.splits.kinds import SPLITS
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.evaluate import evaluate
from weft.evaluation.protocol import EvaluationSettings
from weft.evaluation.result import Result

DAY = 86_400
START = 1_400_000_000 // DAY * DAY


def nine_users() -> Domain:
    """Five interactions each, four days apart."""
    user, place = (axis.ravel() for axis in np.mgrid[:9, :5])
    ids = [f"i{item}" for item in dict.fromkeys((3 * user + place) % 12)]
    row = {f"i{item}": number for number, item in enumerate(dict.fromkeys((3 * user + place) % 12))}
    return Domain(
        "test",
        Catalogue(pl.DataFrame({"item_id": ids, "title": [f"Title of {one}" for one in ids]})),
        Sequences(
            pl.Series("user_id", [f"u{one}" for one in range(9)], dtype=pl.String),
            np.arange(0, 46, 5, dtype=np.int64),
            np.array([row[f"i{item}"] for item in (3 * user + place) % 12], dtype=np.int32),
            (START + (user + 4 * place) * DAY).astype(np.int64),
        ),
    )


TIMES = {"kind": "global_time", "quantiles": None, "validation_from": None, "test_from": None, "test_until": None,
         "targets": "every", "cold_users": "keep", "cold_items": "keep"}  # fmt: skip
WINDOW = {"kind": "global_time", "validation_from": "2014-05-24", "test_from": START + 18 * DAY,
          "test_until": "2014-06-05", "targets": "first", "cold_users": "drop",
          "cold_items": "drop"}  # fmt: skip

AND_SO_ON = (
    "test from 2014-05-31, until 2014-06-05, first target, without cold users, without cold items"
)


@pytest.mark.parametrize(
    ("split", "plain", "words", "hash"),
    [
        ("leave_one_out", "leave_one_out", "leave_one_out", "e79aac2f573121cd95bfc2a8420933d8"),
        (
            "by_user",
            {"kind": "by_user", "ratios": [3.0, 1.0, 1.0], "targets": "last", "seed": 0},
            "by_user 3:1:1, last targets, seed 0",
            "7b2e446fd8f028a49259a3b36c9806a6",
        ),
        (
            {"kind": "by_user", "ratios": [2, 1, 1], "targets": "every", "seed": 3},
            {"kind": "by_user", "ratios": [2.0, 1.0, 1.0], "targets": "every", "seed": 3},
            "by_user 2:1:1, every targets, seed 3",
            "f19085f6bafbf64a92e3b54830812802",
        ),
        (
            "global_time",
            TIMES,
            "global_time: validation from 0.8 of the interactions, test from 0.9, every target",
            "20dd86862e47b0e5a18c3e7a0fbd4809",
        ),
        (
            WINDOW,
            TIMES | WINDOW | {"validation_from": 1400889600, "test_until": 1401926400},
            f"global_time: validation from 2014-05-24, {AND_SO_ON}",
            "19fac62d61a7161f8a7c956f86a8759c",
        ),
    ],
)
def test_records_are_those_of_results_that_exist(
    split: Any, plain: Any, words: str, hash: str, tmp_path: Path
) -> None:
    """The hash is of every rank, every drawn candidate and the whole protocol."""
    settings = EvaluationSettings(
        split=split, candidates=CandidateSettings(drawn=2), seed=5, at=(1, 3)
    )
    assert settings.model_dump(mode="json")["split"] == plain
    assert list(settings.model_dump(mode="json")["split"]) == list(plain)  # in this order
    result = evaluate(
        Fixed(np.arange(12, dtype=np.float32)), make_split(nine_users(), plain).test, settings
    )
    result.save(tmp_path / "result")
    assert read_json(tmp_path / "result" / "protocol.json")["hash"] == hash
    assert Result.load(tmp_path / "result").protocol.split == words


class Halves(SplitSettings):
    """Users at even places train, the others test."""

    SHORT = "halves"
    kind: Literal["halves"] = "halves"

    def make(self, domain: Domain) -> Split:
        users = np.arange(len(domain.sequences))
        every = Examples(domain, users, domain.sequences.lengths - 1)
        return Split(
            self.kind, every.take(users[::2]), every.take(users[:0]), every.take(users[1::2])
        )

    def __str__(self) -> str:
        return "halves"


def test_a_new_kind_is_one_class_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPLITS, "halves", Halves)
    settings = EvaluationSettings.model_validate({"split": {"kind": "halves"}, "at": [1]})
    split = make_split(domain(), settings.split)
    result = evaluate(Fixed(np.arange(120, dtype=np.float32)), split.test, settings)
    assert result.protocol.split == "halves" and result.protocol.users == 15
    again = EvaluationSettings.model_validate(settings.model_dump(mode="json"))
    assert again == settings and make_split(domain(), "halves").kind == "halves"

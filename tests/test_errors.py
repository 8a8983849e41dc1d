"""Errors by class: what a server answers with is decided by the class alone."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import weft
from weft.adapters import (
    Adapter,
    Factors,
    LoraSettings,
    attach,
    check_backbone,
    fold_into,
    load_adapter,
    save_adapter,
)
from weft.artifacts.atomic import write_json
from weft.artifacts.documents import read_json, read_object
from weft.artifacts.staging import staged
from weft.backbones.load import check_device, find_backbone
from weft.data.catalogue import load_catalogue
from weft.data.domain import Catalogue, Domain, Sequences
from weft.data.filters import Filters, apply_filters
from weft.data.folder import load_domain, save_domain
from weft.data.ingest import ingest
from weft.data.mall import mall
from weft.data.source import Source
from weft.data.splits import make_split
from weft.errors import (
    BusyError,
    DataError,
    MismatchError,
    NotFoundError,
    SettingError,
    WeftError,
    WriteError,
    located,
)
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.compare import compare, compare_table
from weft.evaluation.evaluate import evaluate
from weft.evaluation.metrics import parse_metric
from weft.evaluation.protocol import EvaluationSettings
from weft.evaluation.result import Result
from weft.names import check_name
from weft.report.model import RunReport
from weft.settings import validate
from weft.settings.files import read_settings
from weft.settings.yaml_documents import parse_yaml
from weft.text import TextSettings, item_texts

STATUS = {
    NotFoundError: 404,
    SettingError: 422,
    DataError: 422,
    MismatchError: 409,
    BusyError: 409,
    WriteError: 507,
}


class Ones:
    """A recommender that likes all items alike."""

    def score(self, histories: Any, candidates: Any = None) -> Any:
        return np.ones((len(histories), 30 if candidates is None else candidates.shape[1]))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a log, a domain, two results of two domains, and broken files."""
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "unknown.yaml").write_text("a: 1")
    (tmp_path / "study.yaml").write_text("domains: [home, toys]\nseeed: 3")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,title\nu,i,soon,Chair\n")
    for name in ("home", "toys"):
        domain = mall(users=30, items=30)[name]
        save_domain(domain, tmp_path / name)
        settings = EvaluationSettings(candidates=CandidateSettings(drawn=3), at=(1,), full=False)
        evaluate(Ones(), make_split(domain, "leave_one_out").test, settings).save(
            tmp_path / f"result-{name}"
        )
    return tmp_path


def in_order() -> Domain:
    """A domain with an order index in place of times."""
    return Domain(
        "shop",
        Catalogue(pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]})),
        Sequences(
            pl.Series("user_id", ["u"]),
            np.array([0, 3]),
            np.arange(3, dtype=np.int32),
            np.arange(3, dtype=np.int64),
        ),
    )


ADAPTER = Adapter(
    {"query": Factors(torch.ones(1, 2), torch.ones(2, 1), 1.0)},
    {"backbone": {"name": "tiny", "fingerprint": "a"}},
)


def twice_at_once(out: Path) -> None:
    with staged(out, "0" * 16), staged(out, "0" * 16):
        pass


def load(place: Path, name: str) -> Result:
    return Result.load(place / f"result-{name}")


def stage_twice(place: Path) -> None:
    with staged(place / "new", "0" * 16), staged(place / "new", "0" * 16):
        pass


CALLS: list[tuple[type[WeftError], Callable[[Path], object]]] = [
    (NotFoundError, lambda place: load_domain(place / "nowhere")),
    (NotFoundError, lambda place: load_catalogue(place / "nowhere")),
    (NotFoundError, lambda place: Result.load(place / "nowhere")),
    (NotFoundError, lambda place: read_json(place / "nowhere.json")),
    (NotFoundError, lambda place: ingest(Source(interactions=place / "nowhere.csv"), place / "new")),
    (NotFoundError, lambda place: compare_table({"a": load(place, "home")}, "b")),
    (NotFoundError, lambda place: load(place, "home").values("full/ndcg@1")),
    (NotFoundError, lambda place: weft.load_adapter(place / "nowhere")),
    (NotFoundError, lambda place: weft.load_recommender(place / "nowhere")),
    (NotFoundError, lambda place: weft.load_backbone("no-such-backbone")),
    (NotFoundError, lambda place: weft.load_recipe(place / "nowhere.yaml")),
    (SettingError, lambda place: weft.load_recipe(place / "study.yaml")),
    (SettingError, lambda place: weft.make_method("tiess")),
    (SettingError, lambda place: make_split(in_order(), "by_month")),
    (SettingError, lambda place: parse_metric("accuracy")),
    (SettingError, lambda place: check_name("two\nlines", "the domain's name")),
    (SettingError, lambda place: validate(Filters, {"k_cores": 5})),
    (SettingError, lambda place: read_settings(place / "unknown.yaml", Filters)),
    (SettingError, lambda place: ingest(Source(interactions=place / "log.csv", format="xml"), place / "new")),
    (SettingError, lambda place: mall(users=1)),
    (SettingError, lambda place: evaluate(Ones(), make_split(in_order(), "leave_one_out").test, EvaluationSettings(candidates=None, full=False))),
    (DataError, lambda place: read_json(place / "broken.json")),
    (DataError, lambda place: read_object(place / "list.json")),
    (DataError, lambda place: read_settings(place / "broken.yaml", Filters)),
    (DataError, lambda place: parse_yaml("a: 1\na: 2", "a recipe")),
    (DataError, lambda place: ingest(Source(interactions=place / "log.csv"), place / "new")),
    (DataError, lambda place: apply_filters(in_order(), Filters(minimum_length=9))),
    (MismatchError, lambda place: make_split(in_order(), "global_time")),
    (MismatchError, lambda place: compare(load(place, "home"), load(place, "toys"))),
    (BusyError, stage_twice),
    (WriteError, lambda place: save_domain(in_order(), place / "home")),
    (WriteError, lambda place: write_json(place / "home" / "domain.json" / "below.json", {})),
    (NotFoundError, lambda place: load_adapter(place / "nowhere")),
    (NotFoundError, lambda place: find_backbone(str(place / "nowhere"))),
    (NotFoundError, lambda place: RunReport.load(place)),
    (SettingError, lambda place: check_device("tpu")),
    (SettingError, lambda place: attach(nn.Linear(2, 2), LoraSettings(targets=["query"]))),
    (SettingError, lambda place: item_texts(in_order().items, TextSettings(fields=["brand"]))),
    (DataError, lambda place: save_adapter(Adapter({}, {}), place / "new")),
    (DataError, lambda place: find_backbone(str(place / "home"))),
    (DataError, lambda place: RunReport.load(place / "list.json")),
    (MismatchError, lambda place: check_backbone(ADAPTER, "other", "b")),
    (MismatchError, lambda place: fold_into(nn.Linear(2, 2), ADAPTER)),
    (WriteError, lambda place: save_adapter(ADAPTER, place / "home")),
    (BusyError, lambda place: twice_at_once(place / "new")),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_the_class_says_what_a_server_answers(number: int, place: Path) -> None:
    wanted, call = CALLS[number]
    with pytest.raises(WeftError) as caught:
        call(place)
    assert type(caught.value) is wanted or type(caught.value).__bases__ == (wanted,)
    assert caught.value.status == STATUS[wanted]
    assert "\n" not in str(caught.value)


def test_every_class_is_in_the_tree_and_has_its_status() -> None:
    assert {one: one.status for one in WeftError.__subclasses__() if one in STATUS} == STATUS
    drawn = str(weft.errors.__doc__)
    for one, status in STATUS.items():
        line = next(line for line in drawn.splitlines() if one.__name__ in line)
        assert line.endswith(str(status))


def test_naming_a_place_keeps_the_class() -> None:
    with (
        pytest.raises(MismatchError, match=r"^part 2: a\.yaml: unlike shapes$"),
        located("part 2"),
        located("a.yaml"),
    ):
        raise MismatchError("unlike shapes")


PLAIN = {"learning": 2, "stages": 1}
"""Rooms that may raise plain `WeftError`s, and how many: what is none of the classes."""


def test_rooms_raise_the_class_that_fits() -> None:
    """A plain `WeftError` is answered with 400, whatever went wrong."""
    raised: Counter[str] = Counter()
    root = Path(weft.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "WeftError":
                raised[file.relative_to(root).with_suffix("").parts[0]] += 1
    assert not {room: count for room, count in raised.items() if count > PLAIN.get(room, 0)}

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer import Typer
from typer.testing import CliRunner
from worlds import result

from weft.cli.compare import compare_command
from weft.errors import WeftError
from weft.evaluation.compare import (
    compare,
    compare_table,
    estimate,
    holm,
    summarise_seeds,
    verdict,
)
from weft.evaluation.result import Result


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 -> ×4 .04, ×3 .06, ×2 .06, ×1 .04 raised to .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_order(p: list[float]) -> None:
    corrected = holm(p)
    assert all(a <= b <= 1 for a, b in zip(p, corrected, strict=True))
    by_p = [corrected[i] for i in sorted(range(len(p)), key=lambda i: p[i])]
    assert by_p == sorted(by_p)


def test_one_comparison_against_scipy() -> None:
    generator = np.random.default_rng(0)
    a = result(generator.integers(1, 31, 200).astype(float).tolist())
    b = result(generator.integers(2, 31, 200).astype(float).tolist())
    (one,) = compare(a, b, ["ndcg@5"])
    x, y = a.values("ndcg@5"), b.values("ndcg@5")
    reference = stats.ttest_rel(x, y)
    interval = reference.confidence_interval(0.95)
    assert one.difference == pytest.approx(x.mean() - y.mean())
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
    assert one.p_t == one.p_holm == pytest.approx(reference.pvalue)
    assert one.p_wilcoxon == pytest.approx(stats.wilcoxon(x, y).pvalue)
    assert (one.a, one.b, one.users) == (pytest.approx(x.mean()), pytest.approx(y.mean()), 200)
    (back,) = compare(b, a, ["ndcg@5"])
    assert (back.difference, back.low) == pytest.approx((-one.difference, -one.high))
    (drawn,) = compare(a, b, ["ndcg@5"], bootstrap=400)
    assert (drawn.low, drawn.high) == pytest.approx((one.low, one.high), abs=0.01)
    assert compare(a, b, ["ndcg@5"], bootstrap=400) == [drawn]


def test_no_difference_is_no_evidence() -> None:
    a = result([1.0, 2.0, 9.0, 4.0])
    for one in compare(a, a):
        assert (one.difference, one.low, one.high) == (0, 0, 0)
        assert one.p_t == one.p_wilcoxon == one.p_holm == 1
        assert one.verdict == "unclear"


def test_the_same_difference_for_everyone_is_all_evidence() -> None:
    (one,) = compare(result([1.0] * 9), result([2.0] * 9), ["hit@1"])
    assert (one.difference, one.p_t, one.verdict) == (1.0, 0.0, "gain")


def test_unlike_protocols_are_refused_by_field() -> None:
    a = result([1.0, 2.0, 3.0])
    for field, value in {
        "domain_hash": "e" * 32,
        "part": "validation",
        "candidates_hash": "f" * 32,
        "mask_history": True,
        "seed": 8,
    }.items():
        with pytest.raises(WeftError, match=rf"differ in {field} \("):
            compare(a, result([1.0, 2.0, 3.0], **{field: value}))
    with pytest.raises(WeftError, match=r"users \(4 / 3\), targets \(4 / 3\), users_hash"):
        compare(result([1.0, 2.0, 3.0, 4.0]), a)
    # which cut-offs were printed makes no difference to a metric that names its own
    (one,) = compare(a, result([1.0, 2.0, 3.0], at=(3,)), ["ndcg@4"])
    assert one.difference == 0


def test_a_table_is_corrected_as_a_whole() -> None:
    generator = np.random.default_rng(3)
    rows = {name: result(generator.integers(1, 31, 60).astype(float).tolist()) for name in "abc"}
    table = compare_table(rows, "b", ["ndcg@1", "mrr@5"])
    assert list(table) == ["a", "c"]
    every = [one for row in table.values() for one in row]
    assert [one.p_holm for one in every] == holm([one.p_t for one in every])
    with pytest.raises(WeftError, match="baseline 'x'"):
        compare_table(rows, "x")


def test_seeds_are_averaged_per_user_and_summarised() -> None:
    runs = [result([1.0, 1.0, 6.0, 6.0]), result([1.0, 6.0, 6.0, 1.0], seed=8)]
    spread = summarise_seeds(runs, ["hit@5"])["hit@5"]
    assert (spread.seeds, spread.mean, spread.sd) == (2, 0.5, 0.0)
    spread = summarise_seeds([runs[0], result([1.0] * 4)], ["hit@5"])["hit@5"]
    assert (spread.low, spread.high, spread.sd) == (
        0.5,
        1.0,
        pytest.approx(np.std([0.5, 1], ddof=1)),
    )
    pair = [runs[0], result([1.0, 6.0, 6.0, 1.0])]
    (one,) = compare(pair, result([6.0] * 4), ["hit@5"])
    assert one.difference == 0.5
    assert estimate(pair, "hit@5").mean == 0.5
    with pytest.raises(WeftError, match="part"):
        summarise_seeds([runs[0], result([1.0] * 4, part="validation")])


def test_verdicts() -> None:
    assert [verdict(d, p) for d, p in ((0.1, 0.01), (-0.1, 0.01), (0.1, 0.05))] == [
        "gain",
        "loss",
        "unclear",
    ]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    result([2.0] * 20).save(tmp_path / "base")
    result([1.0] * 19 + [3.0]).save(tmp_path / "better")
    result([9.0] * 20).save(tmp_path / "worse")
    return [str(tmp_path / name) for name in ("base", "better", "worse")]


def _invoke(arguments: list[str]) -> str:
    app = Typer()
    app.command()(compare_command)
    return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def test_the_command_prints_json(folders: list[str]) -> None:
    out = json.loads(_invoke([*folders, "--metric", "hit@1", "--json"]))
    assert out["baseline"] == "base"
    (better,), (worse,) = out["comparisons"]["better"], out["comparisons"]["worse"]
    assert (better["verdict"], better["difference"]) == ("gain", 0.95)
    assert (worse["verdict"], worse["p_t"]) == ("unclear", 1.0)


def test_the_command_prints_tables(folders: list[str]) -> None:
    out = _invoke([*folders, "--metric", "ndcg@5"])
    assert "better − base" in out
    assert "gain" in out
    assert "loss" in out
    with pytest.raises(WeftError, match="two result folders"):
        _invoke(folders[:1])
    with pytest.raises(WeftError, match="same result folder twice"):
        _invoke([folders[0], folders[0]])


def test_other_versions_are_said(tmp_path: Path) -> None:
    base = result([2.0] * 20)
    other = Result(result([1.0] * 19 + [3.0]).frame, base.protocol, {"torch": "1.0", "weft": "9"})
    Result(base.frame, base.protocol, {"torch": "2.0", "weft": "9"}).save(tmp_path / "base")
    other.save(tmp_path / "other")
    folders = [str(tmp_path / name) for name in ("base", "other")]
    assert "other was measured with other versions: torch 1.0 against 2.0." in " ".join(
        _invoke(folders).split()
    )
    assert json.loads(_invoke([*folders, "--json"]))["versions"]["other"]["torch"] == "1.0"


def test_more_seeds_on_one_side_are_paired_with_as_many_on_the_other() -> None:
    one, other, better = result([1.0, 9, 9]), result([9.0, 9, 9]), result([1.0, 1, 1])
    table = compare_table({"base": [one, other], "single": better}, "base", ["hit@1"])
    assert table["single"][0].difference == pytest.approx(2 / 3)  # better − one, not their mean

"""What is damaged of a finished run is named and made again by the same command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from world import recipe

from weft.artifacts.atomic import read_json, write_json
from weft.errors import WeftNotice
from weft.report.model import RunReport
from weft.settings import validate
from weft.systems.plan import Plan
from weft.systems.published_files import RECORD, is_whole, record_places
from weft.systems.runner import run
from weft.systems.weaverec.algorithm import WeaveRec
from weft.systems.weaverec.recipe import WeaveRecRecipe


def tree(folder: Path) -> dict[str, bytes]:
    """All that a run publishes but what says how long things took."""
    timed = ("report.html", "report.md", "timings.json")
    names = [*read_json(folder / RECORD)["files"], "run.json"]
    return {name: (folder / name).read_bytes() for name in names if name not in timed}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], object]] = [
    lambda run: shutil.rmtree(run / "recommenders" / "toys"),
    lambda run: shutil.rmtree(run / "results" / "toys"),
    lambda run: (run / "recommenders/home/weaverec/weft.json").unlink(),
    lambda run: flip(run / "results/home/source-toys/ranks.parquet"),
    lambda run: cut(run / "report.json"),
    lambda run: (run / "report.html").write_text(""),
    lambda run: (run / "report.md").unlink(),
    lambda run: cut(run / "timings.json"),
    lambda run: cut(run / "run.json"),
    lambda run: cut(run / RECORD),
]


def test_whatever_is_damaged_of_what_a_run_publishes_is_put_there_again(
    finished: tuple[Path, RunReport],
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = tree(finished[0])
    for number, damage in enumerate(DAMAGES):
        copy = tmp_path / str(number)
        shutil.copytree(finished[0], copy)
        assert is_whole(copy)
        damage(copy)
        assert not is_whole(copy) or not (copy / "run.json").read_text().endswith("}\n")
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "recommenders" / "home" / ".weaverec.abcdefgh.part").mkdir()
    for damage in DAMAGES:
        damage(folder)
    monkeypatch.setattr("weft.stages.executor._Schedule", None)  # no stage is to be done
    assert run(validate(WeaveRecRecipe, recipe(backbone)), folder, workers=1) == finished[1]
    assert tree(folder) == whole and is_whole(folder)
    assert not list((folder / "recommenders").rglob("*.part"))


def test_a_damaged_stage_is_named_and_made_again(
    finished: tuple[Path, RunReport], backbone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    whole = tree(folder)
    weave = WeaveRec.of(Plan(validate(WeaveRecRecipe, recipe(backbone)), None, "cpu"))
    branch = weave.target_branch("home").folder(folder)
    curve = (branch / "curve.json").read_bytes()
    (branch / "curve.json").write_text("[]")  # emptied after all that rests on it was done
    evaluated = next((folder / "stages").glob("EvaluateWeights-*"))
    flip(evaluated / "result" / "ranks.parquet")
    (folder / "report.json").unlink()
    with pytest.warns(WeftNotice) as notices:
        report = run(validate(WeaveRecRecipe, recipe(backbone)), folder, workers=1)
    words = [str(one.message) for one in notices if one.category is WeftNotice]
    assert report.model_copy(update={"timings": {}}) == finished[1].model_copy(
        update={"timings": {}}
    )
    assert len(words) == 2 and all("is made again" in one for one in words)
    assert any(f"(curve.json has 2 bytes, not {len(curve):,}," in one for one in words)
    assert any("(result/ranks.parquet was changed, " in one for one in words)
    assert tree(folder) == whole


def test_a_record_of_places_removes_nothing_else(tmp_path: Path) -> None:
    for name in ("results/home/old", "recommenders/home/new", "stages"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    places = ["../mine", "results/../../mine", "stages", "results/home/old", "results/home", 3]
    write_json(tmp_path / "run" / RECORD, {"places": places})
    record_places(tmp_path / "run", [tmp_path / "run" / "recommenders/home/new"])
    assert (tmp_path / "mine").is_dir() and (tmp_path / "run" / "stages").is_dir()
    assert not (tmp_path / "run" / "results/home/old").exists()
    assert (tmp_path / "run" / "results/home").is_dir()

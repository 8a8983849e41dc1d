"""The terminal as a person meets it: exit codes, one sentence for an error, nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import make_shop

from weft.adapters import LoraSettings, from_attached
from weft.backbones import load_backbone
from weft.cli.main import main
from weft.data.folder import save_domain
from weft.errors import WeftError
from weft.recommenders.equipped import LoraBackbone
from weft.recommenders.saved import load_recommender, save_recommender
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings
from weft.report.model import RunReport


def weft(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def refused(*arguments: str | Path) -> str:
    """Run a command that must be refused; returns its one sentence."""
    done = weft(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.stderr


Say = Callable[..., str]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """`refused` in this process, for errors that need no process of their own."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["weft", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert stopped.value.code == 2 and out == ""
        assert err.startswith("weft: ") and len(err.strip().splitlines()) == 1
        return err

    return run


@pytest.fixture(scope="module")
def model(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recommender's folder, hardly trained."""
    backbone = load_backbone(str(tiny_bert), precision="float32")
    settings = BiEncoderSettings(history_tokens=40)
    recommender = BiEncoder(LoraBackbone(backbone, LoraSettings(rank=2, alpha=4)), settings)
    for linear in recommender.attached.values():
        linear.b.data.fill_(1e-3)
    manifest = {
        "backbone": {"name": str(tiny_bert), "fingerprint": backbone.fingerprint},
        "domains": ["shop"],
        "recommender": settings.model_dump(mode="json"),
    }
    folder = tmp_path_factory.mktemp("models") / "model"
    save_recommender(from_attached(recommender.attached, manifest), make_shop().items, folder)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, tiny_bert: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"domains: [home, toys]\nmall: {{users: 40, items: 40}}\nbackbone: {tiny_bert}\n"
    )
    return path


@pytest.fixture
def report(tmp_path: Path) -> Path:
    values = RunReport(title="t", system="s", summary="", featured="x", domains=[])
    (tmp_path / "run").mkdir()
    values.save(tmp_path / "run")
    return tmp_path / "run"


def listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['weft', '--help']\n"
        "from weft.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'polars', 'numpy', 'scipy', 'plotly', 'accelerate',"
        " 'pydantic', 'rich.progress'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for verb in ("demo", "run", "data", "recommend", "evaluate", "merge", "compare", "report"):
        assert verb in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("domains: [a, b]\nbranch: {}\n", "branch: not known"),
        ("domains: [a]\n", "domains: needs at least 2 entries"),
        ("domains: [a, a]\n", "every domain needs a name of its own"),
        ("domains: [a, b]\nbranches: {learning_rate: 0}\n", "branches.learning_rate"),
        ("domains: [a, b\n", "is not valid YAML"),
        ("just words\n", "holds no mapping of settings"),
        ("domains: [a, b]\n", "say where with --data"),
        (
            "domains: [home, toys]\nmall: {users: 40, items: 40}\nbackbone: no/such\n",
            "backbone 'no/such'",
        ),
    ],
)
def test_a_bad_recipe_is_one_sentence(tmp_path: Path, refuse: Say, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert words in refuse("run", file, "--out", tmp_path / "out")
    assert not list(tmp_path.glob("out/stages/*"))


def test_a_recipe_or_folder_that_is_not_there_is_named(tmp_path: Path, refuse: Say) -> None:
    assert "no.yaml does not exist" in refused("run", tmp_path / "no.yaml")  # a real process
    model = tmp_path / "model"
    assert f"{model} does not exist" in refuse("recommend", "--model", model, "--history", "x")
    assert "is not an adapter folder" in refuse("merge", model, "--out", tmp_path / "merged")
    assert "is not an adapter folder" in refuse("inspect", model)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("domains: [a, b]\n")
    said = refuse("run", recipe, "--data", tmp_path, "--out", tmp_path / "out")
    assert "domain 'a': there is no folder" in said


def test_version_and_unknown_command() -> None:
    assert weft("--version").stdout.startswith("weft ")
    assert weft("weave").returncode == 2


def test_a_place_that_cannot_be_written_is_named_before_any_work(
    tmp_path: Path, recipe: Path, report: Path, model: Path, refuse: Say
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,title\nu,i,1,t\n")
    save_domain(make_shop(), tmp_path / "shop")
    evaluate = ("evaluate", "--model", model, "--domain", tmp_path / "shop", "--out")
    before = listing(tmp_path)
    assert f"{file} is not a folder" in refuse("run", recipe, "--out", file)
    for command in [
        ("run", recipe, "--out"),
        ("demo", "--out"),
        ("merge", model, "--out"),
        evaluate,
        ("data", "ingest", tmp_path / "log.csv"),
        ("report", report, "--html"),
        ("report", report, "--html", tmp_path / "r.html", "--markdown"),
    ]:
        said = refuse(*command, file / "x")
        assert f"{file / 'x'} can't be written: {file} is not a folder" in said
    assert f"{tmp_path} is a folder; name a file" in refuse("report", report, "--html", tmp_path)
    for command in (evaluate, ("merge", model, "--out")):
        assert f"{tmp_path} exists already" in refuse(*command, tmp_path)
    assert listing(tmp_path) == before and file.read_text() == "mine"


def test_evaluate_looks_at_out_before_it_measures(tmp_path: Path, refuse: Say) -> None:
    nothing = tmp_path / "nothing"
    said = refuse("evaluate", "--model", nothing, "--domain", nothing, "--out", tmp_path.parent)
    assert f"{tmp_path.parent} exists already" in said


def test_an_error_of_the_system_is_one_sentence(
    refuse: Say, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, before = report / "page.md", listing(report)

    def fail(error: Exception) -> Callable[..., None]:
        def write(*_: Any, **__: Any) -> None:
            raise error

        return write

    for error, words in [
        (OSError(28, "No space left on device"), f"{page} can't be written: the disk is full"),
        (RuntimeError("IO: x (os error 28)"), f"{page} can't be written: the disk is full"),
        (PermissionError(13, "Permission denied", "/secret"), "/secret: permission denied"),
        (OSError(5, "Input/output error", "/dev/x"), "/dev/x: Input/output error"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", fail(error))
            assert words in refuse("report", report, "--markdown", page)
    assert listing(report) == before


@pytest.mark.parametrize("device", ["foo", "cuda:", "cuda:x", "CUDA", "cpu:1", "", "cuda:99"])
def test_a_device_that_is_not_there_is_named_before_any_work(
    device: str, recipe: Path, refuse: Say, tmp_path: Path
) -> None:
    said = refuse("run", recipe, "--out", tmp_path / "out", "--device", device)
    assert f"device '{device}' is not" in said and not (tmp_path / "out").exists()


def test_cuda_without_a_gpu(
    recipe: Path, tiny_bert: Path, refuse: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = "device 'cuda' is not available: torch finds no usable GPU here"
    assert words in refuse("run", recipe, "--out", tmp_path / "out", "--device", "cuda")
    with pytest.raises(WeftError, match=words):
        load_backbone(str(tiny_bert), device="cuda")


def test_a_full_disk_names_the_asked_folder_and_leaves_nothing(
    model: Path, tmp_path: Path, refuse: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    said = refuse("merge", model, "--out", tmp_path / "merged")
    assert f"{tmp_path / 'merged' / 'adapter_config.json'} can't be written: the disk is" in said
    assert listing(tmp_path) == []


def test_a_history_that_says_nothing_is_refused(model: Path, refuse: Say) -> None:
    for history in ("", "  "):
        said = refuse("recommend", "--model", model, "--history", history)
        assert "history 1: entry 1 is empty; give a title or an item id" in said
    recommender = load_recommender(model, precision="float32")
    histories: Any
    for histories, words in [
        ([[]], "history 1 needs at least one title"),
        ([["red lamp"], ["red mug", " "]], "history 2: entry 2 is empty"),
        (["red lamp"], "history 1 must be a list of titles, not a str: 'red lamp'"),
        ("red lamp", "not a string"),
        ([[3]], "history 1 must hold titles, not a int: 3"),
        ([None], "history 1 must be a list of titles, not a NoneType"),
    ]:
        with pytest.raises(WeftError, match=words):
            recommender.recommend(histories)
    assert recommender.recommend([]) == []


def test_a_model_folder_that_cannot_be_written_still_works(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_recommender(model, precision="float32").recommend([["red lamp"]], k=3)
    for place, block in enumerate([".vectors", None]):
        copy = tmp_path / str(place)
        copy.mkdir()
        for file in model.glob("*.*"):
            if file.is_file():
                (copy / file.name).write_bytes(file.read_bytes())
        if block is None:  # as root, permissions keep nobody out
            monkeypatch.setattr(os, "access", lambda *_: False)
        else:
            (copy / block).write_text("a file, so no folder can be made")
        before = listing(copy)
        found = load_recommender(copy, precision="float32").recommend([["red lamp"]], k=3)
        assert found == expected and listing(copy) == before


def test_a_recommender_block_that_is_wrong_names_its_file(model: Path, tmp_path: Path) -> None:
    import json
    import shutil

    copy = shutil.copytree(model, tmp_path / "model")
    said = json.loads((copy / "weft.json").read_text())
    said["recommender"]["history_items"] = 0
    (copy / "weft.json").write_text(json.dumps(said))
    with pytest.raises(WeftError, match=r"weft\.json: recommender: history_items: "):
        load_recommender(copy)


def test_the_choices_of_a_merge_are_in_its_help() -> None:
    help_text = weft("merge", "--help").stdout
    assert "delta|factors" in help_text
    assert "'sum' is not one of" in weft("merge", "x", "--out", "y", "--space", "sum").stderr

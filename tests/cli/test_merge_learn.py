"""`weft merge --learn`: from folders and files of items to a recommender, at the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from moved_models import READING, adapter_of, catalogue, moved
from tiny import THINGS
from typer.testing import CliRunner

from weft.adapters import Adapter, Factors, save_adapter
from weft.artifacts.atomic import read_json, write_json
from weft.backbones.load import fingerprint_of
from weft.cli.main import app
from weft.data.catalogue import save_catalogue
from weft.errors import WeftError
from weft.recommenders.saved import save_recommender

RUN = CliRunner()
SETTINGS = "steps: 8\nlearning_rate: 0.02\nheld_out: 8\n"


@pytest.fixture
def place(tiny_bert: Path, tmp_path: Path) -> Path:
    """Two checkpoints that say how they read items, their catalogues, and settings."""
    for seed in (1, 2):
        part = moved(tiny_bert, tmp_path / f"part{seed}", seed)
        write_json(
            part / "weft.json",
            {
                "kind": "checkpoint",
                "backbone": {"name": str(tiny_bert), "fingerprint": "f" * 64},
                "recommender": READING.model_dump(mode="json"),
            },
        )
        (tmp_path / f"items{seed}").mkdir()
        save_catalogue(catalogue(24 * seed, 24), tmp_path / f"items{seed}")
    (tmp_path / "learn.yaml").write_text(SETTINGS, "utf-8")
    return tmp_path


def files(place: Path) -> list[str]:
    return [str(place / f"items{seed}" / "items.parquet") for seed in (1, 2)]


def parts(place: Path) -> list[str]:
    return [str(place / f"part{seed}") for seed in (1, 2)]


def learn(place: Path, *more: str, out: str = "out"):  # type: ignore[no-untyped-def]
    argv = ["merge", *parts(place), "--learn", str(place / "learn.yaml"), *more]
    return RUN.invoke(app, [*argv, "-o", str(place / out)])


def refusal(outcome) -> str:  # type: ignore[no-untyped-def]
    """What the command says, which ends it with code 2 (see cli.main)."""
    assert isinstance(outcome.exception, WeftError), outcome.output
    message = str(outcome.exception)
    assert "\n" not in message
    return message


def test_checkpoints_and_catalogues_are_enough(place: Path) -> None:
    """The base is the one that the parts name; the result scores items as they do."""
    outcome = learn(place, "--catalogues", *files(place))
    assert outcome.exit_code == 0, outcome.output
    assert "learned weights: " in outcome.stderr
    manifest = read_json(place / "out" / "weft.json")
    weights = [part["weight"] for part in manifest["merge"]["parts"]]
    assert all(abs(weight - 0.2) > 1e-3 for weight in weights)
    argv = ["recommend", "--model", str(place / "out"), "--items", files(place)[0], "--json"]
    answer = RUN.invoke(app, [*argv, "--history", f"mug red {THINGS[0]}", "-k", "3"])
    assert answer.exit_code == 0, answer.output
    assert len(json.loads(answer.stdout)["items"]) == 3
    replayed = RUN.invoke(
        app, ["merge", str(place / "out" / "weft.json"), "-o", str(place / "again")]
    )
    assert replayed.exit_code == 0, replayed.output
    one, other = ((place / n / "model.safetensors").read_bytes() for n in ("out", "again"))
    assert one == other


def test_options_and_parts_may_stand_in_any_order(place: Path) -> None:
    argv = ["merge", "--learn", str(place / "learn.yaml"), "--catalogues", *files(place)]
    outcome = RUN.invoke(app, [*argv, *parts(place), "-o", str(place / "other")])
    assert outcome.exit_code == 0, outcome.output
    assert learn(place, "--catalogues", *files(place)).exit_code == 0
    one, other = ((place / n / "model.safetensors").read_bytes() for n in ("out", "other"))
    assert one == other


def test_layer_wise_ties_is_written_as_rules(place: Path) -> None:
    (place / "learn.yaml").write_text(SETTINGS + "weights: layer\n", "utf-8")
    more = ["--method", "ties", "--weigh", "after", "--dry-run"]
    outcome = learn(place, *more, "--catalogues", *files(place))
    assert outcome.exit_code == 0, outcome.output
    assert "pattern:" in outcome.stdout
    assert not (place / "out").exists()


def test_recommenders_of_adapters_bring_their_catalogues(tiny_bert: Path, place: Path) -> None:
    folders = []
    for seed in (1, 2):
        adapter = adapter_of(tiny_bert, seed, scale=0.2)
        manifest = {**adapter.manifest, "recommender": READING.model_dump(mode="json")}
        object.__setattr__(adapter, "manifest", manifest)
        folders.append(place / f"adapter{seed}")
        save_recommender(adapter, catalogue(24 * seed, 24), folders[-1])
    argv = ["merge", *map(str, folders), "--learn", str(place / "learn.yaml")]
    outcome = RUN.invoke(app, [*argv, "-o", str(place / "out")])
    assert outcome.exit_code == 0, outcome.output
    answer = RUN.invoke(app, ["recommend", "--model", str(place / "out"), "--history", "red mug"])
    assert answer.exit_code == 0, answer.output
    save_adapter(adapter_of(tiny_bert, 3), place / "bare")
    outcome = RUN.invoke(app, [*argv[:2], str(place / "bare"), *argv[3:], "-o", str(place / "x")])
    assert "--learn needs --catalogues" in refusal(outcome)


def part(seed: int, shapes: dict[str, tuple[int, int]]) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    factors = {
        name: Factors(torch.randn(2, inside, generator=random), torch.ones(out, 2), 1.0)
        for name, (out, inside) in shapes.items()
    }
    return Adapter(factors, {"backbone": {"name": "tiny", "fingerprint": "f" * 64}})


def as_peft_wrote_it(folder: Path, name: str) -> Path:
    """Without weft's manifest: the backbone is known by a name alone."""
    (folder / "weft.json").unlink()
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": name})
    return folder


def test_the_base_names_the_backbone_of_adapters_that_peft_wrote(
    tiny_bert: Path, place: Path
) -> None:
    folders = []
    for seed in (1, 2):
        save_adapter(adapter_of(tiny_bert, seed, scale=0.2), place / f"peft{seed}")
        folders.append(as_peft_wrote_it(place / f"peft{seed}", "someone/tiny"))
    argv = ["merge", *map(str, folders), "--learn", str(place / "learn.yaml")]
    argv += ["--catalogues", *files(place), "-o", str(place / "out")]
    assert refusal(RUN.invoke(app, argv)) == (
        "--learn needs --base: the backbone that the adapters were trained on"
    )
    outcome = RUN.invoke(app, [*argv, "--base", str(tiny_bert)])
    assert outcome.exit_code == 0, outcome.output
    assert "learned weights: " in outcome.stderr
    manifest = read_json(place / "out" / "weft.json")
    backbone = {"name": str(tiny_bert.resolve()), "fingerprint": fingerprint_of(tiny_bert)}
    assert {key: manifest["backbone"][key] for key in backbone} == backbone
    # Without learning, the base does the same; and other weights are told from these.
    argv = ["merge", *map(str, folders), "--base", str(tiny_bert), "-o", str(place / "plain")]
    assert RUN.invoke(app, argv).exit_code == 0
    assert read_json(place / "plain" / "weft.json")["backbone"] == manifest["backbone"]
    save_adapter(adapter_of(tiny_bert, 3), place / "own")
    other = moved(tiny_bert, place / "moved", 9)
    save_adapter(adapter_of(tiny_bert, 4), place / "second")
    argv = ["merge", str(place / "second"), str(place / "own"), "--base", str(other)]
    assert "the adapter belongs to backbone" in refusal(
        RUN.invoke(app, [*argv, "-o", str(place / "x")])
    )


def test_one_backbone_is_stated_for_learning_too(tiny_bert: Path, place: Path) -> None:
    folders = []
    for seed in (1, 2):
        save_adapter(adapter_of(tiny_bert, seed, scale=0.2), place / f"peft{seed}")
        folders.append(as_peft_wrote_it(place / f"peft{seed}", f"someone/tiny-{seed}"))
    argv = ["merge", *map(str, folders), "--learn", str(place / "learn.yaml")]
    argv += ["--catalogues", *files(place), "-o", str(place / "out")]
    assert "name it (--backbone)" in refusal(RUN.invoke(app, [*argv, "--base", str(tiny_bert)]))
    outcome = RUN.invoke(app, [*argv, "--backbone", str(tiny_bert)])
    assert outcome.exit_code == 0, outcome.output
    manifest = read_json(place / "out" / "weft.json")
    assert manifest["backbone"]["fingerprint"] == fingerprint_of(tiny_bert)
    assert manifest["merge"]["recipe"]["backbone"] == str(tiny_bert)
    argv[-1] = str(place / "again")
    union = RUN.invoke(app, [*argv, "--backbone", str(tiny_bert), "--tokenizer", "union"])
    assert "--learn takes no --tokenizer but rows" in refusal(union)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"encoder.layer.0.attention.self.query": (32, 16)}, "'encoder.layer.0.attention.self.query' of a is [32, 16], and [32, 32] in the backbone"),
        ({"encoder.layer.9.attention.self.query": (32, 32)}, "but the backbone"),
    ],
)  # fmt: skip
def test_a_base_that_the_adapters_do_not_fit_is_refused(
    tiny_bert: Path, tmp_path: Path, shape: dict[str, tuple[int, int]], words: str
) -> None:
    save_adapter(part(1, shapes=shape), tmp_path / "a")
    as_peft_wrote_it(tmp_path / "a", "someone/tiny")
    argv = ["merge", str(tmp_path / "a"), "--base", str(tiny_bert), "-o", str(tmp_path / "out")]
    assert words in refusal(RUN.invoke(app, argv))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "--learn needs --catalogues"),
        (["--catalogues", "nowhere.parquet", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["--catalogues"], "--catalogues needs a file of items for each part"),
        (["--weights", "0.5", "0.5"], "say --learn or weights, not both"),
        (["--method", "ties", "--catalogues", "FILES"], "does not keep the parts apart"),
        (["--catalogues", "FIRST"], "2 parts need 2 catalogues"),
        (["--base", "nowhere", "--catalogues", "FILES"], "nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_learned_is_one_sentence(place: Path, more: list[str], words: str) -> None:
    named = {"FILES": files(place), "FIRST": files(place)[:1]}
    outcome = learn(place, *(word for one in more for word in named.get(one, [one])))
    assert words in refusal(outcome)
    assert not (place / "out").exists()


def test_settings_are_checked(place: Path) -> None:
    for text, words in (
        ("stepz: 3", "stepz"),
        ("- 3", "no mapping"),
        ("seed: x", "seed must be a whole number"),
    ):
        (place / "learn.yaml").write_text(text, "utf-8")
        assert words in refusal(learn(place, "--catalogues", *files(place)))
    outcome = RUN.invoke(
        app, ["merge", *parts(place), "--learn", "collaborativ", "-o", str(place / "out")]
    )
    assert "collaborative or a YAML file" in refusal(outcome)


def test_parts_that_read_items_otherwise_are_refused(place: Path) -> None:
    manifest = read_json(place / "part2" / "weft.json")
    manifest["recommender"]["history_items"] = 3
    write_json(place / "part2" / "weft.json", manifest)
    outcome = learn(place, "--catalogues", *files(place))
    assert "part2 reads items otherwise than" in refusal(outcome)
    argv = [
        sys.executable,
        "-m",
        "weft.cli.main",
        "merge",
        *parts(place),
        "--learn",
        "collaborative",
    ]
    done = subprocess.run([*argv, "-o", str(place / "out")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1

"""`weft merge` and `weft methods` as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from weft.adapters import Adapter, Factors, load_adapter, save_adapter
from weft.cli.main import app, main
from weft.cli.merge_arguments import split_options
from weft.errors import WeftError, WeftNotice


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tiny Qwen2 checkpoints, m0 to m3, and two adapters, p0 and p1."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("models")
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        tie_word_embeddings=False,
    )
    for seed in range(4):
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(folder / f"m{seed}")
    for seed in range(2):
        factors = {"layers.0.query": Factors(torch.randn(2, 5), torch.randn(4, 2), 2.0)}
        manifest = {"backbone": {"name": "tiny", "fingerprint": "f" * 64}}
        save_adapter(Adapter(factors, manifest), folder / f"p{seed}")
    return folder


Say = Callable[..., str]


@pytest.fixture
def weft(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run a command where m0 … p1 lie; its output, or what it was refused with."""
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    monkeypatch.chdir(tmp_path)

    def run(text: str, code: int = 0) -> str:
        found = CliRunner().invoke(app, text.split())
        if isinstance(found.exception, WeftError):
            assert code == 2 and found.stdout == ""
            return str(found.exception)
        assert found.exit_code == code, found.output
        return found.output

    return run


def tensors(folder: str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def close(found: dict[str, Tensor], expected: Callable[[str], Tensor]) -> None:
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected(name), rtol=1e-5, atol=1e-6)


def test_weights_one_after_another(weft: Say) -> None:
    said = weft("merge m0 m1 m2 --weights 0.5 -0.3 2e-1 -o out")
    note, first, second = said.splitlines()
    assert note.startswith("note: the weights sum to 0.4, so every tensor is 0.4 times a mean")
    assert first.startswith("merged 3 checkpoints into out: ") and first.endswith(" s")
    assert second == "  weights m0 .5, m1 -.3, m2 .2"
    parts = [tensors(f"m{k}") for k in range(3)]
    close(
        tensors("out"),
        lambda n: 0.5 * parts[0][n].double() - 0.3 * parts[1][n].double() + 0.2 * parts[2][n],
    )
    weft("merge --weights 0.5,-0.3,2e-1 m0 m1 m2 --out out2")
    weft("merge m0 m1 m2 --weight=0.5 --weight -0.3 --weight .2 -o out3")
    whole = [Path(out, "model.safetensors").read_bytes() for out in ("out", "out2", "out3")]
    assert whole[0] == whole[1] == whole[2]


def test_a_real_process_with_a_base_and_options_of_the_method(weft: Say, tmp_path: Path) -> None:
    text = (
        "merge m0 m1 --method ties --density 1 --elect weighted --base m3 --weights 0.5 0.25 -o o"
    )
    command = [sys.executable, "-m", "weft.cli.main", *text.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    # No bar where it is no terminal; one line for what can't be compared.
    assert done.stderr.startswith("note: none of m0, m1 and base has a tokenizer file: ")
    assert len(done.stderr.splitlines()) == 1 and len(done.stdout.splitlines()) == 2
    base, *parts = (tensors(f"m{k}") for k in (3, 0, 1))

    def expected(name: str) -> Tensor:
        taus = [part[name].double() - base[name].double() for part in parts]
        signs = torch.sign(0.5 * taus[0] + 0.25 * taus[1])
        agree = [(torch.sign(tau) == signs).double() for tau in taus]
        total = 0.5 * taus[0] * agree[0] + 0.25 * taus[1] * agree[1]
        return base[name].double() + total / (0.5 * agree[0] + 0.25 * agree[1]).clamp(min=0.25)

    close(tensors("o"), expected)


def test_the_mean_of_several_is_a_base(weft: Say) -> None:
    weft(
        "merge m0 --method task_arithmetic --weights 1.5 --base m1 --base m2 -o out --dtype float32"
    )
    one, *others = (tensors(f"m{k}") for k in range(3))
    mean = {n: (others[0][n].double() + others[1][n].double()) / 2 for n in one}
    close(tensors("out"), lambda n: mean[n] + 1.5 * (one[n].double() - mean[n]))


def test_options_that_a_wrapper_does_not_know_go_to_the_method_it_holds(weft: Say) -> None:
    text = "merge m0 m1 --base m3 --method dare --drop-rate .3 --then ties --density=0.9 --dry-run"
    said = yaml.safe_load(weft(f"{text} --no-normalize --elect weighted"))
    method = said["method"]
    assert (method["name"], method["drop_rate"]) == ("dare", 0.3)
    then = method["then"]
    assert (then["name"], then["density"], then["elect"]) == ("ties", 0.9, "weighted")
    assert then["normalize"] is False
    assert [part["weight"] for part in said["parts"]] == [1.0, 1.0]
    assert not Path("out").exists()


def test_a_dry_run_says_that_the_output_is_there_already(weft: Say) -> None:
    Path("out").mkdir()
    Path("out/own.txt").write_text("mine")
    assert "out exists already" in weft("merge m0 m1 -o out --dry-run", code=2)
    assert weft("merge m0 m1 -o new --dry-run").startswith("method:")
    assert not Path("new").exists()


def test_a_recipe_a_dry_run_and_a_manifest_give_the_same_bytes(weft: Say) -> None:
    recipe = """
        method: {name: della, drop_rate: 0.3, then: {name: ties, density: 0.8}}
        parts:
          - {path: m0, weight: [0, 1]}
          - {path: m1, weight: [{filter: mlp, value: 0.5}, {value: 1}]}
        base: m3
        dtype: bfloat16
        shard_size: 8KB
    """
    Path("r.yaml").write_text(recipe)
    weft("merge r.yaml -o out")
    Path("dry.yaml").write_text(weft("merge r.yaml --dry-run"))
    weft("merge dry.yaml -o again")
    weft("merge out/weft.json -o replayed")
    files = sorted(file.name for file in Path("out").glob("*.safetensors"))
    assert len(files) > 1
    for other in ("again", "replayed"):
        assert sorted(file.name for file in Path(other).glob("*.safetensors")) == files
        for file in files:
            assert Path(other, file).read_bytes() == Path("out", file).read_bytes()


def test_a_mergekit_file_runs_unchanged(weft: Say) -> None:
    Path("m.yaml").write_text("""
        slices:
          - sources:
              - {model: m0, layer_range: [0, 3]}
              - {model: m1, layer_range: [0, 3]}
        merge_method: linear
        parameters:
          int8_mask: true
          weight:
            - {filter: norm, value: 3}
            - {filter: no_such, value: 3}
            - value: 1
        dtype: float32
    """)
    with pytest.warns(WeftNotice, match="'int8_mask' has no effect"):
        said = weft("merge m.yaml -o out")
    assert "note: filter 'no_such' fits no tensor" in said
    one, other = tensors("m0"), tensors("m1")
    close(tensors("out"), lambda n: (one[n].double() + other[n].double()) / 2)


def test_adapters_as_before(weft: Say) -> None:
    said = weft("merge p0 p1 --out out --weight .5 --weight .5 --space delta")
    assert said.startswith("merged 2 adapters into out")
    deltas = [load_adapter(Path(f"p{k}")).factors["layers.0.query"].delta() for k in range(2)]
    merged = load_adapter(Path("out")).factors["layers.0.query"].delta()
    torch.testing.assert_close(merged, 0.5 * deltas[0] + 0.5 * deltas[1])


def wide_part(seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    factors = {
        f"layers.{n}.query": Factors(
            torch.randn(2, 24, generator=random), torch.randn(20, 2, generator=random), 1.0
        )
        for n in range(2)
    }
    return Adapter(factors, {"backbone": {"name": "tiny", "fingerprint": "f" * 64}})


def test_ranks_losses_and_weights_are_said(weft: Say, models: Path) -> None:
    for seed in range(2):
        save_adapter(wide_part(seed), Path(f"w{seed}"))
    found = CliRunner().invoke(app, ["merge", "w0", "w1", "--method", "ties", "-o", "full"])
    lines = found.stdout.splitlines()
    assert lines[1] == "  weights 1 each (the method's default)"
    assert lines[2].startswith(
        "  rank 20 in 2 modules; the parts have up to 2; nothing was cut off"
    )
    assert "--rank cuts it down" in lines[2] and found.stderr == ""

    found = CliRunner().invoke(
        app, ["merge", "w0", "w1", "--method", "ties", "--rank", "2", "-o", "cut"]
    )
    full, cut = (load_adapter(Path(name)) for name in ("full", "cut"))
    deltas = [full.factors[name].delta() for name in full.factors]
    apart = [full.factors[name].delta() - cut.factors[name].delta() for name in full.factors]
    lost = float(torch.cat(apart).norm() / torch.cat(deltas).norm())
    kept = float(torch.cat([f.delta() for f in cut.factors.values()]).norm()
                 / torch.cat(deltas).norm())  # fmt: skip
    each = [float(a.norm() / d.norm()) for a, d in zip(apart, deltas, strict=True)]
    worst = each.index(max(each))
    told = json.loads(Path("cut/weft.json").read_text())["merge"]["truncation"]
    assert (told["lost"], told["kept"]) == (
        pytest.approx(lost, rel=5e-3), pytest.approx(kept, rel=5e-3))  # fmt: skip
    assert told["worst"]["module"] == f"layers.{worst}.query"
    assert told["worst"]["lost"] == pytest.approx(max(each), rel=5e-3)
    assert lost > 0.05
    assert (
        f"rank 2 in 2 modules; the parts have up to 2; {kept:.0%} of the norm kept" in found.stdout
    )
    assert found.stderr.startswith(f"warning: rank 2 can't hold what 'ties' gives: {lost:.0%} of ")

    found = CliRunner().invoke(
        app, ["merge", "w0", "w1", "--weights", "0.5", "0.25", "--rank", "4", "-o", "sum"]
    )
    assert "  weights w0 .5, w1 .25\n" in found.stdout and found.stderr == ""
    assert "100% of the norm kept, 0% cut off" in found.stdout
    said = CliRunner().invoke(app, ["merge", "m0", "m1", "-o", "both"]).stdout
    assert said.endswith("  weights .5 each (the method's default)\n")


def test_a_merged_recommender_stays_one(weft: Say) -> None:
    from tiny import make_shop

    from weft.data.catalogue import load_catalogue
    from weft.recommenders.item_counts import ItemCounts, load_item_counts
    from weft.recommenders.saved import save_recommender

    items = make_shop().items
    taken = np.arange(len(items))
    counts = ItemCounts(items, taken, taken // 2)
    save_recommender(load_adapter(Path("p0")), items, Path("shop"), counts=counts)
    weft("merge shop p1 -o out")
    assert load_catalogue(Path("out")).item_ids == items.item_ids
    counted = load_item_counts(Path("out"), items)
    assert counted is not None and counted.interactions.tolist() == taken.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("m0 m1 --weights 1 -o out", "2 parts need 2 weights, not 1"),
        ("m0 m1 --weights half 1 -o out", "a number for each part, and 'half' is none"),
        ("m0 m1 -o out --weights", "--weights needs a number for each part"),
        ("m0 r.yaml -o out", "r.yaml is a recipe, which names every part: give it alone"),
        ("m0 m1 --weights 1 2 --weight 1 -o out", "say --weights or --weight, not both"),
        ("m0 m1", "say where to: -o FOLDER"),
        ("m0 p0 -o out", "'m0' is a checkpoint, 'p0' is an adapter"),
        ("m0 m1 --method ties -o out", "method 'ties' needs a base"),
        ("m0 m1 --method tise -o out", "there is no method 'tise'; methods are linear, "),
        ("m0 m1 --method ties --base m3 --densty 1 -o out", "no option --densty; it has --density"),
        ("m0 m1 --method dare --base m3 --densty 1 -o out", "'dare', then 'task_arithmetic': "),
        ("m0 m1 --method slerp --t 1 -o out", "no option --t; it has --parallel, --norm"),
        ("m0 m1 --method ties --base m3 --density 7 -o out", "method 'ties': density: "),
        ("m0 m1 --shard-size much -o out", "'much' is no size"),
        ("m0 m1 --memory 1KB -o out", "memory: this merge needs at least"),
        ("m0 m1 -o m3", "m3 exists already"),
        ("m0 m1 --rank 2 -o out", "rank is for adapters"),
        ("no.yaml -o out", "no.yaml does not exist"),
        ("m0 m1 --method ties --base m3 --density -o out", "--density needs a value"),
        ("m0 m1 --method ties --base m3 -o out --density", "--density needs a value"),
        ("r.yaml --density 1 -o out", "r.yaml is a recipe: write density there"),
        ("r.yaml --base m3 -o out", "r.yaml is a recipe: write base there"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    weft: Say, tmp_path: Path, text: str, words: str
) -> None:
    before = sorted(tmp_path.iterdir())
    said = weft(f"merge {text}", code=2)
    assert words in said and "\n" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_arguments_are_told_apart() -> None:
    known = {"-o": False, "--base": False, "--weights": False, "--dry-run": True}
    assert split_options(["a", "--weights", "1", ",2"], known)[0] == ["a", "--weights=1,2"]
    text = "a --weights 1 -2.5e-3 .5,+4 b --density 0.2 --base c --dry-run d --x=-1 -- --y"
    rest, options = split_options(text.split(), known)
    assert rest == [
        *("a", "--weights=1,-2.5e-3,.5,+4", "b", "--base", "c", "--dry-run", "d", "--", "--y")
    ]
    assert options == {"density": "0.2", "x": "-1"}
    for text, value in [("--normalize a", "true"), ("--no-normalize a", "false")]:
        assert split_options(text.split(), known) == (["a"], {"normalize": value})
    assert split_options(["--normalize", "no", "a"], known) == (["a"], {"normalize": "no"})


def test_methods_are_listed_and_told_in_full(weft: Say) -> None:
    from weft.merging.methods import METHODS

    listed = weft("methods")
    for name in METHODS:
        assert f"\n{name} " in f"\n{listed}"
    told = weft("methods ties")
    for words in ("arXiv 2306.01708", "--density (number, default 0.2)", "sign Σ τ'_k"):
        assert words in told
    said = json.loads(weft("methods --json"))
    assert [one["name"] for one in said] == list(METHODS)
    assert json.loads(weft("methods ties --json"))["needs_base"] is True
    assert "there is no method 'tise'" in weft("methods tise", code=2)


def test_a_vocabulary_is_chosen_and_notes_go_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, added in {"a": ("<x>", "<y>"), "b": ("<y>", "<x>")}.items():
        Path(name).mkdir()
        weights = {"model.embed_tokens.weight": torch.arange(8.0).view(4, 2)}
        save_file(weights, Path(name, "model.safetensors"))
        entries = [
            {"id": 2 + k, "content": token, "special": True} for k, token in enumerate(added)
        ]
        values = {"added_tokens": entries, "model": {"vocab": {"u": 0, "v": 1}}}
        Path(name, "tokenizer.json").write_text(json.dumps(values))
    Path("a", "own.py").write_text("")

    def run(text: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weft", *text.split()])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    code, out, err = run("merge a b -o out")
    assert (code, out) == (2, "") and err.startswith("weft: the tokenizers of a and b differ: ")
    code, out, err = run("inspect a b --base a --json")
    assert code == 0 and json.loads(out) and "note: the tokenizers of a and b differ" in err
    code, out, err = run("merge a b --weights 0.5 0.5 --tokenizer base -o out")
    assert code == 0 and out.startswith("merged 2 checkpoints into out")
    assert err.splitlines() == ["note: not copied from a: own.py (code is never copied)"]
    merged = load_file("out/model.safetensors")["model.embed_tokens.weight"]
    assert merged.tolist() == [[0, 1], [2, 3], [5, 6], [5, 6]]  # rows 2 and 3 change places in b
    code, out, _ = run("merge a b --tokenizer union --dry-run")
    assert code == 0 and yaml.safe_load(out)["tokenizer"] == "union"
    code, _, err = run("merge out/weft.json --tokenizer base -o again")
    assert code == 2 and "write tokenizer there" in err

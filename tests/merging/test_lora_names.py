"""Adapters of one model whose modules are called otherwise, because something wrapped the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_adapters import adapter, delta
from safetensors.torch import load_file, save_file

from weft.adapters import save_adapter
from weft.errors import WeftError
from weft.merging import merge_adapters
from weft.merging.comparing.comparison import contrast_adapters
from weft.merging.lora.module_names import bare
from weft.merging.merge import merge
from weft.merging.plan import plan_recipe

PLAIN = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp")
WRAPPERS = {
    "sees images, older": lambda name: "language_model." + name,
    "sees images": lambda name: name.replace("model.", "model.language_model.", 1),
    "without its head": lambda name: name.removeprefix("model."),
    "compiled": lambda name: "_orig_mod." + name,
    "compiled inside": lambda name: name.replace("layers.", "layers._orig_mod."),
    "data parallel": lambda name: "module." + name,
    "PEFT's prefix twice": lambda name: "base_model.model." + name,
    "sentence-transformers": lambda name: "0.auto_model." + name.removeprefix("model."),
    "of another library": lambda name: "llm.base_model.model." + name,
    "sharded": lambda name: name.replace(".self", "._fsdp_wrapped_module.self"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_part_is_the_same_as_a_plain_one(wrapper: str) -> None:
    first, plain = adapter(1, modules=PLAIN), adapter(2, modules=PLAIN)
    wrapped = adapter(2, modules=[WRAPPERS[wrapper](name) for name in PLAIN])
    wanted = merge_adapters([first, plain], weights=[0.25, 0.75])
    for parts, names in (([first, wrapped], first), ([wrapped, first], wrapped)):
        weights = [0.25, 0.75] if parts[0] is first else [0.75, 0.25]
        found = merge_adapters(parts, weights=weights)
        assert list(found.factors) == list(names.factors)  # those of the first part
        for name, plainly in zip(found.factors, PLAIN, strict=True):
            torch.testing.assert_close(delta(found, name), delta(wanted, plainly))
        assert found.manifest["parents"] == [part.weights_hash for part in parts]
        assert "missing" not in found.manifest["merge"]


def test_towers_of_one_model_are_not_taken_for_each_other() -> None:
    text, image = "model.language_model.layers.0.q", "model.vision_tower.layers.0.q"
    both, other = adapter(1, modules=(text, image)), adapter(2, modules=("model.layers.0.q",))
    found = merge_adapters([both, other], weights=[1.0, 1.0])
    torch.testing.assert_close(
        delta(found, text), delta(both, text) + delta(other, "model.layers.0.q")
    )
    torch.testing.assert_close(delta(found, image), delta(both, image))
    assert bare("encoder.layers.0.q") != bare("decoder.layers.0.q")
    # Where one part has both of two names that wrappers could explain, both stay what they are.
    twice = adapter(3, modules=("layers.0.q", "model.layers.0.q"))
    assert list(merge_adapters([twice, other]).factors) == ["layers.0.q", "model.layers.0.q"]


def test_a_module_of_one_part_alone_is_called_as_its_neighbours_are() -> None:
    first = adapter(1, modules=("model.layers.0.q", "model.layers.0.v"))
    more = ("language_model.model.layers.0.q", "language_model.model.layers.0.k")
    found = merge_adapters([first, adapter(2, modules=more)])
    assert list(found.factors) == ["model.layers.0.q", "model.layers.0.v", "model.layers.0.k"]


def test_saved_tensors_are_matched_too() -> None:
    saved = [{f"{prefix}score.weight": torch.full((2, 5), value)}
             for prefix, value in (("", 1.0), ("language_model.", 3.0))]  # fmt: skip
    modules = [("model.layers.0.q",), ("language_model.model.layers.0.q",)]
    parts = [
        adapter(k, modules=m, saved=s) for k, (m, s) in enumerate(zip(modules, saved, strict=True))
    ]
    found = merge_adapters(parts)
    assert list(found.saved) == ["score.weight"]
    assert torch.equal(found.saved["score.weight"], torch.full((2, 5), 2.0))


def test_parts_with_little_in_common_are_refused_unless_a_union_is_wanted(tmp_path: Path) -> None:
    q, mlp = adapter(1, modules=("l.0.q", "l.1.q", "l.2.q")), adapter(2, modules=("l.0.mlp",))
    with pytest.raises(WeftError) as refused:
        merge_adapters([q, mlp], labels=["books", "films"])
    assert str(refused.value) == (
        "films has no module in common with books ('l.0.mlp' against 'l.0.q'): if they belong to "
        "one model and each module is to keep its own part's change, allow it with --union "
        "(union: true)"
    )
    few = adapter(2, modules=("l.0.q", "l.0.mlp", "l.1.mlp", "l.2.mlp"))
    with pytest.raises(WeftError, match="films has only 1 of 3 modules in common with books"):
        merge_adapters([q, few], labels=["books", "films"])
    half = adapter(3, modules=("l.0.q", "l.0.mlp"))  # one of its two
    assert len(merge_adapters([q, half]).factors) == 4
    both = merge_adapters([q, mlp], weights=[1.0, 1.0], union=True)
    torch.testing.assert_close(delta(both, "l.0.mlp"), delta(mlp, "l.0.mlp"))
    # A third part is held against all before it.
    assert len(merge_adapters([adapter(4, modules=("l.0.q", "l.0.mlp")), adapter(5, modules=("l.0.q",)),
                               mlp]).factors) == 2  # fmt: skip

    for name, part in (("q", q), ("mlp", mlp)):
        save_adapter(part, tmp_path / name)
    paths = [tmp_path / "q", tmp_path / "mlp"]
    with pytest.raises(WeftError, match="allow it with --union"):
        merge(paths, out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    merge(paths, out=tmp_path / "both", union=True)
    merge_again(tmp_path / "both", tmp_path / "again")
    with pytest.raises(WeftError, match="union is for adapters"):
        merge([{"x": torch.ones(2)}, {"x": torch.ones(2)}], union=True)


def merge_again(made: Path, out: Path) -> None:
    from weft.merging.recipe_file import load_merge_recipe

    plan_recipe(load_merge_recipe(made / "weft.json")).run(out)
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (made, out))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_folders_of_peft_under_other_names_merge_with_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from weft.cli.main import app

    for name, part in (("a", adapter(1, modules=PLAIN)), ("b", adapter(2, modules=PLAIN))):
        save_adapter(part, tmp_path / name)
    file = tmp_path / "b" / "adapter_model.safetensors"
    tensors = {n.replace("base_model.model.", "base_model.model.language_model."): t
               for n, t in load_file(file).items()}  # fmt: skip
    save_file(tensors, file)
    (tmp_path / "b" / "weft.json").write_text(
        '{"backbone": {"name": "tiny", "fingerprint": "%s"}}' % ("f" * 64)
    )
    argv = ["merge", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, argv)
    assert done.exit_code == 0, done.output
    assert (
        "note: b calls its modules otherwise than a: 'language_model.model.layers.0.self_attn.q_proj'"
        " is taken for 'model.layers.0.self_attn.q_proj'" in done.stderr
    )
    keys = load_file(tmp_path / "out" / "adapter_model.safetensors").keys()
    assert keys == load_file(tmp_path / "a" / "adapter_model.safetensors").keys()


def test_a_comparison_matches_names_too() -> None:
    first = adapter(1, modules=PLAIN)
    wrapped = adapter(1, modules=["language_model." + name for name in PLAIN])
    found = contrast_adapters([first, wrapped], ["a", "b"])
    assert found.whole.cosines[0][1] == pytest.approx(1.0)
    assert any(note.startswith("b calls its modules otherwise than a") for note in found.notes)

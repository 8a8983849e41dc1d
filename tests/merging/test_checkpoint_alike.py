"""Models whose tensors are called or kept differently, and parts that take no part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import assert_same_bits, merged, models
from safetensors.torch import load_file, save_file
from test_methods_everywhere import SETTINGS
from torch import Tensor
from vocabulary_cases import model, write_model

from weft.adapters import Adapter, Factors
from weft.errors import WeftError, WeftNotice
from weft.merging.merge import merge, plan_merge
from weft.merging.methods import make_method
from weft.merging.plan import plan_recipe
from weft.merging.recipe_file import load_merge_recipe

NAN = float("nan")


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def tied(seed: int, *, head: bool) -> dict[str, Tensor]:
    whole = model(seed, 12, head=False)
    if head:
        whole["lm_head.weight"] = whole["model.embed_tokens.weight"].clone()
    return whole


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_head_that_is_the_embedding_once_more_is_left_out(
    order: tuple[str, ...], tmp_path: Path
) -> None:
    write_model(tmp_path / "a", tied(1, head=True), tie_word_embeddings=True)
    write_model(tmp_path / "b", tied(2, head=False), tie_word_embeddings=True)
    with pytest.warns(WeftNotice, match="'lm_head.weight' of a is left out: it is the embedding"):
        merge([tmp_path / name for name in order], "linear", [0.5, 0.5], out=tmp_path / "out")
    got = weights_of(tmp_path / "out")
    one, other = tied(1, head=False), tied(2, head=False)
    assert got.keys() == one.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, (one[name] + other[name]) / 2)


def test_a_head_of_both_stays(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_model(tmp_path / name, tied(seed, head=True), tie_word_embeddings=True)
    merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    assert "lm_head.weight" in weights_of(tmp_path / "out")


def test_a_base_with_the_head_is_matched_too(tmp_path: Path) -> None:
    write_model(tmp_path / "base", tied(1, head=True))
    write_model(tmp_path / "a", tied(2, head=False))
    base = tmp_path / "base"
    merge([tmp_path / "a"], "task_arithmetic", [1.0], base=base, out=tmp_path / "out")
    assert_same_bits(weights_of(tmp_path / "out"), tied(2, head=False))


@pytest.mark.parametrize("way", ["another value", "not tied"])
def test_a_head_of_its_own_is_refused(way: str, tmp_path: Path) -> None:
    whole = tied(1, head=True)
    if way == "another value":
        whole["lm_head.weight"][3, 1] += 1
    write_model(tmp_path / "a", whole, tie_word_embeddings=way == "another value")
    write_model(tmp_path / "b", tied(2, head=False), tie_word_embeddings=True)
    with pytest.raises(WeftError) as error:
        merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    assert str(error.value) == ("tensor 'lm_head.weight' is in a, but b ties it to the embedding")


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_what_follows_from_other_tensors_is_left_out(
    order: tuple[str, ...], tmp_path: Path
) -> None:
    """As older libraries saved it and newer ones do not."""
    new = {
        "embeddings.word_embeddings.weight": torch.randn(6, 3),
        "cls.predictions.bias": torch.randn(6),
    }
    old = {
        **new,
        "embeddings.position_ids": torch.arange(5)[None],
        "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "cls.predictions.decoder.weight": new["embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": new["cls.predictions.bias"].clone(),
    }
    write_model(tmp_path / "old", old)
    write_model(tmp_path / "new", new)
    merge([tmp_path / name for name in order], "linear", [0.5, 0.5], out=tmp_path / "out")
    assert_same_bits(weights_of(tmp_path / "out"), new)
    old["embeddings.position_ids"][0, 2] = 4
    write_model(tmp_path / "odd", old)
    with pytest.raises(
        WeftError, match=r"tensor 'embeddings.position_ids' is in odd but not in new"
    ):
        merge([tmp_path / "odd", tmp_path / "new"], out=tmp_path / "out2")


def plain(seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    names = ("embeddings.word.weight", "encoder.layer.0.weight", "encoder.layer.1.weight")
    return {name: torch.randn(3, 4, generator=random) for name in names}


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("prefix", ["bert.", "model.", "base_model.model.", "_orig_mod."])
@pytest.mark.parametrize("first", ["with", "without"])
def test_one_prefix_more_or_less_is_matched(prefix: str, first: str, tmp_path: Path) -> None:
    write_model(tmp_path / "with", prefixed(plain(1), prefix))
    write_model(tmp_path / "without", plain(2))
    names = sorted(["with", "without"], key=lambda name: name != first)
    base = tmp_path / "base"
    write_model(base, plain(3))
    parts = [tmp_path / name for name in names]
    with pytest.warns(WeftNotice, match=f"tensors of {names[1]} are matched by name"):
        merge(parts, "task_arithmetic", [0.5, 0.25], base=base, out=tmp_path / "out")
    got = weights_of(tmp_path / "out")
    own = prefix if first == "with" else ""
    assert got.keys() == prefixed(plain(0), own).keys()
    seeds = {"with": 1, "without": 2}
    for name, origin in plain(3).items():
        parts_of = [plain(seeds[one])[name] for one in names]
        want = origin + 0.5 * (parts_of[0] - origin) + 0.25 * (parts_of[1] - origin)
        torch.testing.assert_close(got[own + name], want)
    again = tmp_path / "again"
    plan_recipe(load_merge_recipe(tmp_path / "out" / "weft.json")).run(again)
    assert_same_bits(weights_of(again), got)


def test_a_head_beside_the_prefix_is_refused_by_name(tmp_path: Path) -> None:
    whole = {**prefixed(plain(1), "bert."), "cls.predictions.bias": torch.ones(3)}
    write_model(tmp_path / "a", whole)
    write_model(tmp_path / "b", plain(2))
    for order in (("a", "b"), ("b", "a")):
        with pytest.raises(WeftError) as error:
            merge([tmp_path / name for name in order], out=tmp_path / "out")
        assert str(error.value) == "tensor 'cls.predictions.bias' is in a but not in b"


def test_names_that_differ_otherwise_are_refused() -> None:
    one, other = plain(1), plain(2)
    other["other.encoder.layer.1.weight"] = other.pop("encoder.layer.1.weight")
    other["encoder.layer.2.weight"] = torch.ones(3, 4)
    with pytest.raises(WeftError, match="is in part 2 but not in part 1"):
        merge([one, other])


ZERO = [*SETTINGS, {"name": "dare", "then": {"name": "ties", "trim": "tensor"}}]


@pytest.mark.parametrize("option", [o for o in ZERO if o != "ext_sub"], ids=str)
def test_a_part_of_weight_0_takes_no_part(option: Any) -> None:
    """Not even its NaNs, and in whichever tensors it has that weight: as with any other content."""
    method = make_method(option)
    if type(method).takes == "1":
        pytest.skip("its one part takes part")
    pair = type(method).takes == "2"
    base, *parts = models(3 if pair else 4)
    empty = {name: torch.full_like(tensor, NAN) for name, tensor in parts[0].items()}
    weights = [0.0, 0.5, 0.3][: len(parts)]
    want = merged(method, parts, weights, base)
    assert_same_bits(merged(method, [empty, *parts[1:]], weights, base), want)
    rules: Any = [{"pattern": "^wide$", "value": 0}, {"value": 0.2}]
    only = {**parts[0], "wide": empty["wide"]}
    origin = base if method.needs_base else None
    for given in ([rules, *weights[1:]],):
        one, other = (
            merge([first, *parts[1:]], method, given, base=origin) for first in (parts[0], only)
        )
        assert isinstance(one, dict) and isinstance(other, dict)
        assert_same_bits(one, other)


def test_a_vote_without_weight_is_still_a_part() -> None:
    """`weigh: after` counts every part's sign, whatever its weight, so its NaN is an error."""
    base, *parts = models(3)
    empty = {name: torch.full_like(tensor, NAN) for name, tensor in parts[0].items()}
    with pytest.raises(WeftError, match="holds NaN or infinity"):
        merged({"name": "ties", "weigh": "after"}, [empty, parts[1]], [0, 1], base)


def test_a_part_of_weight_0_is_neither_read_nor_checked(tmp_path: Path) -> None:
    """Other tensors, another vocabulary, quantised: it is only named in the recipe."""
    write_model(tmp_path / "a", model(1, 12), ("<x>", "<y>"), tie_word_embeddings=False)
    write_model(tmp_path / "b", model(2, 12), ("<x>", "<y>"), tie_word_embeddings=False)
    write_model(tmp_path / "odd", {"w": torch.tensor([NAN])}, (), quantization_config={"bits": 4})
    out, want = tmp_path / "out", tmp_path / "want"
    parts = [tmp_path / name for name in ("odd", "a", "b")]
    merge(parts, "linear", [0, 0.5, 0.25], out=out)
    merge(parts[1:], "linear", [0.5, 0.25], out=want)
    assert_same_bits(weights_of(out), weights_of(want))
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "a" / "tokenizer.json").read_bytes()
    said = json.loads((out / "weft.json").read_text())
    assert [one["name"] for one in said["merge"]["parts"]] == ["odd", "a", "b"]
    assert [list(one["files"]) for one in said["parents"]] == [
        [], ["model.safetensors"], ["model.safetensors"]
    ]  # fmt: skip
    again = tmp_path / "again"
    plan_recipe(load_merge_recipe(out / "weft.json")).run(again)
    assert_same_bits(weights_of(again), weights_of(out))


def test_parts_that_are_all_of_weight_0_are_parts(tmp_path: Path) -> None:
    write_model(tmp_path / "a", plain(1))
    save_file({"w": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(WeftError, match="is in a but not in b"):
        plan_merge([tmp_path / "a", tmp_path / "b.safetensors"], "linear", [0, 0])
    merge([tmp_path / "a"], "linear", [0], out=tmp_path / "out")
    assert not any(tensor.any() for tensor in weights_of(tmp_path / "out").values())


@pytest.mark.parametrize(
    "method", ["linear", "ties", "lego", {"name": "dare", "then": "ties"}], ids=str
)
def test_an_adapter_of_weight_0_takes_no_part(method: Any) -> None:
    def adapter(seed: int, by: float = 1.0) -> Adapter:
        random = torch.Generator().manual_seed(seed)
        a, b = torch.randn(2, 5, generator=random), torch.randn(4, 2, generator=random)
        manifest = {"backbone": {"name": "m", "fingerprint": "f" * 64}}
        return Adapter({"layers.0.q": Factors(a * by, b, 1.0)}, manifest)

    weights = [0.5, 0, 0.25]
    found = [merge([adapter(1), adapter(2, by), adapter(3)], method, weights) for by in (1.0, NAN)]
    one, other = (found[k].factors["layers.0.q"].delta() for k in range(2))  # type: ignore[union-attr]
    assert torch.equal(one, other)

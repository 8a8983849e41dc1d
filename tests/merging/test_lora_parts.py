"""What parts of a merge may differ in, what is said about it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_adapters import MODULES, adapter, delta, summed
from torch import Tensor

from weft.adapters import Adapter, fold_into, load_adapter, save_adapter
from weft.backbones import load_backbone
from weft.errors import WeftError
from weft.merging import merge_adapters
from weft.merging.engine.source import Memory

NORM = "norm.weight"


def saving(seed: int, **saved: Tensor) -> Adapter:
    return adapter(seed, saved={name.replace("_", "."): t for name, t in saved.items()})


def test_a_module_that_a_part_lacks_counts_as_zero_and_is_named() -> None:
    parts = [adapter(1, modules=("query",)), adapter(2, modules=("query", "dense", "value"))]
    for method in ("linear", "concat", "ties", "lego", "knots"):
        merged = merge_adapters(parts, method, [0.5, 0.5], labels=["toys", "books"])
        assert list(merged.factors) == ["query", "dense", "value"]
        assert merged.manifest["merge"]["missing"] == {"toys": ["dense", "value"]}
    merged = merge_adapters(parts, weights=[0.5, 0.25])
    for module in merged.factors:
        torch.testing.assert_close(delta(merged, module), summed(parts, [0.5, 0.25], module))
    assert "missing" not in merge_adapters([parts[0]] * 2).manifest["merge"]


def test_weights_by_module_and_labels_are_recorded() -> None:
    table = {"query": [1.0, -0.5], "dense": [0.25, 0.75]}
    parts = [adapter(1), adapter(2)]
    merged = merge_adapters(parts, weights=lambda name: table[name], labels=["a", "b"])
    for module in MODULES:
        torch.testing.assert_close(delta(merged, module), summed(parts, table[module], module))
    recipe = merged.manifest["merge"]
    assert recipe["weights"] == table and recipe["labels"] == ["a", "b"]
    same = merge_adapters(parts, weights=lambda _: [0.5, 0.5]).manifest["merge"]
    assert same["weights"] == [0.5, 0.5] and "rank" not in same
    cut = merge_adapters(parts, weights=[0.5, 0.5], rank=1).manifest["merge"]
    assert cut["rank"] == 1 and 0 < cut["truncation"]["mean"] <= cut["truncation"]["max"] < 1


def test_tensors_saved_whole_are_merged_as_weights() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    parts = [saving(1, norm_weight=one), saving(2, norm_weight=two)]
    for method in ("linear", "concat", "lego", {"name": "knots", "then": "linear"}):
        merged = merge_adapters(parts, method, [0.25, 0.75])
        torch.testing.assert_close(merged.saved[NORM], 0.25 * one + 0.75 * two)
    base = Memory("base", {NORM: torch.tensor([1.0, 1.0]), "other": torch.zeros(3)})
    for method, scale in [("linear", 1.0), ({"name": "task_arithmetic", "scale": 0.5}, 0.5)]:
        merged = merge_adapters(parts, method, [1.0, 1.0], base=base)
        torch.testing.assert_close(merged.saved[NORM], 1 + scale * (one - 1 + two - 1))
    trimmed = merge_adapters(parts, {"name": "ties", "density": 1.0}, [1.0, 1.0], base=base)
    torch.testing.assert_close(trimmed.saved[NORM], torch.tensor([1 + 2.0, 1 - 3.0]))
    half = [replace(p, saved={NORM: p.saved[NORM].half()}) for p in parts]
    assert merge_adapters(half).saved[NORM].dtype == torch.float16


def test_a_merge_with_saved_modules_folds_and_loads_in_peft(
    tiny_bert: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    name = "embeddings.LayerNorm"
    parts = []
    for k in range(2):
        saved = {f"{name}.weight": torch.full((32,), 1.0 + k), f"{name}.bias": torch.ones(32) * k}
        shape = {"encoder.layer.0.attention.self.query": (32, 32)}
        parts.append(adapter(k, shapes=shape, saved=saved))
    save_adapter(merge_adapters(parts), tmp_path / "merged")
    ours = load_backbone(str(tiny_bert), precision="float32").model
    theirs = load_backbone(str(tiny_bert), precision="float32").model
    fold_into(ours, load_adapter(tmp_path / "merged"))
    assert torch.equal(ours.get_parameter(f"{name}.weight"), torch.full((32,), 1.5))
    wrapped = PeftModel.from_pretrained(theirs, tmp_path / "merged").eval()
    ids = torch.tensor([[2, 6, 14, 3]])
    with torch.no_grad():
        expected = ours(input_ids=ids).last_hidden_state
        torch.testing.assert_close(
            wrapped(input_ids=ids).last_hidden_state, expected, rtol=1e-4, atol=1e-5
        )


ONE = torch.ones(2)
BASE = Memory("the base", {"other": ONE})


@pytest.mark.parametrize(
    ("parts", "said", "words"),
    [
        ([], {}, "at least one adapter"),
        ([1, 2], {"weights": [1.0]}, "2 adapters need 2 weights, not 1"),
        ([1, 2], {"weights": [1.0, float("inf")]}, "weights must be finite"),
        ([1, 2], {"weights": lambda _: [1.0]}, "2 weights of 'query', not 1"),
        ([1, 2], {"labels": ["a"]}, "2 adapters need 2 labels, not 1"),
        ([1, 2], {"labels": ["a", "a"]}, "two parts are named 'a'"),
        ([1, 2], {"rank": 0}, "rank of at least 1, not 0"),
        ([1, 2], {"space": "both"}, "space is 'both'"),
        ([1, 2], {"method": "unheard_of"}, "no method 'unheard_of'"),
        ([1], {"method": "slerp"}, "slerp"),
        ([1, 2], {"method": {"name": "linear", "normalize": True}, "weights": [1, -1]}, "sum to 0"),
        ([adapter(1), adapter(2, name="b", fingerprint="e" * 64)], {}, "tiny .* part 2 to b "),
        (
            [1, adapter(2, shapes={"query": (3, 5)})],
            {},
            r"'query': ΔW is \[4, 5\] in part 1 and \[3, 5\]",
        ),
        ([1, adapter(2, rank=3)], {"space": "factors"}, "'query': .* differ in rank or scaling"),
        ([1, adapter(2, modules=("query",))], {"space": "factors"}, "'dense' is not in part 2"),
        (
            [1, saving(2, norm_weight=ONE)],
            {},
            "'norm.weight' is saved whole in part 2 but not in part 1",
        ),
        (
            [saving(1, norm_weight=ONE), saving(2, norm_weight=ONE)],
            {"method": "ties"},
            "'norm.weight' is saved whole, and method 'ties' .* give the base",
        ),
        (
            [saving(1, norm_weight=ONE), saving(2, norm_weight=ONE)],
            {"weights": [1.0, 1.0]},
            r"'norm.weight' .* \[1.0, 1.0\] do not sum to 1: give the base",
        ),
        (
            [saving(1, norm_weight=ONE), saving(2, norm_weight=ONE)],
            {"base": BASE},
            "'norm.weight' is saved whole, but the base lacks it",
        ),
        (
            [saving(1, norm_weight=ONE), saving(2, norm_weight=torch.ones(3))],
            {},
            r"'norm.weight' has the shape \[2\] in part 1 and \[3\] in part 2",
        ),
        (
            [saving(1, norm_weight=ONE), saving(2, norm_weight=ONE / 0)],
            {},
            "'norm.weight' of part 2 .*NaN",
        ),
    ],
)
def test_what_cannot_be_merged_is_said_in_one_sentence(
    parts: list[Any], said: dict[str, Any], words: str
) -> None:
    adapters = [adapter(part) if isinstance(part, int) else part for part in parts]
    with pytest.raises(WeftError, match=words) as error:
        merge_adapters(adapters, **said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["linear", "ties", "lego", "knots"])
def test_nan_in_a_part_is_refused_by_name(method: str) -> None:
    bad = adapter(2)
    bad.factors["dense"].b[1, 1] = float("nan")
    with pytest.raises(WeftError, match="'dense' of b holds NaN or infinity"):
        merge_adapters([adapter(1), bad], method, labels=["a", "b"])


def test_lazy_parts_give_the_same_bits(tmp_path: Path) -> None:
    parts = [adapter(1, 3), adapter(2, 2, 0.3)]
    folders = [tmp_path / "a", tmp_path / "b"]
    for part, folder in zip(parts, folders, strict=True):
        save_adapter(part, folder)
    lazy = [load_adapter(folder, lazy=True) for folder in folders]
    for method, rank in [("linear", None), ("linear", 2), ("ties", None), ("lego", None)]:
        one, other = (merge_adapters(own, method, rank=rank) for own in (parts, lazy))
        assert one.weights_hash == other.weights_hash
    assert merge_adapters(lazy).manifest["parents"] == [part.weights_hash for part in parts]


def test_dora_is_refused_by_name(tmp_path: Path) -> None:
    save_adapter(adapter(1), tmp_path / "a")
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    with pytest.raises(WeftError, match="DoRA"):
        load_adapter(tmp_path / "a", lazy=True)

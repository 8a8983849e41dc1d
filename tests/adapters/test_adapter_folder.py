"""An adapter folder is a PEFT adapter, in both directions, and a broken one is one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft.adapters import (
    Adapter,
    Factors,
    LoraSettings,
    attach,
    check_backbone,
    fold_into,
    from_attached,
    initialise,
    load_adapter,
    save_adapter,
)
from weft.backbones import Backbone, load_backbone
from weft.errors import WeftError
from weft.merging import merge_adapters

IDS = torch.tensor([[2, 6, 14, 3], [2, 9, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def backbone_of(folder: Path) -> Backbone:
    return load_backbone(str(folder), precision="float32")


def hidden(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    return out[MASK.bool()]


def trained(folder: Path, *, targets: Any = "all-linear") -> Adapter:
    """An adapter as training leaves one: neither factor is zero."""
    backbone = backbone_of(folder)
    attached = attach(backbone.model, LoraSettings(rank=3, alpha=7, targets=targets))
    initialise(attached, 5)
    generator = torch.Generator().manual_seed(1)
    for linear in attached.values():
        linear.b.data.copy_(torch.randn(linear.b.shape, generator=generator) / 5)
    manifest = {"backbone": {"name": "tiny", "fingerprint": backbone.fingerprint}, "seed": 5}
    return from_attached(attached, manifest)


@pytest.fixture(scope="module")
def adapter(tiny_bert: Path) -> Adapter:
    return trained(tiny_bert)


@pytest.fixture
def folder(adapter: Adapter, tmp_path: Path) -> Path:
    save_adapter(adapter, tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def mixed(adapter: Adapter) -> Adapter:
    """Ranks and scalings that differ by module, as a merge leaves them."""
    names = list(adapter.factors)
    factors = dict(adapter.factors)
    factors[names[0]] = replace(factors[names[0]], scaling=0.1)
    doubled = factors[names[4]]
    factors[names[4]] = Factors(
        torch.cat([doubled.a, doubled.a + 1]), torch.cat([doubled.b, doubled.b], dim=1), 1 / 3
    )
    return replace(adapter, factors=factors)


@pytest.mark.parametrize("change", [lambda adapter: adapter, mixed], ids=["plain", "mixed"])
def test_plain_peft_gives_the_outputs_of_the_folded_model(
    adapter: Adapter, change: Any, tiny_bert: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    save_adapter(change(adapter), tmp_path / "adapter")
    backbone = backbone_of(tiny_bert)
    before = hidden(backbone.model)
    theirs = PeftModel.from_pretrained(backbone_of(tiny_bert).model, tmp_path / "adapter").eval()
    fold_into(backbone.model, load_adapter(tmp_path / "adapter"))
    torch.testing.assert_close(hidden(backbone.model), hidden(theirs), rtol=1e-4, atol=1e-5)
    assert (hidden(backbone.model) - before).abs().max() > 0.1


def test_any_encoder_by_folder(tiny_encoder: Path, tmp_path: Path) -> None:
    """Attached, folded and in PEFT: the same outputs, whatever the architecture."""
    from peft import PeftModel

    adapter = trained(tiny_encoder)
    save_adapter(adapter, tmp_path / "adapter")
    attached = backbone_of(tiny_encoder)
    for name, linear in attach(attached.model, LoraSettings(rank=3, alpha=7)).items():
        linear.a.data.copy_(adapter.factors[name].a)
        linear.b.data.copy_(adapter.factors[name].b)
    theirs = PeftModel.from_pretrained(backbone_of(tiny_encoder).model, tmp_path / "adapter").eval()
    folded = backbone_of(tiny_encoder)
    fold_into(folded.model, load_adapter(tmp_path / "adapter"))
    expected = hidden(folded.model)
    torch.testing.assert_close(hidden(attached.model.eval()), expected, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(hidden(theirs), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_saves_loads_with_its_patterns(
    rslora: bool, tiny_bert: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    base = backbone_of(tiny_bert)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["query", "value", "output.dense"],
        use_rslora=rslora,
        init_lora_weights=False,
        rank_pattern={"layer.1.attention.self.query": 2, r"layer\.\d.output.dense": 3},
        alpha_pattern={"^encoder.layer.0.attention.self.value": 9, "value": 5, "dense": 2},
    )
    theirs = get_peft_model(base.model, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    loaded = load_adapter(tmp_path / "adapter")
    assert loaded.manifest["backbone"]["name"] == str(tiny_bert)
    assert loaded.factors["encoder.layer.1.attention.self.query"].rank == 2
    scaling = loaded.factors["encoder.layer.0.attention.self.value"].scaling
    assert scaling == pytest.approx(9 / (2 if rslora else 4))
    ours = backbone_of(tiny_bert)
    fold_into(ours.model, loaded)
    torch.testing.assert_close(hidden(ours.model), hidden(theirs), rtol=1e-4, atol=1e-5)


def test_a_saved_adapter_comes_back_bit_for_bit(adapter: Adapter, tmp_path: Path) -> None:
    """Also with scalings s for which (s · r) / r is not s."""
    scalings = [0.1 * k + 1e-3 for k in range(1, len(adapter.factors) + 1)]
    assert any(s * 3 / 3 != s for s in scalings)
    pairs = zip(adapter.factors.items(), scalings, strict=True)
    odd = replace(adapter, factors={n: replace(f, scaling=s) for (n, f), s in pairs})
    for turn in ("one", "two"):  # twice: a loaded manifest must not carry old file entries along
        save_adapter(odd, tmp_path / turn)
        loaded = load_adapter(tmp_path / turn)
        assert loaded.weights_hash == odd.weights_hash
        for name, factors in odd.factors.items():
            assert torch.equal(loaded.factors[name].a, factors.a)
            assert torch.equal(loaded.factors[name].b, factors.b)
            assert loaded.factors[name].scaling == factors.scaling
        odd = replace(loaded, factors=dict(list(loaded.factors.items())[:5]))


def test_modules_saved_whole_are_folded_and_load_in_peft(
    adapter: Adapter, tiny_bert: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    name = "embeddings.LayerNorm"
    saved = {f"{name}.weight": torch.full((32,), 2.0), f"{name}.bias": torch.ones(32)}
    save_adapter(replace(adapter, saved=saved), tmp_path / "adapter")
    ours = backbone_of(tiny_bert)
    fold_into(ours.model, load_adapter(tmp_path / "adapter"))
    assert torch.equal(ours.model.get_parameter(f"{name}.weight"), saved[f"{name}.weight"])
    theirs = PeftModel.from_pretrained(backbone_of(tiny_bert).model, tmp_path / "adapter").eval()
    torch.testing.assert_close(hidden(ours.model), hidden(theirs), rtol=1e-4, atol=1e-5)


def test_another_backbone_is_refused_by_both_names(
    adapter: Adapter, tiny_bert: Path, other_bert: Path
) -> None:
    own, other = backbone_of(tiny_bert), backbone_of(other_bert)
    check_backbone(adapter, "tiny", own.fingerprint)
    with pytest.raises(WeftError, match=r"belongs to backbone tiny .* not to other-bert") as error:
        check_backbone(adapter, "other-bert", other.fingerprint)
    assert own.fingerprint[:12] in str(error.value) and other.fingerprint[:12] in str(error.value)


def test_a_module_that_does_not_fit_leaves_the_model_alone(
    adapter: Adapter, tiny_bert: Path
) -> None:
    model = backbone_of(tiny_bert).model
    before = hidden(model)
    wrong = Factors(torch.ones(2, 5), torch.ones(6, 2), 1.0)
    for name, message in [("nowhere.dense", "nowhere.dense"), ("embeddings.LayerNorm", "shape")]:
        with pytest.raises(WeftError, match=message):
            fold_into(model, replace(adapter, factors=dict(adapter.factors) | {name: wrong}))
    assert torch.equal(hidden(model), before)


def _drop_b(path: Path) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, path / "adapter_model.safetensors")


def _drop_a(path: Path) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    save_file(tensors, path / "adapter_model.safetensors")


def _tamper(path: Path) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    tensors[next(iter(tensors))][0, 0] += 1e-6
    save_file(tensors, path / "adapter_model.safetensors")


def _truncate(path: Path) -> None:
    file = path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _empty(path: Path) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    module = next(iter(tensors)).partition(".lora_")[0]
    tensors[f"{module}.lora_A.weight"] = torch.ones(0, 32)
    tensors[f"{module}.lora_B.weight"] = torch.ones(32, 0)
    save_file(tensors, path / "adapter_model.safetensors")


def _says(file: str, **entries: Any) -> Callable[[Path], None]:
    return lambda path: edit(path / file, **entries)


def _holds(file: str, value: Any) -> Callable[[Path], object]:
    return lambda path: (path / file).write_text(json.dumps(value))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "adapter_model.safetensors is cut"),
    "tampered": (_tamper, "weights_hash differs"),
    "alpha": (lambda p: edit(p / "adapter_config.json", lora_alpha=8), "weights_hash differs"),
    "no lora_B": (_drop_b, "has lora_A but no lora_B"),
    "no lora_A": (_drop_a, "has lora_B but no lora_A"),
    "dora": (lambda p: edit(p / "adapter_config.json", use_dora=True), "DoRA"),
    "pissa": (lambda p: edit(p / "adapter_config.json", init_lora_weights="pissa"), "pissa"),
    **{
        entry: (
            _says("adapter_config.json", **{entry: value}),
            "lora_ga" if value == "lora_ga" else entry,
        )
        for entry, value in [
            ("init_lora_weights", "lora_ga"),
            ("use_qalora", True),
            ("use_bdlora", {"nblocks": 2}),
            ("kasa_config", {"beta": 0.1}),
            ("alora_invocation_tokens", [1]),
            ("layer_replication", [[0, 2]]),
            ("target_parameters", ["experts.up"]),
        ]
    },
    "kind": (lambda p: edit(p / "adapter_config.json", peft_type="IA3"), "IA3, not LORA"),
    "config": (lambda p: (p / "adapter_config.json").write_text("{"), "not valid JSON"),
    "no weights": (lambda p: (p / "adapter_model.safetensors").unlink(), "does not exist"),
    "no backbone": (lambda p: (p / "weft.json").write_text("{}"), "backbone.fingerprint"),
    "rank 0": (_empty, "are empty"),
    **{
        f"{field} {value}": (_says(file, **{field: value}), rf"{file}: {message}")
        for file, field, value, message in [
            ("weft.json", "backbone", {"fingerprint": "f"}, r"backbone\.name: missing"),
            ("weft.json", "backbone", {"name": "n"}, r"backbone\.fingerprint: missing"),
            ("weft.json", "backbone", {"name": 3, "fingerprint": "f"}, r"backbone\.name: "),
            ("weft.json", "domains", None, "domains: "),
            ("weft.json", "data", ["d"], "data: "),
            ("weft.json", "recommender", "bi_encoder", "recommender: "),
            ("weft.json", "scaling", {"m": "2"}, r"scaling\.m: "),
            ("weft.json", "weights_hash", 3, "weights_hash: "),
            ("adapter_config.json", "lora_alpha", None, "lora_alpha: "),
            ("adapter_config.json", "r", "3", "r: "),
            ("adapter_config.json", "r", 0, "r: "),
            ("adapter_config.json", "use_rslora", "no", "use_rslora: "),
            ("adapter_config.json", "rank_pattern", {"x": [1]}, r"rank_pattern\.x: "),
            ("adapter_config.json", "alpha_pattern", {"x": "y"}, r"alpha_pattern\.x: "),
            (
                "adapter_config.json",
                "alpha_pattern",
                {"(": 3},
                r"alpha_pattern: '\(' is no regular",
            ),
            ("adapter_config.json", "alpha_pattern", [3], "alpha_pattern: "),
        ]
    },
    "not finite": (
        _says("adapter_config.json", lora_alpha=math.nan),
        r"adapter_config\.json is not valid JSON: NaN is no finite number",
    ),
    "config list": (
        _holds("adapter_config.json", []),
        r"adapter_config\.json holds no JSON object",
    ),
    "manifest list": (_holds("weft.json", [1]), r"weft\.json holds no JSON object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_sentence(case: str, folder: Path) -> None:
    damage, message = BROKEN[case]
    damage(folder)
    with pytest.raises(WeftError, match=message) as error:
        load_adapter(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_missing_folder_and_an_existing_one(adapter: Adapter, folder: Path) -> None:
    with pytest.raises(WeftError, match="not an adapter folder"):
        load_adapter(folder / "nothing")
    with pytest.raises(WeftError, match="exists already"):
        save_adapter(adapter, folder)


def test_hash_sees_values_names_and_scalings(adapter: Adapter) -> None:
    name, factors = next(iter(adapter.factors.items()))

    def with_first(first: Factors) -> str:
        return replace(adapter, factors=dict(adapter.factors) | {name: first}).weights_hash

    assert with_first(factors) == adapter.weights_hash
    bumped = factors.a.clone()
    bumped[0, 0] = math.nextafter(float(bumped[0, 0]) + 1, 9)
    hashes = {
        adapter.weights_hash,
        with_first(replace(factors, a=bumped)),
        with_first(replace(factors, scaling=factors.scaling * 2)),
        replace(adapter, saved={"x.weight": torch.ones(1)}).weights_hash,
    }
    assert len(hashes) == 4


def test_a_folder_of_peft_itself_is_known_by_its_backbones_name_alone(
    adapter: Adapter, tmp_path: Path
) -> None:
    save_adapter(adapter, tmp_path / "adapter")
    (tmp_path / "adapter" / "weft.json").unlink()
    config_file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = "owner/name"
    config_file.write_text(json.dumps(config))
    bare = load_adapter(tmp_path / "adapter")
    assert bare.manifest["backbone"]["name"] == "owner/name"
    with pytest.raises(WeftError, match=r"backbone owner/name .*, not to owner/name"):
        check_backbone(bare, "owner/name", "53aa51172d142c89")
    merged = merge_adapters([bare, bare])
    assert merged.fingerprint == bare.fingerprint
    with pytest.raises(WeftError, match=r"part 1 belongs to backbone"):
        merge_adapters([adapter, bare])
    del config["base_model_name_or_path"]
    config_file.write_text(json.dumps(config))
    with pytest.raises(WeftError, match="names no backbone"):
        load_adapter(tmp_path / "adapter")

"""Adapters read a tensor at a time, and factors stored in fewer bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.adapters import Adapter, Factors, load_adapter, load_adapters, save_adapter
from weft.errors import WeftError


def made(size: float = 1.0) -> Adapter:
    random = torch.Generator().manual_seed(4)
    factors = {
        f"layer.{k}.query": Factors(
            torch.randn(2 + k, 6, generator=random) * size,
            torch.randn(5, 2 + k, generator=random),
            0.1 + k,
        )
        for k in range(3)
    }
    saved = {
        "norm.weight": torch.arange(4.0).half(),
        "norm.empty": torch.zeros(0, 3),
        "norm.one": torch.tensor(2.0),
    }
    return Adapter(factors, {"backbone": {"name": "tiny", "fingerprint": "f" * 32}}, saved)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapter(made(), tmp_path / "adapter")
    return tmp_path / "adapter"


def test_lazy_is_the_same_adapter(folder: Path) -> None:
    lazy, whole, own = load_adapter(folder, lazy=True), load_adapter(folder), made()
    assert list(lazy.factors) == list(whole.factors) == list(own.factors)
    assert lazy.shapes == whole.shapes == own.shapes
    assert lazy.weights_hash == whole.weights_hash == own.weights_hash
    for name, factors in own.factors.items():
        read = lazy.factors[name]
        assert torch.equal(read.a, factors.a) and torch.equal(read.b, factors.b)
        assert read.scaling == factors.scaling
        assert torch.equal(lazy.half(name, "b"), factors.b)
    assert set(lazy.saved) == set(own.saved)
    for name, tensor in own.saved.items():
        assert torch.equal(lazy.saved[name], tensor) and lazy.saved[name].dtype == tensor.dtype
    assert "nowhere" not in lazy.factors and "nowhere" not in lazy.saved
    with pytest.raises(KeyError):
        lazy.saved["nowhere"]


def test_lazy_reads_at_each_access_and_keeps_nothing(folder: Path) -> None:
    lazy = load_adapter(folder, lazy=True)
    first = lazy.factors["layer.0.query"]
    assert first.a.data_ptr() != lazy.factors["layer.0.query"].a.data_ptr()
    first.a.zero_()
    assert lazy.factors["layer.0.query"].a.any()
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(WeftError, match=r"adapter_model\.safetensors does not exist"):
        lazy.factors["layer.0.query"]


def test_several_adapters_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    paths = [tmp_path / str(k) for k in range(5)]
    for k, path in enumerate(paths):
        save_adapter(made(1.0 + k), path)
    hashes = [one.weights_hash for one in load_adapters(paths, threads=2)]
    assert hashes == [made(1.0 + k).weights_hash for k in range(5)]
    _flip(paths[3] / "adapter_model.safetensors")
    with pytest.raises(WeftError, match=str(paths[3])):
        load_adapters(paths)


def test_a_lazy_adapter_saves_itself(folder: Path, tmp_path: Path) -> None:
    save_adapter(load_adapter(folder, lazy=True), tmp_path / "again")
    for file in ("adapter_model.safetensors", "adapter_config.json", "weft.json"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    assert set(load_file(tmp_path / "again" / "adapter_model.safetensors")) == {
        *(f"base_model.model.{n}.lora_{h}.weight" for n in made().factors for h in "AB"),
        *(f"base_model.model.{n}" for n in made().saved),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_stored_in_fewer_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    save_adapter(made(), tmp_path / "small", dtype=dtype)
    stored = load_file(tmp_path / "small" / "adapter_model.safetensors")
    assert stored["base_model.model.layer.0.query.lora_A.weight"].dtype == dtype
    assert stored["base_model.model.norm.weight"].dtype == torch.float16
    loaded = load_adapter(tmp_path / "small")  # its hash is that of the rounded values
    for name, factors in made().factors.items():
        assert torch.equal(loaded.factors[name].a, factors.a.to(dtype).float())
        assert loaded.factors[name].scaling == factors.scaling


def test_what_a_dtype_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match=r"layer\.0\.query' are too large for float16"):
        save_adapter(made(1e6), tmp_path / "small", dtype=torch.float16)
    with pytest.raises(WeftError, match="not as int8"):
        save_adapter(made(), tmp_path / "small", dtype=torch.int8)
    assert not any(tmp_path.iterdir())


def test_one_tensor_in_several_places_is_written_at_each(tmp_path: Path) -> None:
    shared: Tensor = torch.ones(2, 3)
    factors = {name: Factors(shared, shared.T, 1.0) for name in ("x", "y")}
    save_adapter(Adapter(factors, made().manifest), tmp_path / "shared")
    assert torch.equal(load_adapter(tmp_path / "shared").factors["y"].b, torch.ones(3, 2))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def _flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)


def _header(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[:8] + b"?" + raw[9:])


def _short(file: Path) -> None:
    file.write_bytes(b"abc")


def _pickle(file: Path) -> None:
    file.write_bytes(b"\x80\x02}q\x00." + b"\0" * 40)


def _swap(file: Path) -> None:
    tensors = load_file(file)
    names = [name for name in tensors if "lora_A" in name]
    tensors[names[0]] = tensors[names[0]].flip(0).contiguous()
    save_file(tensors, file)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("damage", [_cut, _longer, _flip, _header, _short, _pickle, _swap])
def test_a_damaged_file_is_one_sentence_that_names_it(
    damage: Callable[[Path], None], lazy: bool, folder: Path
) -> None:
    damage(folder / "adapter_model.safetensors")
    with pytest.raises(WeftError, match=r"adapter_model\.safetensors") as error:
        load_adapter(folder, lazy=lazy)
    assert "\n" not in str(error.value)


def test_a_file_without_a_stated_hash_still_loads_lazily(folder: Path) -> None:
    manifest = json.loads((folder / "weft.json").read_text())
    del manifest["weights_hash"]
    (folder / "weft.json").write_text(json.dumps(manifest))
    lazy = load_adapter(folder, lazy=True)
    assert lazy.weights_hash == made().weights_hash

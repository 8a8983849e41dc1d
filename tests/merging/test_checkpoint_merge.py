"""Merging checkpoints into a folder: the bits of a merge in memory, however it is laid out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from folder_merges import merge_into
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import b3sum
from torch import Tensor

from weft.errors import WeftError
from weft.merging.checkpoints.checkpoint import open_checkpoint
from weft.merging.engine.source import Memory
from weft.merging.engine.stream import BLOCK, Merge, merge_in_memory
from weft.merging.limits import MergeProgress
from weft.merging.methods import make_method

Tensors = dict[str, Tensor]
WEIGHTS = [0.5, 0.2, 0.3]


def make_tensors(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """One tensor is longer than a block, one is of integers, one has no elements."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"embed_tokens.weight": (30, 8), "z.norm": (8,), "long": (BLOCK + 77,), "e": (0, 4)}
    shapes |= {f"layers.{i}.weight": (9, 7) for i in range(4)} | {"one": ()}
    tensors = {name: torch.randn(s, generator=random).to(dtype) for name, s in shapes.items()}
    return tensors | {"steps": torch.arange(5), "flag": torch.tensor([True, False])}


def write(folder: Path, tensors: Tensors, shards: int = 1, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        places = {name: f"part{i % shards}.safetensors" for i, name in enumerate(tensors)}
        for file in set(places.values()):
            save_file({n: t for n, t in tensors.items() if places[n] == file}, folder / file)
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", **config}))
    return folder


def merge(
    folders: Sequence[Path],
    out: Path,
    method: Any = "linear",
    *,
    base: Path | None = None,
    weights: Sequence[float] | None = None,
    **options: Any,
) -> Tensors:
    """Merge folders and read the output back with the safetensors library."""
    parts = [open_checkpoint(folder) for folder in folders]
    given = [1 / len(parts)] * len(parts) if weights is None else weights
    whole = None if base is None else open_checkpoint(base, "base")
    merge_into(parts, out, make_method(method), lambda name: given, base=whole, **options)
    for one in [*parts, *([] if whole is None else [whole])]:
        one.close()
    return {n: t for file in sorted(out.glob("*.safetensors")) for n, t in load_file(file).items()}


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models, each in another layout, and their base."""
    root = tmp_path_factory.mktemp("models")
    made = [write(root / f"m{i}", make_tensors(i), shards=i + 1) for i in range(3)]
    return [*made, write(root / "base", make_tensors(9), shards=2)]


METHODS: list[Any] = [
    "linear",
    "ties",
    {"name": "dare", "drop_rate": 0.3, "then": {"name": "ties", "density": 0.5}},
    "karcher",
    "model_stock",
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_files_give_the_bits_of_a_merge_in_memory(
    models: list[Path], tmp_path: Path, method: Any
) -> None:
    *parts, base = models
    made = make_method(method)
    whole = base if made.needs_base else None
    kept = merge_in_memory(
        Merge(
            [Memory(path.name, make_tensors(i)) for i, path in enumerate(parts)],
            made,
            lambda name: WEIGHTS,
            None if whole is None else Memory("base", make_tensors(9)),
        ),
        threads=1,
    )
    for number, options in enumerate(
        [{}, {"shard_bytes": 1, "threads": 3}, {"shard_bytes": 900, "memory": 80_000_000}]
    ):
        out = tmp_path / f"out{number}"
        assert same(merge(parts, out, method, base=whole, weights=WEIGHTS, **options), kept)
    files = {path.name for path in (tmp_path / "out1").glob("*.safetensors")}
    assert len(files) == len(kept) and f"model-00001-of-{len(kept):05d}.safetensors" in files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out0", "out1", "out2"]


@given(
    st.lists(
        st.sampled_from(["bfloat16", "float16", "float32", "float64"]), min_size=2, max_size=3
    ),
    st.sampled_from([None, "bfloat16", "float16", "float32"]),
    st.integers(1, 3),
    st.sampled_from([1, 300, 10**9]),
)
@settings(max_examples=20, deadline=None)
def test_linear_is_the_sum_in_float32_rounded_once(
    tmp_path_factory: pytest.TempPathFactory,
    dtypes: list[str],
    asked: str | None,
    shards: int,
    shard_bytes: int,
) -> None:
    root = tmp_path_factory.mktemp("linear")
    tensors = []
    for i, dtype in enumerate(dtypes):
        own = make_tensors(i, getattr(torch, dtype))
        del own["long"]
        tensors.append(own)
    folders = [write(root / f"m{i}", one, shards) for i, one in enumerate(tensors)]
    dtype = None if asked is None else getattr(torch, asked)
    weights = [0.25, 0.5, 2.0][: len(folders)]  # products exact, so that only the sum rounds
    merged = merge(folders, root / "out", weights=weights, dtype=dtype, shard_bytes=shard_bytes)
    for name, first in tensors[0].items():
        if not first.is_floating_point():
            assert torch.equal(merged[name], first) and merged[name].dtype == first.dtype
            continue
        exact = sum(w * t[name].float().double() for w, t in zip(weights, tensors, strict=True))
        assert merged[name].dtype == (dtype or first.dtype) and isinstance(exact, Tensor)
        finest = torch.finfo(merged[name].dtype).eps
        bound = exact.abs() * max(finest, 1e-7) + 1e-6
        assert ((merged[name].double() - exact).abs() <= bound).all()


def test_one_part_of_weight_one_comes_back_bit_for_bit(models: list[Path], tmp_path: Path) -> None:
    assert same(merge(models[:1], tmp_path / "out", shard_bytes=1000), make_tensors(0))


def test_casting_rounds_to_nearest_even(tmp_path: Path) -> None:
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -(1 + 2**-8), 65504.0])
    folder = write(tmp_path / "m", {"w": values})
    bfloat = merge([folder], tmp_path / "b", dtype=torch.bfloat16)["w"]
    assert bfloat.tolist() == [1.0, 1 + 2**-6, 1 + 2**-7, -1.0, 65536.0]
    half = merge([folder], tmp_path / "h", dtype=torch.float16)["w"]
    assert half[-1] == 65504 and half[0] == 1 + 2**-8


@pytest.mark.parametrize(
    ("value", "weight", "dtype", "said"),
    [
        (65520.0, 1.0, torch.float16, "tensor 'w' merges to 65520, which float16 can't hold"),
        (-1e5, 1.0, torch.float16, "tensor 'w' merges to -100000, which float16 can't hold"),
        (3.4e38, 1.0, torch.bfloat16, "tensor 'w' merges to 3.4e+38, which bfloat16 can't hold"),
        (3e38, 2.0, torch.float32, "tensor 'w' merges to inf, which float32 can't hold"),
        (
            500.0,
            1.0,
            torch.float8_e4m3fn,
            "tensor 'w' merges to 500, which float8_e4m3fn can't hold",
        ),
    ],
)
def test_a_value_too_large_for_the_dtype_is_an_error(
    tmp_path: Path, value: float, weight: float, dtype: torch.dtype, said: str
) -> None:
    folder = write(tmp_path / "m", {"ok": torch.ones(3), "w": torch.tensor([1.0, value])})
    with pytest.raises(WeftError) as error:
        merge([folder], tmp_path / "out", weights=[weight], dtype=dtype)
    assert str(error.value) == said
    assert [path.name for path in tmp_path.iterdir()] == ["m"]  # nothing is left


def test_the_folder_says_what_it_is(models: list[Path], tmp_path: Path) -> None:
    *parts, base = models
    for name in ("tokenizer.json", "generation_config.json", "modeling_own.py"):
        (parts[0] / name).write_text("{}")
    (parts[0] / "1_Pooling").mkdir()
    (parts[0] / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    out = tmp_path / "out"
    method = {"name": "ties", "density": 0.5}
    merge(parts, out, method, base=base, weights=WEIGHTS, dtype=torch.float16, shard_bytes=9000)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    copied = ["config.json", "generation_config.json", "tokenizer.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*files, "model.safetensors.index.json", *copied, "weft.json", "README.md", "1_Pooling"]
    )
    assert "cls_token" in (out / "1_Pooling" / "config.json").read_text()
    assert json.loads((out / "config.json").read_text()) == {"torch_dtype": "float16"}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    held = {name: file for file in files for name in load_file(out / file)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(
        t.numel() * t.element_size() for file in files for t in load_file(out / file).values()
    )
    manifest = json.loads((out / "weft.json").read_text())
    assert manifest["files"] == {file: b3sum(out / file) for file in files}
    assert manifest["merge"]["method"]["density"] == 0.5 and manifest["merge"]["weights"] == WEIGHTS
    assert [one["label"] for one in manifest["parents"]] == ["m0", "m1", "m2"]
    for one, folder in zip([*manifest["parents"], manifest["base"]], models, strict=True):
        paths = folder.glob("*.safetensors")
        assert one["files"] == {path.name: b3sum(path) for path in paths}
    assert manifest["dtype"] == "float16" and manifest["versions"]["torch"] == torch.__version__
    _, front, card = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == ["m0", "m1", "m2", "base"]
    recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert recipe == manifest["merge"]


def test_a_recipe_of_the_caller_is_kept_as_it_is(models: list[Path], tmp_path: Path) -> None:
    recipe = {"method": "linear", "parts": [{"path": "a"}]}
    merge(models[:2], tmp_path / "out", recipe=recipe)
    assert json.loads((tmp_path / "out" / "weft.json").read_text())["merge"] == recipe


def test_progress_counts_every_pass_and_ends_at_its_total(
    models: list[Path], tmp_path: Path
) -> None:
    *parts, base = models
    told: list[MergeProgress] = []
    merge(parts, tmp_path / "out", "ties", base=base, progress=told.append)
    size = sum(t.numel() * t.element_size() for t in make_tensors(0).values())
    assert told[-1].done_bytes == told[-1].total_bytes > 2 * 4 * (size - 50)
    assert all(a.done_bytes <= b.done_bytes for a, b in pairwise(told))
    assert told[-1].seconds_left == 0


def test_parts_in_memory_are_merged_into_files_too(tmp_path: Path) -> None:
    parts = [Memory(f"m{i}", {"w": torch.full((3,), float(i))}) for i in (1, 2)]
    merge_into(parts, tmp_path / "out", make_method("linear"), lambda name: [0.5, 0.5])
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].tolist() == [1.5] * 3
    parents = json.loads((tmp_path / "out" / "weft.json").read_text())["parents"]
    assert [list(one["files"]) for one in parents] == [["content"], ["content"]]


def test_transformers_loads_the_output(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        tie_word_embeddings=True,
    )
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(tmp_path / f"m{seed}")
        models.append(model)
    for name, shard_bytes in {"whole": 10**9, "cut": 2000}.items():
        folders = [tmp_path / "m0", tmp_path / "m1"]
        merge(folders, tmp_path / name, dtype=torch.bfloat16, shard_bytes=shard_bytes)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert loaded.dtype == torch.bfloat16
        assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
        own, one, other = (m.state_dict() for m in (loaded, *models))
        for key in one:
            mean = 0.5 * one[key] + 0.5 * other[key]
            assert torch.equal(own[key], mean.to(torch.bfloat16))

"""Safetensors files: what is written loads elsewhere, what lies is refused in one sentence."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import b3sum

from weft.artifacts.digests import Running
from weft.artifacts.tensors import DTYPES, MOST_HEADER, lay_out, read_header
from weft.errors import WeftError


def raw_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    count = int(torch.Size(shape).numel()) * dtype.itemsize
    most = 2 if dtype is torch.bool else 256
    return torch.randint(0, most, (count,), dtype=torch.uint8).view(dtype).reshape(shape)


def put(path: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    listed = [list(one) if isinstance(one, tuple) else one for one in (shape, offsets)]
    return {"dtype": dtype, "shape": listed[0], "data_offsets": listed[1]}


names = st.sampled_from(["a", "model.b.weight", "ключ", "c d", "e/f"])
shapes = st.lists(st.integers(0, 4), max_size=3)
sets = st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES)), shapes), min_size=1)


@given(sets, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_is_laid_out_and_written_in_any_order_loads_in_safetensors(
    tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, Any], shuffle: random.Random
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    tensors = {name: random_tensor(DTYPES[kind], shape) for name, (kind, shape) in chosen.items()}
    plan = [(name, one.dtype, tuple(one.shape)) for name, one in tensors.items()]
    layout = lay_out(plan)
    assert lay_out(plan).header == layout.header  # the same bytes every time
    order = list(tensors)
    shuffle.shuffle(order)
    with path.open("wb") as file:
        for name in order:
            file.seek(layout.tensors[name].start)
            file.write(raw_of(tensors[name]))
        file.seek(0)
        file.write(layout.header)
        file.truncate(layout.size)
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    header = read_header(path)
    assert header.metadata == {"format": "pt"} and header.size == layout.size
    for name, one in tensors.items():
        assert loaded[name].dtype == one.dtype and loaded[name].shape == one.shape
        assert raw_of(loaded[name]) == raw_of(one)
        assert header.tensors[name] == layout.tensors[name]
        assert header.tensors[name].start % one.dtype.itemsize == 0  # aligned


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(1.5),
        "none": torch.zeros(0, 3),
        "flags": torch.tensor([True, False, True]),
        "half": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"who": "me"})
    header = read_header(tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    assert header.metadata == {"who": "me"} and header.tensors.keys() == tensors.keys()
    for name, one in header.tensors.items():
        assert (one.dtype, one.shape) == (tensors[name].dtype, tuple(tensors[name].shape))
        assert data[one.start : one.start + one.bytes] == raw_of(tensors[name])


LIES: list[tuple[Any, str]] = [
    (b"[]", "its header is not valid JSON"),
    (b"{", "its header is not valid JSON"),
    (b'{"a": NaN}', "its header is not valid JSON"),
    (b'{"\\ud800": 1}', "its header is not valid JSON"),
    (b"[" * 100_000, "its header is not valid JSON"),
    (b'{"a": ' + b"[" * 100_000, "its header is not valid JSON"),
    (b'{"a": ' + b"9" * 5000 + b"}", "its header is not valid JSON"),
    (b"\xff\xfe", "its header is not valid JSON"),
    (b'{"a": 1, "a": 2}', "names 'a' twice"),
    (
        {"a\nb": entry()},
        r"names a tensor 'a\nb', with control characters",
    ),
    ({"__metadata__": {"a": 1}}, "has metadata that is not text by name"),
    ({"a": 1}, "tensor 'a' needs exactly a dtype, a shape and data_offsets"),
    ({"a": entry() | {"x": 1}}, "tensor 'a' needs exactly a dtype, a shape and data_offsets"),
    ({"a": entry("F31")}, "tensor 'a' has the unknown dtype 'F31'"),
    ({"a": entry(["F32"])}, "tensor 'a' has the unknown dtype ['F32']"),
    ({"a": entry("F4", (16,))}, "tensor 'a' has the unknown dtype 'F4'"),
    ({"a": entry(shape=(-2,))}, "tensor 'a' has a shape that is not a list of whole numbers"),
    ({"a": entry(shape=(2.0,))}, "tensor 'a' has a shape that is not a list of whole numbers"),
    ({"a": entry(shape=(True, 2))}, "tensor 'a' has a shape that is not a list of whole numbers"),
    ({"a": entry(shape=2)}, "tensor 'a' has a shape that is not a list of whole numbers"),
    ({"a": entry(shape=(0, 2**62, 4))}, "tensor 'a' has a shape too large for any tensor"),
    ({"a": entry(offsets=(0,))}, "tensor 'a' has data_offsets that are not two whole numbers"),
    ({"a": entry(offsets=(-8, 0))}, "tensor 'a' has data_offsets that are not two whole numbers"),
    ({"a": entry(offsets=(0, 4))}, "tensor 'a' has 4 bytes, but F32 of [2] takes 8"),
    ({"a": entry(offsets=(8, 0))}, "tensor 'a' has -8 bytes, but F32 of [2] takes 8"),
    ({"a": entry("F64", (2,))}, "tensor 'a' has 8 bytes, but F64 of [2] takes 16"),
    ({"a": entry(), "b": entry()}, "tensor 'b' overlaps the one before it"),
    ({"a": entry(shape=(1,), offsets=(4, 8))}, "4 bytes before tensor 'a' belong to none"),
    ({"a": entry(offsets=(0, 16), shape=(4,))}, "is cut: tensor 'a' ends 8 bytes after it"),
    ({"a": entry(shape=(1,), offsets=(0, 4))}, "has 4 bytes after the last tensor"),
    ({}, "has 8 bytes after the last tensor"),
]


@pytest.mark.parametrize(("header", "said"), LIES, ids=[said[:40] for _, said in LIES])
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, said: str) -> None:
    path = put(tmp_path / "x.safetensors", header)
    with pytest.raises(WeftError) as error:
        read_header(path)
    message = str(error.value)
    assert message.startswith(str(path)) and said in message and "\n" not in message


def test_a_length_that_lies_a_cut_file_and_a_pickle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"

    def refused() -> str:
        with pytest.raises(WeftError) as error:
            read_header(path)
        return str(error.value)

    put(path, {}, length=2**63)
    assert refused() == (
        f"{path} is cut or no safetensors file: a header of {2**63} bytes in a file of 18"
    )
    path.write_bytes(b"\x01\x02\x03")
    assert refused() == f"{path} is too short for a safetensors file: 3 bytes"
    path.write_bytes(b"PK\x03\x04" + b"\xff" * 40)
    assert refused() == f"{path} is a pickle file, and a pickle file is never read"
    path.write_bytes(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")
    assert refused() == f"{path} is a pickle file, and a pickle file is never read"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a Git LFS pointer" in refused()
    with path.open("wb") as file:  # sparse
        file.write((MOST_HEADER + 1).to_bytes(8, "little"))
        file.truncate(MOST_HEADER + 20)
    assert refused() == (
        f"{path} has a header of {MOST_HEADER + 1} bytes; at most {MOST_HEADER} are read"
    )
    path.unlink()
    assert refused() == f"{path} does not exist"
    path.mkdir()
    assert refused() == f"{path} is a folder, not a file"
    path.rmdir()
    os.mkfifo(path)
    assert refused() == f"{path} is no regular file, and only those are read"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "b.ckpt", "c.pth"])
def test_the_name_of_a_pickle_is_enough(tmp_path: Path, name: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(WeftError, match="a pickle file is never read"):
        read_header(tmp_path / name)


def test_a_file_can_not_be_laid_out_from_names_or_dtypes_it_can_not_hold() -> None:
    with pytest.raises(
        WeftError, match=r"tensor 'a': safetensors has no name for torch.complex128"
    ):
        lay_out([("a", torch.complex128, (1,))])
    for bad in (["a", "a"], ["a\n"], ["__metadata__"]):
        with pytest.raises(WeftError, match="can't be the name of a tensor"):
            lay_out([(name, torch.float32, (1,)) for name in bad])


@given(st.integers(0, 3_000_000), st.lists(st.integers(1, 700_000), max_size=8))
@settings(max_examples=30, deadline=None)
def test_a_running_hash_is_the_hash_of_the_file_however_it_was_paid(
    tmp_path_factory: pytest.TempPathFactory, size: int, payments: list[int]
) -> None:
    path = tmp_path_factory.mktemp("h") / "x"
    path.write_bytes(random.Random(size).randbytes(size))
    with path.open("rb") as file:
        running = Running(file.fileno(), path, size)
        for count in payments:
            running.pay(count, upto=min(size, 2 * count))
        assert running.finish() == b3sum(path) == running.finish()

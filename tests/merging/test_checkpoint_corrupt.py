"""Two thousand damaged checkpoints: each is refused in one sentence, or merged as it reads."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_merges import merge_into
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from weft.artifacts.tensors import DTYPES
from weft.errors import WeftError
from weft.merging.checkpoints.checkpoint import open_checkpoint
from weft.merging.engine.source import Memory
from weft.merging.methods import make_method

CASES = 2000
WEIGHTS = (0.25, 0.5)
FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"

Damage = Callable[[random.Random, bytes], bytes]


def split(raw: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(raw[:8], "little")
    return raw[8 : 8 + length], raw[8 + length :]


def join(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def flip_bits(where: Callable[[bytes], tuple[int, int]]) -> Damage:
    def damage(rng: random.Random, raw: bytes) -> bytes:
        changed = bytearray(raw)
        low, high = where(raw)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            changed[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return damage


def cut(rng: random.Random, raw: bytes) -> bytes:
    header = 8 + len(split(raw)[0])
    place = rng.choice([rng.randrange(9), rng.randrange(header), rng.randrange(header, len(raw))])
    return raw[:place]


def lengthen(rng: random.Random, raw: bytes) -> bytes:
    return raw + rng.randbytes(rng.randrange(1, 40))


def lie_about_length(rng: random.Random, raw: bytes) -> bytes:
    true = len(split(raw)[0])
    near = true + rng.choice([-1, 1, 8, -8, -true, len(raw)])
    lie = rng.choice([near, rng.randrange(2**64), 2**63, 2**64 - 1, 100_000_001, len(raw) - 8])
    return lie.to_bytes(8, "little") + raw[8:]


def odd_number(rng: random.Random, true: Any) -> Any:
    off = true + rng.choice([-1, 1, 4, -4]) if isinstance(true, int) else 1
    return rng.choice([off, -1, 0, 2**31, 2**63, 2**64, 1e300, 1.5, "4", None, True, [1], 10**400])


def lie_in_header(rng: random.Random, raw: bytes) -> bytes:
    """One entry says something else: a dtype, a shape, offsets, or another kind of thing."""
    header, data = split(raw)
    entries = json.loads(header)
    name = rng.choice([key for key in entries if key != "__metadata__"])
    entry = entries[name]
    kind = rng.randrange(8)
    if kind == 0:
        entry["dtype"] = rng.choice([*DTYPES, "F4", "f32", "", 7, None, ["F32"]])
    elif kind == 1:
        place = rng.randrange(max(1, len(entry["shape"])))
        entry["shape"][place : place + 1] = [odd_number(rng, (entry["shape"] or [1])[place])]
    elif kind == 2:
        place = rng.randrange(2)
        entry["data_offsets"][place] = odd_number(rng, entry["data_offsets"][place])
    elif kind == 3:  # as long as before, so that the shape alone lies
        size = math.prod(entry["shape"])
        entry["shape"] = rng.choice([[size], [1, size], [size, 1, 1], [size // 2, 2], [0, 2**60]])
    elif kind == 4:  # overlap: the place of another
        entry["data_offsets"] = rng.choice(list(entries.values())).get("data_offsets", [0, 0])
    elif kind == 5:
        del entry[rng.choice(list(entry))]
    elif kind == 6:
        entries[name] = rng.choice([None, 1, [], {}, "F32", entry | {"more": 1}])
    else:
        entries["__metadata__"] = rng.choice([None, 1, {"a": 1}, {"a": "b"}, []])
    return join(json.dumps(entries).encode(), data)


def repeat_or_drop(rng: random.Random, raw: bytes) -> bytes:
    """A key twice, a tensor less, a name changed, entries in another order, odd text."""
    header, data = split(raw)
    entries = json.loads(header)
    names = [key for key in entries if key != "__metadata__"]
    name = rng.choice(names)
    kind = rng.randrange(5)
    if kind == 0:
        text = json.dumps(entries)[:-1] + f", {json.dumps(name)}: {json.dumps(entries[name])}}}"
    elif kind == 1:
        text = json.dumps({key: one for key, one in entries.items() if key != name})
    elif kind == 2:
        new = rng.choice(["", "x\ny", "\x00", "é", "lm_head.weight", "a" * 3000, "\ud800"])
        text = json.dumps({new if key == name else key: one for key, one in entries.items()})
    elif kind == 3:
        rng.shuffle(names)
        text = json.dumps({key: entries[key] for key in names})
    else:
        text = rng.choice(["", "null", "[]", "{}", "[" * 5000, '{"a":' * 5000, " {}", "{}x", "{,}"])
    return join(text.encode("utf-8", "surrogatepass"), data)


DAMAGES: dict[str, Damage] = {
    "bits of the length": flip_bits(lambda raw: (0, 8)),
    "bits of the header": flip_bits(lambda raw: (8, 8 + len(split(raw)[0]))),
    "bits of the data": flip_bits(lambda raw: (8 + len(split(raw)[0]), len(raw))),
    "cut": cut,
    "longer": lengthen,
    "length": lie_about_length,
    "header": lie_in_header,
    "header again": lie_in_header,
    "names": repeat_or_drop,
}


def damage_index(rng: random.Random, text: str) -> bytes:
    index = json.loads(text)
    places: dict[str, Any] = index["weight_map"]
    name = rng.choice(list(places))
    kind = rng.randrange(6)
    if kind == 0:
        places[name] = rng.choice(FILES)
    elif kind == 1:
        places[name] = rng.choice(
            [
                "gone.safetensors",
                "../" + FILES[0],
                "/etc/passwd",
                "",
                ".",
                "..",
                "a\0b",
                3,
                None,
                [],
            ]
        )
    elif kind == 2:
        del places[name]
    elif kind == 3:
        places[rng.choice(["new", "", "a\nb"])] = rng.choice(FILES)
    elif kind == 4:
        index["weight_map"] = rng.choice([None, [], "x", {}])
    else:
        raw = bytearray(text.encode())
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(raw)[: rng.choice([None, rng.randrange(len(raw))])]
    return json.dumps(index).encode()


def make_tensors(seed: int) -> dict[str, Tensor]:
    random_ = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(4, 3, generator=random_),
        "b.bias": torch.randn(5, generator=random_).to(torch.bfloat16),
        "b.half": torch.randn(2, 2, generator=random_).to(torch.float16),
        "c.steps": torch.tensor([1, 2, 3]),
        "c.flag": torch.tensor([True, False, True, True]),
        "d.none": torch.zeros(0, 3),
    }


def expected(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """The linear merge of two models, plainly."""
    merged = {}
    for name, one in first.items():
        whole = WEIGHTS[0] * one.float() + WEIGHTS[1] * second[name].float()
        merged[name] = whole.to(one.dtype) if one.is_floating_point() else one
    return merged


def read_by_library(folder: Path) -> dict[str, Tensor]:
    return {n: t for file in FILES for n, t in load((folder / file).read_bytes()).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype
        and torch.equal(
            one[n].reshape(-1).view(torch.uint8), other[n].reshape(-1).view(torch.uint8)
        )
        and one[n].shape == other[n].shape
        for n in one
    )


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder to write a damaged checkpoint into, and the files of the whole one."""
    own = make_tensors(0)
    names = list(own)
    whole = {
        FILES[0]: save({n: own[n] for n in names[:3]}, metadata={"format": "pt"}),
        FILES[1]: save({n: own[n] for n in names[3:]}),
    }
    places = {n: FILES[i >= 3] for i, n in enumerate(names)}
    whole[INDEX] = json.dumps({"metadata": {"total_size": 1}, "weight_map": places}).encode()
    (tmp_path / "m").mkdir()
    return tmp_path / "m", whole


def outcome(folder: Path, out: Path, other: Memory) -> str:
    """Merge a folder with tensors in memory; "merged", or the error."""
    try:
        with open_checkpoint(folder) as part:
            merge_into([part, other], out, make_method("linear"), lambda name: WEIGHTS)
    except WeftError as error:
        return str(error)
    return "merged"


def test_every_damage_is_refused_in_one_sentence_or_merged_as_it_reads(
    damaged: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = damaged
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # a disk is slow; no one cuts power
    rng = random.Random(2024)
    second = make_tensors(1) | {n: t for n, t in make_tensors(0).items() if n.startswith("c.")}
    out, other = tmp_path / "out", Memory("other", second)
    there: dict[str, bytes] = {}
    ends: Counter[tuple[str, bool]] = Counter()
    for number in range(CASES):
        files = dict(whole)
        kind = rng.choice([*DAMAGES, "index"])
        if kind == "index":
            files[INDEX] = damage_index(rng, whole[INDEX].decode())
        else:
            file = rng.choice(FILES)
            files[file] = DAMAGES[kind](rng, files[file])
        for file, raw in files.items():
            if there.get(file) != raw:
                (folder / file).unlink(missing_ok=True)  # writing over it would wait for the disk
                (folder / file).write_bytes(raw)
        there = files
        said = outcome(folder, out, other)
        ends[kind, said == "merged"] += 1
        if said == "merged":
            merged = load((out / "model.safetensors").read_bytes())
            assert same(merged, expected(read_by_library(folder), second)), (number, kind)
            shutil.rmtree(out)
        else:
            assert said.strip() and "\n" not in said and len(said) < 5000, (number, kind)
        left = [path.name for path in tmp_path.iterdir()]
        assert left == ["m"], (number, kind, left)
    for kind in [*DAMAGES, "index"]:  # the generator makes what it is meant to make
        assert ends[kind, False] > 20, kind
    assert sum(count for (_, merged), count in ends.items() if merged) > 100


def test_what_the_library_refuses_is_refused(
    damaged: tuple[Path, dict[str, bytes]],
) -> None:
    folder, whole = damaged
    rng = random.Random(7)
    path = folder / "x.safetensors"
    for number in range(400):
        kind = rng.choice(list(DAMAGES))
        raw = DAMAGES[kind](rng, whole[rng.choice(FILES)])
        path.unlink(missing_ok=True)
        path.write_bytes(raw)
        try:
            load(raw)
        except (SafetensorError, OverflowError, KeyError, ValueError, RuntimeError, TypeError):
            with pytest.raises(WeftError):
                open_checkpoint(path)
                pytest.fail(f"{number} {kind} was opened")

"""Opening a checkpoint: what fits together is read, what does not is named in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import b3sum

from weft.artifacts.pickles import pickle_advice
from weft.errors import WeftError
from weft.merging.checkpoints.checkpoint import open_checkpoint

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.weight": torch.arange(6, dtype=torch.bfloat16),
    "b.steps": torch.tensor(7),
    "c.none": torch.zeros(0, 5),
}
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
PLACES = {"a.weight": ONE, "b.weight": TWO, "b.steps": TWO, "c.none": TWO}


def write_sharded(folder: Path, places: dict[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for file in (ONE, TWO):
        here = {name: TENSORS[name] for name, at in PLACES.items() if at == file}
        save_file(here, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": PLACES if places is None else places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def refused(path: Path) -> str:
    before = descriptors()
    with pytest.raises(WeftError) as error:
        open_checkpoint(path)
    assert descriptors() == before  # nothing stays open
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path.parent), "")


def test_shards_one_file_in_a_folder_and_a_file_are_the_same_source(tmp_path: Path) -> None:
    sharded = write_sharded(tmp_path / "sharded")
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(TENSORS, whole / "model.safetensors")
    for path in (sharded, whole, whole / "model.safetensors"):
        with open_checkpoint(path) as source:
            assert source.label == path.name and source.specs.keys() == TENSORS.keys()
            for name, tensor in TENSORS.items():
                spec = source.specs[name]
                assert (spec.shape, spec.dtype) == (tuple(tensor.shape), tensor.dtype)
                flat = tensor.reshape(-1)
                for start in range(spec.size):
                    assert torch.equal(source.read(name, start, 1), flat[start : start + 1])
                assert torch.equal(source.read(name, 0, spec.size), flat)
            assert source.hashes(2) == {
                one.path.name: b3sum(one.path) for one in source.files
            } and len(source.files) == (2 if path == sharded else 1)
    with open_checkpoint(sharded, "mine") as source:
        assert source.label == "mine"


def test_reading_is_safe_from_many_threads_and_closing_ends_it(tmp_path: Path) -> None:
    numbers = torch.arange(100_000, dtype=torch.int32)
    save_file({"n": numbers}, tmp_path / "n.safetensors")
    before = descriptors()
    with open_checkpoint(tmp_path / "n.safetensors") as source, ThreadPoolExecutor(8) as pool:
        starts = range(0, 100_000, 777)
        blocks = list(pool.map(lambda s: source.read("n", s, min(777, 100_000 - s)), starts))
        assert torch.equal(torch.cat(blocks), numbers)
        assert source.hashes() == {"n.safetensors": b3sum(tmp_path / "n.safetensors")}
    source.close()  # again, without harm
    assert descriptors() == before


def test_a_file_that_shrinks_or_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    save_file({"n": torch.arange(1000)}, path)
    with open_checkpoint(path) as source:
        os.utime(path, ns=(0, 0))
        with pytest.raises(WeftError, match=r"n\.safetensors was changed while it was being read"):
            source.hashes()
        os.truncate(path, 5000)
        with pytest.raises(WeftError, match="ends at byte 5000: it was cut while being read"):
            source.read("n", 0, 1000)


def test_what_config_json_says(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "x")
    with open_checkpoint(folder) as source:
        assert source.config is None and source.vocab_size is None and source.tied
    save_file(TENSORS | {"lm_head.weight": torch.zeros(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"text_config": {"vocab_size": 9}}')
    for name in ("tokenizer.json", "merges.txt", "modeling_x.py", "pytorch_model.bin", "notes"):
        (folder / name).write_text("{}")
    with open_checkpoint(folder) as source:
        assert source.vocab_size == 9 and not source.tied
        names = [path.name for path in source.companions]
        assert names == ["config.json", "tokenizer.json", "merges.txt"]  # never code
    (folder / "config.json").write_text('{"tie_word_embeddings": true}')
    with open_checkpoint(folder) as source:
        assert source.tied
    (folder / "config.json").write_text("{,}")
    assert refused(folder).startswith("/x/config.json is not valid JSON: ")
    (folder / "config.json").write_text("[]")
    assert refused(folder) == "/x/config.json holds no JSON object"


BAD_INDEX: list[tuple[dict[str, str], str]] = [
    (
        PLACES | {"a.weight": "../x/" + ONE},
        f"weight_map puts 'a.weight' into '../x/{ONE}', which is no safetensors file of that folder",
    ),
    (
        PLACES | {"a.weight": "/etc/passwd"},
        "weight_map puts 'a.weight' into '/etc/passwd', which is no safetensors file of that folder",
    ),
    (
        PLACES | {"a.weight": ".."},
        "weight_map puts 'a.weight' into '..', which is no safetensors file of that folder",
    ),
    (PLACES | {"a.weight": TWO, "b.steps": ONE}, f"tensor 'a.weight' is in {ONE}, not in {TWO}"),
    (PLACES | {"z": TWO}, f"tensor 'z' is not in {TWO}"),
]


@pytest.mark.parametrize(("places", "said"), BAD_INDEX)
def test_an_index_that_lies_is_refused(tmp_path: Path, places: dict[str, str], said: str) -> None:
    message = refused(write_sharded(tmp_path / "x", places))
    assert message.startswith("/x/model.safetensors.index.json: ") and message.endswith(said)


def test_an_index_and_its_files_must_be_complete(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "x", {n: f for n, f in PLACES.items() if n != "b.steps"})
    index = folder / "model.safetensors.index.json"
    assert refused(folder) == (
        f"/x/model.safetensors.index.json does not name the tensor 'b.steps' of {TWO}"
    )
    write_sharded(folder, PLACES | {"a.weight": "gone.safetensors"})
    assert refused(folder) == (
        "/x/model.safetensors.index.json names the file 'gone.safetensors', which does not exist"
    )
    write_sharded(folder)
    save_file({"a.weight": TENSORS["a.weight"]} | TENSORS, folder / TWO)
    assert refused(folder) == f"tensor 'a.weight' is in {ONE} and in {TWO} of /x"
    for text in ("[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": []}'):
        index.write_text(text)
        assert refused(folder) == (
            "/x/model.safetensors.index.json has no weight_map of tensor names to file names"
        )
    index.write_text('{"weight_map": {}}')
    assert refused(folder) == "/x holds no tensors"


def make_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def make_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")


NO_CHECKPOINTS: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: None, "/x has neither model.safetensors nor model.safetensors.index.json"),
    (make_adapter, "/x is an adapter, not a checkpoint"),
    (
        make_pickle,
        pickle_advice(Path("/x"), ["pytorch_model.bin"], "model.safetensors"),
    ),
    (lambda folder: folder.rmdir(), "/x does not exist"),
]


@pytest.mark.parametrize(("make", "said"), NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_said_to_be_what_it_is(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    (tmp_path / "x").mkdir()
    make(tmp_path / "x")
    assert refused(tmp_path / "x") == said

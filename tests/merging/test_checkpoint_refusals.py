"""What can't be merged is said in one sentence, before any work, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_merges import merge_into
from safetensors.torch import save_file
from torch import Tensor

from weft.artifacts.staging import staged
from weft.errors import WeftError
from weft.merging.checkpoints.checkpoint import open_checkpoint
from weft.merging.methods import make_method

NAN, INF = float("nan"), float("inf")


def tensors(**changed: Tensor | None) -> dict[str, Tensor]:
    own = {
        "embed_tokens.weight": torch.ones(6, 2),
        "lm_head.weight": torch.full((6, 2), 2.0),
        "w": torch.ones(2, 3),
        "steps": torch.tensor([1, 2]),
    }
    named = {name.replace("__", "."): one for name, one in changed.items()}
    return {name: one for name, one in (own | named).items() if one is not None}


def write(folder: Path, own: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file(own, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refused(
    tmp_path: Path, method: Any = "linear", weights: Any = (0.5, 0.5), **options: Any
) -> str:
    """The error of merging a and b (from base) into out; nothing may be left of out."""
    before = sorted(path.name for path in tmp_path.iterdir())
    parts = [open_checkpoint(tmp_path / name) for name in ("a", "b")]
    base = open_checkpoint(tmp_path / "base") if (tmp_path / "base").exists() else None
    try:
        with pytest.raises(WeftError) as error:
            merge_into(
                parts,
                tmp_path / "out",
                make_method(method),
                weights if callable(weights) else lambda name: weights,
                base=base,
                **options,
            )
    finally:
        for one in [*parts, *([] if base is None else [base])]:
            one.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return str(error.value)


MISFITS: list[tuple[dict[str, Tensor | None], str]] = [
    ({"w": torch.ones(3, 2)}, "tensor 'w' has the shape [2, 3] in a and [3, 2] in b"),
    ({"w": None}, "tensor 'w' is in a but not in b"),
    ({"x": torch.ones(1)}, "tensor 'x' is in b but not in a"),
    ({"w": torch.ones(2, 3, dtype=torch.int32)}, "tensor 'w' is float32 in a and int32 in b"),
    ({"steps": torch.tensor([1, 3])}, "tensor 'steps' holds integers that differ in a and b"),
    ({"w": torch.tensor([[1, 2, 3], [4, NAN, 6]])}, "tensor 'w' of b holds NaN or infinity"),
    ({"w": torch.tensor([[1, 2, 3], [4, -INF, 6]])}, "tensor 'w' of b holds NaN or infinity"),
    (
        {"embed_tokens__weight": torch.ones(7, 2), "lm_head__weight": torch.ones(7, 2)},
        (
            "a and b have vocabularies of different size: "
            "tensor 'embed_tokens.weight' has the shapes [6, 2] and [7, 2]"
        ),
    ),
    (
        {"lm_head__weight": None},
        "tensor 'lm_head.weight' is in a, but b ties it to the embedding",
    ),
]


@pytest.mark.parametrize(("changed", "said"), MISFITS, ids=[said[:50] for _, said in MISFITS])
def test_parts_that_do_not_fit(
    tmp_path: Path, changed: dict[str, Tensor | None], said: str
) -> None:
    write(tmp_path / "a", tensors())
    write(tmp_path / "b", tensors(**changed))
    assert refused(tmp_path) == said


CONFIGS: list[tuple[dict[str, Any], str]] = [
    (
        {"vocab_size": 7},
        "a and b have vocabularies of different size: vocab_size is 6 and 7",
    ),
    (
        {"vocab_size": 6, "quantization_config": {"bits": 4}},
        "b is quantised (quantization_config) and can't be merged",
    ),
]


@pytest.mark.parametrize(("config", "said"), CONFIGS)
def test_configurations_that_do_not_fit(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    write(tmp_path / "a", tensors(), vocab_size=6)
    write(tmp_path / "b", tensors(), **config)
    assert refused(tmp_path) == said


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"weights": (1.0,)}, "tensor 'embed_tokens.weight' has 1 weights for 2 parts"),
    (
        {"weights": lambda name: (1.0, NAN) if name == "w" else (1.0, 1.0)},
        "tensor 'w' has weights that are not finite: [1.0, nan]",
    ),
    ({"method": "ties"}, "ties of checkpoints needs a base (base)"),
    ({"dtype": torch.int8}, "dtype must be one of floating point numbers, not int8"),
    ({"shard_bytes": 0}, "shard_bytes must be at least 1, not 0"),
    ({"threads": 0}, "threads must be at least 1, not 0"),
]


@pytest.mark.parametrize(("options", "said"), SETTINGS, ids=[said[:40] for _, said in SETTINGS])
def test_settings_that_can_not_be(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    write(tmp_path / "a", tensors())
    write(tmp_path / "b", tensors())
    assert refused(tmp_path, **options) == said


def test_memory_that_can_not_do_names_the_least_that_does(tmp_path: Path) -> None:
    write(tmp_path / "a", tensors())
    write(tmp_path / "b", tensors())
    said = refused(tmp_path, memory=1_000_000)
    assert said.startswith("memory: this merge needs at least ") and said.endswith("not 1 MB")
    least = int(said.split("at least ")[1].split(" MB")[0]) * 1_000_000
    parts = [open_checkpoint(tmp_path / name) for name in ("a", "b")]
    for memory in (least, 2 * least):
        out = tmp_path / str(memory)
        method = make_method("linear")
        merge_into(parts, out, method, lambda name: (0.5, 0.5), memory=memory)


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, tensors())
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("1")
    assert refused(tmp_path) == f"{out} exists already; name another folder or remove it"
    assert (out / "precious").read_text() == "1"
    shutil.rmtree(out)
    out.write_text("2")
    assert refused(tmp_path) == f"{out} exists already; name another folder or remove it"


def test_an_empty_output_folder_is_filled(tmp_path: Path) -> None:
    write(tmp_path / "a", tensors())
    (tmp_path / "out").mkdir()
    with open_checkpoint(tmp_path / "a") as part:
        merge_into([part], tmp_path / "out", make_method("linear"), lambda name: [1.0])
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_two_processes_do_not_make_the_same_output(tmp_path: Path) -> None:
    with staged(tmp_path / "out", "0" * 16) as folder:
        (folder / "x").write_text("1")
        with (
            pytest.raises(WeftError, match=r"another process is writing .*out; wait until"),
            staged(tmp_path / "out", "0" * 16),
        ):
            pytest.fail("entered")
        with staged(tmp_path / "out", "1" * 16):  # another plan; the first to end wins
            pass
        assert folder.exists()  # it lives
        shutil.rmtree(tmp_path / "out")
    assert (tmp_path / "out" / "x").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("call", "reason"),
    [("pwrite", "the disk is full"), ("fsync", "the disk is full"), ("posix_fallocate", "full")],
)
def test_a_disk_that_fills_up_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, reason: str
) -> None:
    write(tmp_path / "a", tensors())
    write(tmp_path / "b", tensors())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    assert refused(tmp_path) == f"{tmp_path / 'out'} can't be written: the disk is full"


def test_no_room_on_the_disk_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", tensors())
    write(tmp_path / "b", tensors())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert refused(tmp_path) == (
        f"{tmp_path / 'out'} needs 0.00105 GB of disk, and 1e-06 GB are free there"
    )


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def rewrite(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [(shrink, "it was cut while being read"), (rewrite, "was changed while it was being read")],
)
def test_an_input_that_changes_meanwhile(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    write(tmp_path / "a", tensors())
    write(tmp_path / "b", tensors())
    asked = []

    def weights(name: str) -> tuple[float, float]:
        asked.append(name)
        if len(asked) == 10:  # the merge has begun
            change(tmp_path / "b" / "model.safetensors")
        return (0.5, 0.5)

    assert refused(tmp_path, weights=weights).endswith(said)


def test_a_companion_file_that_goes_away_meanwhile(tmp_path: Path) -> None:
    write(tmp_path / "a", tensors())
    write(tmp_path / "b", tensors())

    def weights(name: str) -> tuple[float, float]:
        (tmp_path / "a" / "config.json").unlink(missing_ok=True)
        return (0.5, 0.5)

    said = refused(tmp_path, weights=weights)
    assert said == f"{tmp_path / 'a' / 'config.json'} can't be read: it does not exist"

"""A process that is killed while it merges: the next one goes on and gives the same bits."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from folder_merges import merge_into
from safetensors.torch import save_file

from weft.merging.checkpoints.checkpoint import open_checkpoint
from weft.merging.methods import make_method

LIMIT = 60  # seconds until a test gives up
METHOD = {"name": "ties", "density": 0.4}  # has global passes
SHARD = 200  # bytes, so that every tensor gets a file


def do_merge(root: Path, weights: Callable[[str], Sequence[float]] | None = None) -> None:
    parts = [open_checkpoint(root / name / "model.safetensors", name) for name in ("a", "b")]
    base = open_checkpoint(root / "base" / "model.safetensors", "base")
    given = (lambda name: (0.5, 0.5)) if weights is None else weights
    method = make_method(METHOD)
    merge_into(parts, root / "out", method, given, base=base, shard_bytes=SHARD, threads=1)
    for one in (*parts, base):
        one.close()


def merge_until(root: Path, call: str, count: int) -> None:
    """Merge in a process that kills itself just before a call of the system."""
    real, left = getattr(os, call), [count]

    def counted(*arguments: object) -> object:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(os, call, counted)
    do_merge(root)


def merge_and_stop(root: Path, name: str, stopped: Event) -> None:
    """Merge, but stand still at a tensor once the third file has been begun."""

    def weights(of: str) -> tuple[float, float]:
        if of == name and any(root.glob(".out.*.part/model-00003*")):
            stopped.set()
            threading.Event().wait()
        return 0.5, 0.5

    do_merge(root, weights)


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Processes that need not import torch again."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["weft.merging.checkpoints.folder_merge", "weft.merging.methods"])
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b", "base")):
        random = torch.Generator().manual_seed(seed)
        (tmp_path / name).mkdir()
        own = {f"t{i}": torch.randn(6, 8, generator=random) for i in range(5)}
        save_file(own, tmp_path / name / "model.safetensors")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def undisturbed(root: Path) -> dict[str, bytes]:
    do_merge(root)
    found = content(root / "out")
    for path in (root / "out").iterdir():
        path.unlink()
    (root / "out").rmdir()
    return found


def staging(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.name.startswith(".out.")]


def finished(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished shard."""
    found = {}
    for folder in staging(root):
        for path in folder.glob("*.safetensors"):
            found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


@pytest.mark.parametrize(
    ("call", "share"),
    [
        ("pwrite", 0.0),
        ("pwrite", 0.5),
        ("fsync", 0.0),
        ("fsync", 0.2),
        ("fsync", 0.9),
        ("fsync", 1),
    ],
)
def test_a_kill_at_any_instant_loses_no_finished_file(
    context: ForkServerContext,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    share: float,
) -> None:
    real, calls = getattr(os, call), itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *arguments: (next(calls), real(*arguments))[1])
        expected = undisturbed(root)
    count = max(1, round(share * next(calls)))
    process = context.Process(target=merge_until, args=(root, call, count))
    process.start()
    process.join(LIMIT)
    assert process.exitcode == -signal.SIGKILL
    published = (root / "out").exists()  # the very last call comes after the rename
    assert published == (not staging(root)) == (share == 1)
    kept = finished(root)
    if not published:
        do_merge(root)
    assert content(root / "out") == expected
    for name, one in kept.items():
        path = root / "out" / name
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == one  # not written again
    assert not staging(root)


def test_a_kill_from_outside_and_another_plan(context: ForkServerContext, root: Path) -> None:
    expected = undisturbed(root)
    stopped = context.Event()
    process = context.Process(target=merge_and_stop, args=(root, "t3", stopped))
    process.start()
    assert stopped.wait(LIMIT)
    until = time.monotonic() + LIMIT
    while len(finished(root)) < 3 and time.monotonic() < until:
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(LIMIT)
    kept, left = finished(root), staging(root)
    assert len(kept) == 3 and len(left) == 1
    # Another plan for the same output: it redoes everything, and clears up at the end.
    do_merge(root, lambda name: (0.25, 0.5))
    assert not staging(root)
    other = content(root / "out")
    assert other.keys() == expected.keys() and other != expected

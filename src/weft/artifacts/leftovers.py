"""The temporary siblings of what is being written: whose they are, and what killed processes left.

A temporary `.NAME.k3v9x_0a.part` is locked (flock) by the process that writes it, so one whose
lock is free was left by a killed process and is removed by the next process that writes NAME.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PART = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.part(?P<old>\.old)?", re.DOTALL)
_UNPUBLISHED = re.compile(r"\..+\.(?:[a-z0-9_]{8}|[0-9a-f]{16})\.part", re.DOTALL)


def is_unpublished(path: Path) -> bool:
    """Whether `path` lies in a folder that is itself still to be published."""
    return any(_UNPUBLISHED.fullmatch(parent.name) for parent in path.absolute().parents)


def held_folder(path: Path) -> tuple[Path, int | None]:
    """A new temporary folder beside `path`, and a descriptor that holds it for this process (None
    where the file system has no locks: then leftovers stay)."""
    remove_leftovers(path.parent, path.name)
    while True:
        folder = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            return Path(folder), _lock(Path(folder))
        except (BlockingIOError, FileNotFoundError):  # another process takes it for a leftover
            continue
        except OSError:
            return Path(folder), None


def release(lock: int | None) -> None:
    """Give up the hold on a folder; None is none."""
    if lock is not None:
        os.close(lock)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of `name` in a folder, or of any name.

    What a living process writes stays. A folder that was moved aside for one that never came gets
    its name back.
    """
    try:
        with os.scandir(folder) as entries:
            matches = [(entry.name, _PART.fullmatch(entry.name)) for entry in entries]
    except OSError:
        return
    for left, match in matches:
        if match is not None and name in (None, match["name"]):
            with suppress(OSError):
                _remove(folder / left, folder / match["name"], bool(match["old"]))


def _remove(left: Path, path: Path, old: bool) -> None:
    if old:
        with suppress(FileNotFoundError):
            os.close(_lock(left.with_suffix("")))  # raises where its process lives
    lock = _lock(left)
    try:
        if old and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    """A descriptor that holds a file or folder; an `OSError` where another process does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(errno.ENOENT, "renamed or removed since", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

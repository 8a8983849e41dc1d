"""A folder that takes long to build: it survives a kill, and appears by one rename."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weft.artifacts.atomic import check_folder, real, reason
from weft.artifacts.renames import move_new, sync, sync_tree
from weft.errors import BusyError, DataError, WeftError, WriteError

_LOCK = ".lock"


@contextmanager
def staged(out: Path, key: str) -> Iterator[Path]:
    """Yield a hidden sibling of `out`, named by the key; rename it to `out` when all ends well.

    The same key (16 hex digits) finds what a killed or interrupted process had done; an error
    leaves nothing. `out` must be absent or empty (`WriteError`). One process at a time, the others
    get a `BusyError`; at the end, what others
    of other keys left for the same `out` is removed, unless they still live.
    """
    out = real(out)
    check_folder(out, new=True)
    folder = _named(out, key)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise WriteError(f"{out} can't be written: {reason(error)}") from None
    if lock is None:
        raise BusyError(f"another process is writing {out}; wait until it is done")
    try:
        check_folder(out, new=True)  # another process may have finished it meanwhile
        empty = out.exists()
        yield folder
        _publish(folder, out, empty)
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, FileNotFoundError):
            # A process that has just published `out` takes a folder without its lock for a leftover.
            check_folder(out, new=True)
        if isinstance(error, OSError):
            raise _weft_error(error, folder, out) from error
        if isinstance(error, WeftError) and str(folder) in str(error):
            raise type(error)(str(error).replace(str(folder), str(out))) from error
        raise
    finally:
        os.close(lock)
    _remove_left(out)


def _weft_error(error: OSError, folder: Path, out: Path) -> WeftError:
    """As one sentence: an error of a file outside of `folder` is one of reading it."""
    writing = error.filename is None or str(error.filename).startswith(str(folder))
    if writing or error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(f"{out} can't be written: {reason(error)}")
    return DataError(f"{error.filename} can't be read: {reason(error)}")


def _named(out: Path, key: str) -> Path:
    return out.with_name(f".{out.name}.{key}.part")


def _publish(folder: Path, out: Path, over_empty: bool) -> None:
    (folder / _LOCK).unlink()
    sync_tree(folder)
    move_new(folder, out, over_empty=over_empty)
    sync(out.parent)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder for this process; None where another one does."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # renamed or removed since
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), (folder / _LOCK).stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # of a folder that its holder has renamed or removed


def _remove_left(out: Path) -> None:
    ours = re.compile(re.escape(f".{out.name}.") + r"[0-9a-f]{16}\.part")
    for folder in out.parent.iterdir():
        if not ours.fullmatch(folder.name):
            continue
        try:
            lock = _lock(folder)
        except OSError:
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

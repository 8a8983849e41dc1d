"""Renames that never remove what someone else put there, and what the disk must have before them."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from weft.errors import WriteError

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2(2)
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)
_LACKING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


@cache
def _renameat2() -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _rename(source: Path, target: Path, flag: int) -> int | None:
    """0, an error number, or None where the system or the file system has no such rename."""
    call = _renameat2() if sys.platform == "linux" else None
    if call is None:
        return None
    if not call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag):
        return 0
    code = ctypes.get_errno()
    return None if code in _LACKING else code


def exists_already(path: Path) -> WriteError:
    """The error for something that stands in the place of a new folder."""
    return WriteError(f"{path} exists already; name another folder or remove it")


def replaced_meanwhile(path: Path) -> WriteError:
    """The error for a folder that another process put in the place of the one to replace."""
    return WriteError(f"{path} was replaced by another process meanwhile, and is left as it is")


def move_new(source: Path, target: Path, *, over_empty: bool = False) -> None:
    """Rename a folder to `target`, which must be absent, or with `over_empty` an empty folder.

    One step of the file system, so that of several processes one wins and the others get a
    `WriteError`. Where there is no rename that refuses to replace, a plain one is as good but for
    an empty folder, which it takes the place of (POSIX: of no other).
    """
    code = _rename(source, target, _NOREPLACE)
    if code is None or (code == errno.EEXIST and over_empty):
        try:
            source.rename(target)
            return
        except OSError as error:
            if error.errno in _TAKEN:
                raise exists_already(target) from None
            raise
    if code in _TAKEN:
        raise exists_already(target)
    if code:
        raise OSError(code, os.strerror(code), str(source), None, str(target))


def exchange(source: Path, target: Path) -> bool:
    """Let two folders change places in one step, so that neither name is ever absent; False where
    the file system can't."""
    code = _rename(source, target, _EXCHANGE)
    if code:
        raise OSError(code, os.strerror(code), str(source), None, str(target))
    return code == 0


def sync(path: Path) -> None:
    """Have the disk take what was written to a file or folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have the disk take a folder with all that is in it: 1 to 2 ms a file on a usual disk."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(root, name)
            if not path.is_symlink():
                sync(path)
        sync(Path(root))

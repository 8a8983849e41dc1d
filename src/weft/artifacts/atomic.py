"""Whole or absent: files and directories that appear by one rename."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from weft.artifacts.documents import read_json as read_json
from weft.artifacts.leftovers import held_folder, is_unpublished, release
from weft.artifacts.reasons import reason as reason
from weft.artifacts.renames import exchange, move_new, replaced_meanwhile, sync, sync_tree
from weft.errors import WeftError, WriteError
from weft.safe_text import json_text


def check_parents(path: Path) -> None:
    """A `WriteError` unless `path` could be made: what it lies in is, or can be, a folder."""
    for parent in Path(path).absolute().parents:
        try:
            there = parent.exists() or parent.is_symlink()
        except OSError as error:
            raise WriteError(f"{path} can't be written: {parent}: {reason(error)}") from None
        if there:
            if not parent.is_dir():
                raise WriteError(f"{path} can't be written: {parent} is not a folder")
            if not os.access(parent, os.W_OK | os.X_OK):
                raise WriteError(f"{path} can't be written: no permission to write in {parent}")
            return


def check_folder(path: Path, *, new: bool = False) -> None:
    """A `WriteError` unless `path` is a folder or can be made one.

    With `new` it must be absent or empty.
    """
    path = Path(path)
    if new or not path.is_dir():
        check_parents(path)
    if path.exists() and new and (not path.is_dir() or any(path.iterdir())):
        raise WriteError(f"{path} exists already; name another folder or remove it")
    if path.exists() and not path.is_dir():
        raise WriteError(f"{path} is not a folder; name another one or remove it")


def check_file(path: Path) -> None:
    """A `WriteError` unless a file can be written at `path`."""
    check_parents(path)
    if Path(path).is_dir():
        raise WriteError(f"{path} is a folder; name a file")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_OF_RUST = re.compile(r"\(os error (\d+)\)")  # how polars and safetensors say it


@contextmanager
def _write_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Say in one sentence why `path` can't be written; an error of another file passes."""
    try:
        yield
    except WeftError as error:
        if temporary is not None and str(temporary) in str(error):  # of a file in the new folder
            raise type(error)(str(error).replace(str(temporary), str(path))) from error
        raise
    except OSError as error:
        named = "" if error.filename is None else str(error.filename)
        concerned = temporary is None or named == str(path) or named.startswith(str(temporary))
        if concerned or (not named and error.errno in _FULL):
            raise WriteError(f"{path} can't be written: {reason(error)}") from error
        raise
    except Exception as error:
        code = _OF_RUST.search(str(error))
        if code and int(code[1]) in _FULL:
            cause = OSError(int(code[1]), os.strerror(int(code[1])))
            raise WriteError(f"{path} can't be written: {reason(cause)}") from error
        raise


@contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block ends well.

    On an error nothing is left behind. An existing non-empty `path` is an error unless `replace`,
    in which case the two change places once the new one is complete and on the disk. A folder that
    another process put there in the meantime is never touched: that is an error too
    (`WriteError`).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with new_directory(Path(place) / "run") as folder:
    ...         write_json(folder / "result.json", {"ndcg@5": 0.25})
    ...     [path.name for path in Path(place, "run").iterdir()]
    ['result.json']
    """
    path = real(Path(path))
    with _write_errors(path):
        check_folder(path, new=not replace)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _identity(path)
        temporary, lock = held_folder(path)
    try:
        with _write_errors(path, temporary):
            yield temporary
            temporary.chmod(0o755)
            if not is_unpublished(path):
                sync_tree(temporary)
            if replace and before is not None:
                _swap(temporary, path, before)
            else:
                move_new(temporary, path, over_empty=before is not None)
            if not is_unpublished(path):
                sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        release(lock)


def real(path: Path) -> Path:
    """A link's target, so that it is the target that is written."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _identity(path: Path) -> tuple[int, int] | None:
    """Which folder or file this is, whatever its name; None where there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _swap(new: Path, path: Path, before: tuple[int, int]) -> None:
    """Put `new` in the place of the folder that was there `before`, which gets the other's name."""
    if exchange(new, path):
        if _identity(new) != before:  # someone else's by now: give it back
            exchange(new, path)
            raise replaced_meanwhile(path)
        return
    # The file system can't exchange: for an instant there is no `path`.
    old = new.with_name(new.name + ".old")
    path.rename(old)
    if _identity(old) != before:
        move_new(old, path)
        raise replaced_meanwhile(path)
    try:
        move_new(new, path)
    except BaseException:
        with suppress(WeftError):
            move_new(old, path)
        raise
    shutil.rmtree(old)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a path for a new file; rename it over `path` when the block ends well.

    It lies in a temporary folder of its own beside `path`, as libraries replace files that they
    write, and a lock on the file would be gone with it.
    """
    path = Path(path)
    with _write_errors(path):
        check_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = held_folder(path)
    temporary = folder / path.name
    try:
        with _write_errors(path, temporary):
            yield temporary
            temporary.chmod(0o644)
            if not is_unpublished(path):
                sync(temporary)
            temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        release(lock)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    with new_file(path) as temporary:
        temporary.write_text(json_text(value) + "\n", "utf-8")

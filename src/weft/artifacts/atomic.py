"""Whole or absent: files and directories that appear by one rename."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weft.errors import WeftError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EBUSY: "it is in use",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "a part of this path is not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.EEXIST: "it exists already",
    errno.ENOENT: "it does not exist",
    errno.ENAMETOOLONG: "the name is too long",
}


def reason(error: OSError) -> str:
    """Why the system refused, in a few words."""
    said = error.strerror or str(error) or type(error).__name__
    return _REASONS.get(error.errno or 0, said)


def check_parents(path: Path) -> None:
    """A `WeftError` unless `path` could be made: what it lies in is, or can be, a folder."""
    for parent in Path(path).absolute().parents:
        try:
            there = parent.exists() or parent.is_symlink()
        except OSError as error:
            raise WeftError(f"{path} can't be written: {parent}: {reason(error)}") from None
        if there:
            if not parent.is_dir():
                raise WeftError(f"{path} can't be written: {parent} is not a folder")
            if not os.access(parent, os.W_OK | os.X_OK):
                raise WeftError(f"{path} can't be written: no permission to write in {parent}")
            return


def check_folder(path: Path, *, new: bool = False) -> None:
    """A `WeftError` unless `path` is a folder or can be made one.

    With `new` it must be absent or empty.
    """
    path = Path(path)
    if new or not path.is_dir():
        check_parents(path)
    if path.exists() and new and (not path.is_dir() or any(path.iterdir())):
        raise WeftError(f"{path} exists already; name another folder or remove it")
    if path.exists() and not path.is_dir():
        raise WeftError(f"{path} is not a folder; name another one or remove it")


def check_file(path: Path) -> None:
    """A `WeftError` unless a file can be written at `path`."""
    check_parents(path)
    if Path(path).is_dir():
        raise WeftError(f"{path} is a folder; name a file")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_OF_RUST = re.compile(r"\(os error (\d+)\)")  # how polars and safetensors say it


@contextmanager
def _said_of(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Say in one sentence why `path` can't be written; an error of another file passes."""
    try:
        yield
    except WeftError as error:
        if temporary is not None and str(temporary) in str(error):  # of a file in the new folder
            raise WeftError(str(error).replace(str(temporary), str(path))) from error
        raise
    except OSError as error:
        named = "" if error.filename is None else str(error.filename)
        own = temporary is None or named == str(path) or named.startswith(str(temporary))
        if own or (not named and error.errno in _FULL):
            raise WeftError(f"{path} can't be written: {reason(error)}") from error
        raise
    except Exception as error:
        code = _OF_RUST.search(str(error))
        if code and int(code[1]) in _FULL:
            said = OSError(int(code[1]), os.strerror(int(code[1])))
            raise WeftError(f"{path} can't be written: {reason(said)}") from error
        raise


@contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block ends well.

    On an error nothing is left behind. An existing non-empty `path` is an error unless
    `replace`, in which case it is swapped out only once the new one is complete.
    """
    path = Path(path)
    with _said_of(path):
        check_folder(path, new=not replace)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with _said_of(path, temporary):
            yield temporary
            temporary.chmod(0o755)
            if path.exists():
                old = temporary.with_name(temporary.name + ".old")
                path.rename(old)
                temporary.rename(path)
                shutil.rmtree(old)
            else:
                temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling file's path; rename it over `path` when the block ends well."""
    path = Path(path)
    with _said_of(path):
        check_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _said_of(path, temporary):
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a `WeftError` that names it."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise WeftError(f"{path} does not exist") from None
    except OSError as error:
        raise WeftError(f"{path} can't be read: {reason(error)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeftError(f"{path} is not valid JSON: {error}") from None

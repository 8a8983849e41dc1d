"""Errors of use: one sentence on what weft can't go on from. And notices: one sentence on what it
went on from.

    WeftError                  what fits none of these
    ├── NotFoundError          a file, folder, domain, row or name that is not there        404
    ├── SettingError           an option, recipe or field with a value that can't be         422
    ├── DataError              a file whose content can't be read or means nothing          422
    ├── MismatchError          things, each fine by itself, that don't fit each other       409
    ├── BusyError              another process holds it                                     409
    └── WriteError             it can't be written: rights, space, something in its place   507

The numbers are the HTTP status that a server answers with (`status`); the command line ends with
exit code 2 for all of them.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class WeftError(Exception):
    """Bad input or use. The message is one clear sentence that names the file, field or tensor.

    The command line prints it without a traceback and exits with code 2.
    """

    status: ClassVar[int] = 400


class NotFoundError(WeftError):
    """A file, folder, domain, row or name that is not there."""

    status = 404


class SettingError(WeftError):
    """An option, a recipe or a field of one with a value that can't be: unknown, out of its range, or
    against another."""

    status = 422


class DataError(WeftError):
    """A file or value whose content can't be read, or does not mean anything: broken JSON, a row
    without a time, a tensor that is not finite."""

    status = 422


class MismatchError(WeftError):
    """Things that are fine each by itself and don't fit each other: an adapter and another backbone,
    results of two protocols, parts of unlike shapes."""

    status = 409


class BusyError(WeftError):
    """Another process holds what is needed; later it may be free."""

    status = 409


class WriteError(WeftError):
    """It can't be written: no rights, no space, or something else stands in its place."""

    status = 507


@contextmanager
def located(place: object) -> Iterator[None]:
    """A `WeftError` that is raised within keeps its class and names `place` first: a file, a field.

    >>> with located("recipe.yaml"):
    ...     raise SettingError("rank must be at least 1")
    Traceback (most recent call last):
    weft.errors.SettingError: recipe.yaml: rank must be at least 1
    """
    try:
        yield
    except WeftError as error:
        raise type(error)(f"{place}: {error}") from None


class WeftNotice(UserWarning):
    """What a person should know of a result. The command line prints it to stderr and goes on."""


def notice(text: str) -> None:
    """Say one sentence to whoever called; see `WeftNotice`."""
    warnings.warn(text, WeftNotice, stacklevel=3)

"""Errors of use: what a person did that weft can't go on from, said in one sentence; and notices,
of what weft went on from."""

import warnings


class WeftError(Exception):
    """Bad input or use. The message is one clear sentence that names the file, field or tensor.

    The command line prints it without a traceback and exits with code 2.
    """


class WeftNotice(UserWarning):
    """What a person should know of a result. The command line prints it to stderr and goes on."""


def notice(text: str) -> None:
    """Say one sentence to whoever called; see `WeftNotice`."""
    warnings.warn(text, WeftNotice, stacklevel=3)

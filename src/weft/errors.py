"""Errors of use: what a person did that weft can't go on from, said in one sentence."""


class WeftError(Exception):
    """Bad input or use. The message is one clear sentence that names the file, field or tensor.

    The command line prints it without a traceback and exits with code 2.
    """

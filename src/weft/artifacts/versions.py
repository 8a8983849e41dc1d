"""Which versions of weft, Python and the libraries that compute a file was written with."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata

LIBRARIES = ("weft", "torch", "transformers", "tokenizers", "polars", "numpy")


def library_versions() -> dict[str, str]:
    """Name -> version, of Python and of those that are installed."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions

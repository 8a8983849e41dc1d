"""Why the operating system refused, in words."""

from __future__ import annotations

import errno

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
    errno.ENOTEMPTY: "it exists already",
    errno.ENOENT: "it does not exist",
    errno.ENAMETOOLONG: "the name is too long",
}


def reason(error: OSError) -> str:
    """Why the system refused, in a few words."""
    text = error.strerror or str(error) or type(error).__name__
    return _REASONS.get(error.errno or 0, text)

"""What a merge may take of the machine, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MergeLimits:
    """Threads (all that torch has unless stated) and, for checkpoints, bytes of memory beyond the
    bare process. The result has the same bits whatever they are."""

    threads: int | None = None
    memory: int | None = None


NO_LIMITS = MergeLimits()


@dataclass(frozen=True)
class MergeProgress:
    """How far a merge is, in bytes read; `total_bytes` counts every pass over the parts."""

    done_bytes: int
    total_bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        return self.done_bytes / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None as long as nothing has been read."""
        speed = self.bytes_per_second
        return (self.total_bytes - self.done_bytes) / speed if speed else None


ReportProgress = Callable[[MergeProgress], None]

"""Pseudo-users, or probes: what the merged model is asked, where no user may be looked at.

MergeRec's are single items, D̂_k = {[i] : i in I_k}. Fewer of them can be taken (at random, those
nearest to centroids, the popular ones), and beyond the paper sequences can be walked from item to
item through the teacher's own nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from weft.artifacts.hashing import hash_arrays
from weft.data.domain import IntArray
from weft.errors import SettingError
from weft.settings import StrictModel
from weft.training.batches import seed_of

Choice = Literal["random", "centroid", "popular"]
FILE = "probes.npz"


class ProbeSettings(StrictModel):
    """Which pseudo-users a domain gives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_domain: int | None = Field(
        default=None, ge=1, description="at most this many; all items unless given"
    )
    choose: Choice = Field(
        default="random",
        description="of fewer: at random, nearest to the centroids of k-means over the teacher's "
        "vectors, or by popularity (which a catalogue alone does not have)",
    )
    length: int = Field(
        default=1,
        ge=1,
        description="items in a sequence; beyond 1 each next one is a neighbour of the last",
    )
    neighbours: int = Field(default=10, ge=1, description="that a walk draws its next item from")

    @model_validator(mode="after")
    def _choice_of_fewer(self) -> ProbeSettings:
        if self.choose != "random" and self.per_domain is None:
            raise ValueError(f"choose: {self.choose} needs per_domain")
        return self


@dataclass(frozen=True)
class Probes:
    """Pseudo-users of one domain: rows of its catalogue, oldest first."""

    histories: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.histories)

    @property
    def hash(self) -> str:
        """Equal for equal probes only."""
        lengths = np.array([len(one) for one in self.histories], dtype=np.int64)
        items = np.concatenate([*self.histories, np.empty(0, np.int64)]).astype(np.int64)
        return hash_arrays({"items": items, "lengths": lengths})


def sequences(histories: Sequence[IntArray], targets: IntArray) -> Probes:
    """Real users' sequences in place of pseudo-users: history and target. A control, which needs
    what MergeRec does without."""
    pairs = zip(histories, targets.tolist(), strict=True)
    return Probes(tuple(np.append(history, target).astype(np.int64) for history, target in pairs))


def save_probes(probes: Probes, folder: Path) -> None:
    """Write probes.npz into an existing folder."""
    ends = np.cumsum([len(one) for one in probes.histories])
    np.savez(folder / FILE, items=np.concatenate(probes.histories), ends=ends)


def load_probes(folder: Path) -> Probes:
    """What `save_probes` wrote."""
    with np.load(folder / FILE) as stored:
        return Probes(tuple(np.split(stored["items"], stored["ends"][:-1])))


def make_probes(
    vectors: NDArray[np.float32],
    settings: ProbeSettings,
    seed: int,
    *,
    popularity: IntArray | None = None,
) -> Probes:
    """Probes of one domain; `vectors` [m, d] are its teacher's unit vectors of the items,
    `popularity` [m] their counts.

    Raises `SettingError` for `choose: popular` without counts.

    >>> vectors = np.eye(3, dtype=np.float32)
    >>> [one.tolist() for one in make_probes(vectors, ProbeSettings(), seed=0).histories]
    [[0], [1], [2]]
    """
    count = len(vectors)
    starts = np.arange(count)
    if settings.per_domain is not None and settings.per_domain < count:
        starts = _chosen(vectors, settings, seed, popularity)
    if settings.length == 1:
        return Probes(tuple(starts[:, None]))
    return Probes(tuple(_walks(vectors, starts, settings, seed)))


def _chosen(
    vectors: NDArray[np.float32], settings: ProbeSettings, seed: int, popularity: IntArray | None
) -> NDArray[np.int64]:
    count = settings.per_domain or 0
    random = np.random.Generator(np.random.PCG64(seed_of(seed, "probes")))
    if settings.choose == "random":
        return np.sort(random.permutation(len(vectors))[:count])
    if settings.choose == "popular":
        if popularity is None:
            raise SettingError("probes: choose: popular needs each item's popularity")
        shuffled = random.permutation(len(vectors))  # ties at random
        order = shuffled[np.argsort(-np.asarray(popularity)[shuffled], kind="stable")]
        return np.sort(order[:count])
    from scipy.cluster.vq import kmeans2

    centres, _ = kmeans2(vectors, count, minit="++", missing="warn", rng=random)
    nearest: NDArray[np.int64] = np.argmax(  # by distance, not by direction
        vectors @ centres.T - 0.5 * np.square(centres).sum(1), axis=0
    )
    return np.unique(nearest)


def _walks(
    vectors: NDArray[np.float32], starts: NDArray[np.int64], settings: ProbeSettings, seed: int
) -> Sequence[NDArray[np.int64]]:
    """From each start to one of the nearest items that the walk has not seen, again and again."""
    random = np.random.Generator(np.random.PCG64(seed_of(seed, "walks")))
    walks = starts[:, None]
    most = min(settings.length, len(vectors))
    while walks.shape[1] < most:
        walks = np.concatenate([walks, _next(vectors, walks, settings, random)[:, None]], axis=1)
    return list(walks)


def _next(
    vectors: NDArray[np.float32],
    walks: NDArray[np.int64],
    settings: ProbeSettings,
    random: np.random.Generator,
    block: int = 512,
) -> NDArray[np.int64]:
    width = min(settings.neighbours, len(vectors) - walks.shape[1])
    ranks = random.integers(0, width, size=len(walks))
    drawn_items = np.empty(len(walks), dtype=np.int64)
    for start in range(0, len(walks), block):  # never the whole matrix of the catalogue
        rows = walks[start : start + block]
        scores = vectors[rows[:, -1]] @ vectors.T
        np.put_along_axis(scores, rows, -np.inf, axis=1)
        near = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1)
        drawn_items[start : start + block] = near[
            np.arange(len(rows)), ranks[start : start + block]
        ]
    return drawn_items

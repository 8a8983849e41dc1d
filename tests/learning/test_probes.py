"""Pseudo-users of a catalogue: all items, fewer of them, walks."""

from __future__ import annotations

import numpy as np
import pytest

from weft.errors import SettingError
from weft.learning.probes import ProbeSettings, make_probes


def test_probes_of_a_catalogue() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    every = make_probes(vectors, ProbeSettings(), 0)
    assert [one.tolist() for one in every.histories] == [[row] for row in range(40)]
    counts = np.arange(40)[::-1].copy()
    popular = make_probes(
        vectors, ProbeSettings(per_domain=3, choose="popular"), 0, popularity=counts
    )
    assert [one.tolist() for one in popular.histories] == [[0], [1], [2]]
    central = make_probes(vectors, ProbeSettings(per_domain=5, choose="centroid"), 0)
    assert 1 <= len(central) <= 5
    walks = make_probes(vectors, ProbeSettings(length=4, neighbours=1), 0)
    for walk in walks.histories:
        assert len(set(walk.tolist())) == 4
        scores = vectors[walk[0]] @ vectors.T
        scores[walk[0]] = -np.inf
        assert walk[1] == scores.argmax()  # of one neighbour there is no choice
    with pytest.raises(SettingError, match="needs each item's popularity"):
        make_probes(vectors, ProbeSettings(per_domain=3, choose="popular"), 0)

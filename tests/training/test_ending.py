"""Whether a training learned, collapsed, or was too short to tell: by its last steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import SETTINGS, small_run

from weft.training.ending import judge, last_steps

GUESS = math.log(64)


def ended(curve: list[float]) -> str:
    """The outcome of a whole run of these losses, of batches of 64."""
    last = curve[-last_steps(len(curve)) :]
    return judge(last, [GUESS] * len(last)).outcome


def noisy(mean: float, spread: float, steps: int, seed: int = 0) -> list[float]:
    random = np.random.default_rng(seed)
    return [mean + spread * float(x) for x in random.standard_normal(steps)]


def test_a_short_branch_whose_loss_falls_is_not_called_collapsed() -> None:
    """The mean over all seven steps is that of guessing; the branch learns."""
    falling = [4.9, 4.7, 4.5, 4.2, 3.9, 3.6, 3.3]
    assert np.mean(falling) > 0.99 * GUESS
    assert ended(falling) == "too short to judge"
    assert ended([4.4, 4.1, 3.7, 3.5, 3.3, 3.2, 3.1]) == "learned"


@pytest.mark.parametrize(
    ("curve", "outcome"),
    [
        ([3.0, 2.8], "too short to judge"),
        ([GUESS] * 7, "collapsed"),
        (noisy(GUESS, 0.01, 7), "collapsed"),
        (noisy(GUESS + 0.3, 0.05, 12), "collapsed"),  # worse than guessing
        (noisy(GUESS, 0.3, 7), "too short to judge"),
        (noisy(GUESS, 0.3, 600), "collapsed"),
        (noisy(GUESS - 0.4, 0.3, 600), "learned"),
        (noisy(GUESS, 0.02, 400), "collapsed"),  # from the start
        ([*np.linspace(4.2, 2.5, 300), *noisy(GUESS, 0.02, 100)], "collapsed"),  # late
        ([*noisy(GUESS, 0.02, 300), *np.linspace(4.1, 2.5, 100)], "learned"),  # it recovered
        ([*np.linspace(5.5, 4.3, 100)], "too short to judge"),  # above guessing, and falling
        ([*np.linspace(4.2, 2.0, 30)], "learned"),
    ],
)
def test_curves_are_judged_by_their_ends(curve: list[float], outcome: str) -> None:
    assert ended(list(map(float, curve))) == outcome


def test_flat_curves_at_guessing_are_seldom_taken_for_learning() -> None:
    """Of 200 that don't learn none is called learned by more than its error rate."""
    found = [ended(noisy(GUESS, 0.1, 300, seed)) for seed in range(200)]
    assert found.count("learned") <= 0.05 * 200
    assert found.count("collapsed") >= 0.85 * 200


@given(st.lists(st.floats(0.0, 2.0), min_size=5, max_size=60))
def test_losses_far_below_guessing_are_never_called_collapsed(losses: list[float]) -> None:
    assert judge(losses, [4.2] * len(losses)).outcome != "collapsed"


def test_smaller_batches_at_an_epoch_s_end_guess_among_fewer() -> None:
    losses = [math.log(64), math.log(64), math.log(4), math.log(64), math.log(4)]
    assert judge(losses, losses).outcome == "collapsed"
    assert judge(losses, [GUESS] * 5).outcome != "collapsed"


def test_a_run_keeps_the_losses_of_the_last_steps_before_the_weights_it_keeps(
    tiny_bert: Path, tmp_path: Path
) -> None:
    every = SETTINGS.model_copy(update={"keep": "last", "log_every": 1, "validate_every": None})
    _, whole = small_run(tiny_bert, every)
    losses = [loss for _, loss, _ in whole.curve if loss is not None]
    assert whole.kept_step == 12 and len(whole.ending) == 5
    np.testing.assert_allclose([loss for loss, _ in whole.ending], losses[-5:])
    assert [size for _, size in whole.ending] == pytest.approx([math.log(16)] * 5)
    best = every.model_copy(update={"keep": "best", "validate_every": 4, "learning_rate": 30.0})
    _, kept = small_run(tiny_bert, best)
    losses = [loss for _, loss, _ in kept.curve if loss is not None]
    assert kept.kept_step < 12
    wanted = losses[max(0, kept.kept_step - 5) : kept.kept_step]
    np.testing.assert_allclose([loss for loss, _ in kept.ending], wanted)

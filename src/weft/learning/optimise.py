"""Learning merging weights: Adam on K × G coefficients and on nothing else.

Whatever is learned ends as plain numbers that the static engine replays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from weft.artifacts.hashing import hash_json
from weft.errors import WeftError
from weft.training.checkpoint import Progress, Saver, load_checkpoint, save_checkpoint

Loss = Callable[[Tensor, int], Tensor]
"""(coefficients w [K, G], step from 0) -> scalar, with gradients to w."""

Measure = Callable[[Tensor], float]
"""Coefficients w [K, G] -> the objective on held-out inputs, without gradients."""

Report = Callable[[int, int, float], None]
"""Called after each step with the steps done, the steps in all, and the work done, in steps."""

CHECKPOINT_EVERY, CHECKPOINT_SECONDS = 25, 60.0  # steps; seconds, where steps are slow
MOST_RISE = 0.1  # of the held-out objective over its start, as a share: beyond, it diverges


@dataclass(frozen=True)
class Descent:
    """How far and how fast Adam goes.

    With `shares`, the coefficients are a softmax over the K parts of the numbers that are learned,
    else those numbers themselves.
    """

    steps: int
    learning_rate: float
    shares: bool = False
    held_out_every: int = 50


@dataclass(frozen=True)
class LearningRun:
    """What decides no outcome of a learning: where its state is stored, and who hears of steps.

    With `checkpoints`, a folder, a killed call goes on where it was.
    """

    checkpoints: Path | None = None
    report: Report | None = None


@dataclass(frozen=True)
class LearnedCoefficients:
    """Coefficients [K][G], and how their learning went.

    `curve` has (step, loss, held-out objective or None); `kept_step` is the step that the
    coefficients are of; `stopped` tells in words why learning ended early, if it did.
    """

    coefficients: list[list[float]]
    curve: list[tuple[int, float | None, float | None]]
    kept_step: int
    stopped: str = ""

    @property
    def held_out(self) -> list[float]:
        """The held-out objective, each time that it was measured."""
        return [value for _, _, value in self.curve if value is not None]


@dataclass
class _Watch:
    """The held-out objective over the steps, and the best coefficients so far."""

    progress: Progress
    best: dict[str, Tensor] = field(default_factory=dict)

    def note(self, numbers: nn.Parameter, value: float) -> str:
        """Add a held-out value (lower is better); the reason to stop in words, or nothing."""
        progress, step = self.progress, self.progress.step
        if progress.curve and progress.curve[-1][0] == step and progress.curve[-1][2] is not None:
            return ""  # resumed here: this step was measured before
        if not math.isfinite(value):
            return f"the held-out objective was {value} at step {step}"
        starts = [held for _, _, held in progress.curve if held is not None]
        progress.curve.append((step, None, value))
        if progress.best is None or value < progress.best:
            progress.best, progress.best_step = value, step
            self.best["coefficients"] = numbers.detach().clone()
        if starts and value > starts[0] + MOST_RISE * abs(starts[0]):
            return f"the held-out objective rose from {starts[0]:.4g} to {value:.4g} at step {step}"
        return ""


def minimise(
    initial: Tensor,
    loss: Loss,
    descent: Descent,
    held_out: Measure | None = None,
    *,
    key: str = "",
    run: LearningRun | None = None,
) -> LearnedCoefficients:
    """Minimise `loss` over w [K, G] from `initial`, by Adam.

    `loss` must depend on nothing but w and the step. `held_out` measures w at the start, every
    `held_out_every` steps and at the end. Should it rise by more than a tenth of its size, or
    anything cease to be a number, learning stops and the best w so far is the outcome. A killed
    call goes on from the checkpoint that has its `key`.

    Raises `WeftError` where the very first loss is not finite: there is nothing to go on from.

    >>> import torch
    >>> learned = minimise(
    ...     torch.zeros(2, 1), lambda w, step: (w - 1).square().sum(), Descent(50, 0.1)
    ... )
    >>> [[round(one, 1) for one in row] for row in learned.coefficients], learned.kept_step
    ([[1.0], [1.0]], 50)
    """
    run = run or LearningRun()
    numbers = nn.Parameter(initial.detach().clone().float())
    named = [("coefficients", numbers)]
    optimizer = torch.optim.Adam([numbers], lr=descent.learning_rate)
    watch = _Watch(Progress())
    if run.checkpoints is not None:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        settings = [descent.steps, descent.learning_rate, descent.shares, descent.held_out_every]
        key = hash_json([key, *settings, initial.tolist()])
        if (stored := load_checkpoint(run.checkpoints, key, named, optimizer)) is not None:
            watch = _Watch(*stored)

    def coefficients() -> Tensor:
        return torch.softmax(numbers, dim=0) if descent.shares else numbers

    progress, steps = watch.progress, descent.steps
    stopped, saver = "", Saver(CHECKPOINT_EVERY, CHECKPOINT_SECONDS)
    while not stopped:
        step = progress.step
        if held_out is not None and (step % descent.held_out_every == 0 or step == steps):
            stopped = watch.note(numbers, held_out(coefficients().detach()))
        if stopped or step == steps:
            break
        value = loss(coefficients(), step)
        optimizer.zero_grad(set_to_none=True)
        if torch.isfinite(value):
            value.backward()  # type: ignore[no-untyped-call]
        if numbers.grad is None or not torch.isfinite(numbers.grad).all():
            if not step:
                raise WeftError(f"the objective is {float(value.detach())} at the first step")
            stopped = f"the objective or its gradient was no number any more at step {step}"
            break
        optimizer.step()
        progress.step += 1
        progress.curve.append((progress.step, float(value.detach()), None))
        if run.checkpoints is not None and saver.due(progress.step):
            save_checkpoint(run.checkpoints, key, progress, named, optimizer, watch.best)
            saver.saved()
        if run.report is not None:
            run.report(progress.step, steps, float(progress.step))
    final_step = progress.step
    if stopped and "coefficients" in watch.best:
        numbers.data.copy_(watch.best["coefficients"])
        final_step = progress.best_step
        stopped += f"; the best coefficients, of step {final_step}, are kept"
    return LearnedCoefficients(
        coefficients().detach().tolist(), list(progress.curve), final_step, stopped
    )

"""Learning merging coefficients: Adam on K × G numbers and on nothing else.

Whatever is learned ends as plain numbers that the static engine replays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from weft.artifacts.hashing import hash_json
from weft.errors import WeftError
from weft.training.checkpoint import Progress, Saver, load_checkpoint, save_checkpoint

Loss = Callable[[Tensor, int], Tensor]
"""(coefficients w [K, G], step from 0) -> scalar, with gradients to w."""

CHECKPOINT_EVERY, CHECKPOINT_SECONDS = 25, 60.0  # steps; seconds, where steps are slow
MOST_RISE = 0.1  # of the held-out objective over its start, as a share: beyond, it diverges


@dataclass(frozen=True)
class Learned:
    """What came out: coefficients [K][G], and how it went.

    `curve` has (step, loss, held-out objective or None); `kept_step` is the step that the
    coefficients are of; `stopped` says in words why learning ended early, if it did.
    """

    coefficients: list[list[float]]
    curve: list[tuple[int, float | None, float | None]]
    kept_step: int
    stopped: str = ""


def learn(
    initial: Tensor,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    shares: bool = False,
    held_out: Callable[[Tensor], float] | None = None,
    held_out_every: int = 50,
    checkpoints: Path | None = None,
    key: str = "",
    report: Callable[[int, int, float], None] | None = None,
) -> Learned:
    """Minimise `loss` over w [K, G] from `initial`, by Adam.

    With `shares`, w is a softmax over the K parts of numbers that start at `initial`, else it is
    free. `loss` must depend on nothing but w and the step. `held_out` measures w without
    gradients at the start, every `held_out_every` steps and at the end; should it rise by more
    than a tenth of its size, or anything cease to be a number, learning stops and the best w that it
    has seen is what comes out. With `checkpoints`, a folder, a killed call of the same `key` goes
    on where it was.

    Raises `WeftError` where the very first loss is not finite: there is nothing to keep.
    """
    numbers = nn.Parameter(initial.detach().clone().float())
    named = [("coefficients", numbers)]
    optimizer = torch.optim.Adam([numbers], lr=learning_rate)
    progress, best = Progress(), dict[str, Tensor]()
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        key = hash_json([key, steps, learning_rate, shares, held_out_every, initial.tolist()])
        found = load_checkpoint(checkpoints, key, named, optimizer)
        progress, best = found if found else (progress, best)

    def coefficients() -> Tensor:
        return torch.softmax(numbers, dim=0) if shares else numbers

    stopped, saver = "", Saver(CHECKPOINT_EVERY, CHECKPOINT_SECONDS)
    while not stopped:
        step = progress.step
        if held_out is not None and (step % held_out_every == 0 or step == steps):
            stopped = _look(progress, best, numbers, held_out(coefficients().detach()))
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
        if checkpoints is not None and saver.due(progress.step):
            save_checkpoint(checkpoints, key, progress, named, optimizer, best)
            saver.saved()
        if report is not None:
            report(progress.step, steps, float(progress.step))
    kept = progress.step
    if stopped and "coefficients" in best:
        numbers.data.copy_(best["coefficients"])
        kept = progress.best_step
        stopped += f"; the best coefficients, of step {kept}, are kept"
    return Learned(coefficients().detach().tolist(), list(progress.curve), kept, stopped)


def _look(progress: Progress, best: dict[str, Tensor], numbers: nn.Parameter, value: float) -> str:
    """Note a held-out value (lower is better); what makes learning stop, in words, or nothing."""
    step = progress.step
    if progress.curve and progress.curve[-1][0] == step and progress.curve[-1][2] is not None:
        return ""  # resumed here: it was looked at
    if not math.isfinite(value):
        return f"the held-out objective was {value} at step {step}"
    starts = [held for _, _, held in progress.curve if held is not None]
    progress.curve.append((step, None, value))
    if progress.best is None or value < progress.best:
        progress.best, progress.best_step = value, step
        best["coefficients"] = numbers.detach().clone()
    if starts and value > starts[0] + MOST_RISE * abs(starts[0]):
        return f"the held-out objective rose from {starts[0]:.4g} to {value:.4g} at step {step}"
    return ""

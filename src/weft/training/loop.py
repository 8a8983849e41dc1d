"""The one training loop.

Every step's randomness (batch, dropout) is a function of the seed and the step number, so that a
run which is killed and started again needs no more than its last checkpoint to end with the same
bits as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.artifacts.hashing import hash_arrays, hash_json
from weft.errors import WeftError
from weft.training.batches import Batch, epoch_batches, seed_of
from weft.training.checkpoint import Named, Progress, Saver, load_checkpoint, save_checkpoint
from weft.training.ending import last_steps
from weft.training.settings import TrainSettings


class Part(Protocol):
    """Something to train on: the examples of one domain, or blocks of text."""

    def __len__(self) -> int: ...

    @property
    def hash(self) -> str:
        """Equal for equal contents only."""
        ...

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The chosen rows."""
        ...


FUSED_FROM = 5_000_000  # trained numbers from which on AdamW's fused kernel is taken

P = TypeVar("P", bound=Part)
P_in = TypeVar("P_in", bound=Part, contravariant=True)


class Trainable(Protocol[P_in]):
    """The part of a recommender that the loop needs."""

    model: nn.Module

    def loss(self, batch: P_in) -> Tensor:
        """Scalar, mean over the batch; the batch is of one part."""
        ...

    def lengths(self, examples: P_in) -> NDArray[np.int64]:
        """[n] int64: how long each example's input is, in tokens; batches are grouped by it."""
        ...


Report = Callable[[int, int, float], None]
"""Called with the step, the steps in all, and the examples done in this process."""


@dataclass(frozen=True)
class Trained:
    """What a run leaves besides the weights in the model.

    `curve` is (step, mean loss since the last point or None, validation or None); `ending` is
    (loss, mean ln of the batches' sizes) of each of the last steps before the weights that are kept.
    """

    steps: int
    curve: list[tuple[int, float | None, float | None]]
    kept_step: int
    ending: list[tuple[float, float]] = field(default_factory=list)


def rate_at(step: int, steps: int, settings: TrainSettings) -> float:
    """Learning rate of a step (0-based): linear warm-up, then linear or cosine to zero."""
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    left = (steps - step) / max(1, steps - warm)
    if settings.schedule == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * (1 - left)))
    return settings.learning_rate * left


def _plan(
    parts: Sequence[Part],
    lengths: Sequence[NDArray[np.int64]],
    settings: TrainSettings,
    seed: int,
) -> list[list[Batch]]:
    """The batches of every optimiser step of the whole run."""
    steps: list[list[Batch]] = []
    for epoch in range(settings.epochs):
        batches = epoch_batches(parts, lengths, settings.batch, seed, epoch)
        size = settings.accumulate
        steps.extend(batches[i : i + size] for i in range(0, len(batches), size))
    return steps


def _key(
    parts: Sequence[Part],
    plan: list[list[Batch]],
    settings: TrainSettings,
    seed: int,
    parameters: Named,
    extra: str,
) -> str:
    data = [part.hash for part in parts]
    shapes = [[name, list(parameter.shape)] for name, parameter in parameters]
    order = [np.concatenate([[batch.part], batch.rows]) for step in plan for batch in step]
    batches = hash_arrays({"order": np.concatenate(order)}, [len(step) for step in plan])
    how = settings.model_dump(exclude=set(settings.ASIDE))
    return hash_json([data, batches, how, seed, shapes, extra])


def train(
    recommender: Trainable[P],
    parts: Sequence[P],
    settings: TrainSettings,
    *,
    seed: int,
    checkpoints: Path | None = None,
    logs: Path | None = None,
    start: str = "",
    validate: Callable[[], float] | None = None,
    report: Report | None = None,
) -> Trained:
    """Train the parameters that require gradients on `parts` (one domain each, usually), in place.

    With `checkpoints`, a folder, state is saved after every step that ends
    `settings.checkpoint_every_seconds` or more after the last save, and every
    `settings.checkpoint_every` steps, and a run of the same data, settings, seed and `start` (a
    word for the initial weights, a hash say) goes on from there; whatever else the loss depends on
    (the recommender's settings, say) must be in `start` too. `validate` gives a number where higher is better; it is called every
    `settings.validate_every` steps and at the end. With `keep: best` the weights of its best
    value are what remains. Trackers that write files write them to `logs`.

    Raises a `WeftError` if there is nothing to train on, or the loss stops being a number.
    """
    if not sum(len(part) for part in parts):
        raise WeftError("there are no training examples")
    if (settings.patience or settings.keep == "best") and validate is None:
        raise WeftError("early stopping and keep: best need validation examples")
    _check_trackers(settings.trackers)
    accelerator = Accelerator(
        gradient_accumulation_steps=settings.accumulate,
        log_with=list(settings.trackers) or None,
        project_dir=str(logs) if logs else None,
        cpu=next(recommender.model.parameters()).device.type == "cpu",
    )
    parameters = [(n, p) for n, p in recommender.model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [parameter for _, parameter in parameters],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        # One pass over all state instead of a dozen: a quarter of the time, for millions of numbers.
        fused=sum(p.numel() for _, p in parameters) >= FUSED_FROM or None,
    )
    if settings.trackers:
        accelerator.init_trackers("weft", config={"seed": seed, "batch": settings.batch})
    if settings.gradient_checkpointing:
        if not getattr(recommender, "checkpoints_gradients", True):
            raise WeftError("this recommender is trained without gradient_checkpointing")
        # Not the reentrant kind: it gives the first block no gradient, as embeddings are frozen.
        model: Any = recommender.model
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
    plan = _plan(parts, [recommender.lengths(part) for part in parts], settings, seed)
    key = _key(parts, plan, settings, seed, parameters, start)
    run = _Run(recommender, parts, settings, seed, accelerator, parameters, optimizer, plan)
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        run.resume(checkpoints, key)
    run.go(checkpoints, key, validate, report)
    if settings.trackers:
        accelerator.end_training()
    kept = run.keep()
    ending = run.progress.ending if kept == run.progress.step else run.progress.best_ending
    return Trained(run.progress.step, run.progress.curve, kept, ending)


def _check_trackers(names: Sequence[str]) -> None:
    """A tracker that is unknown or not installed is an error; accelerate would pass over it."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    there = [str(one) for one in get_available_trackers()]
    for name in names:
        if name not in there:
            raise WeftError(
                f"trackers: '{name}' is not installed or not known to accelerate;"
                f" there are: {', '.join(there) or 'none'}"
            )


class _Run(Generic[P]):
    """The state of one call of `train`."""

    def __init__(
        self,
        recommender: Trainable[P],
        parts: Sequence[P],
        settings: TrainSettings,
        seed: int,
        accelerator: Accelerator,
        parameters: Named,
        optimizer: torch.optim.Optimizer,
        plan: list[list[Batch]],
    ) -> None:
        self.recommender, self.parts, self.settings, self.seed = recommender, parts, settings, seed
        self.accelerator, self.parameters, self.optimizer = accelerator, parameters, optimizer
        self.plan = plan
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    def resume(self, checkpoints: Path, key: str) -> None:
        found = load_checkpoint(checkpoints, key, self.parameters, self.optimizer)
        if found is not None:
            self.progress, self.best = found

    def go(
        self,
        checkpoints: Path | None,
        key: str,
        validate: Callable[[], float] | None,
        report: Report | None,
    ) -> None:
        progress, settings = self.progress, self.settings
        steps, done = len(self.plan), 0.0
        saver = Saver(settings.checkpoint_every, settings.checkpoint_every_seconds)
        while progress.step < steps and not progress.stopped:
            done += self._step(self.plan[progress.step])
            last = progress.step == steps
            if progress.step % settings.log_every == 0 or last:
                self._log()
            every = settings.validate_every
            if validate is not None and (last or (every and progress.step % every == 0)):
                self._validate(validate())
            if checkpoints is not None and saver.due(progress.step) and not last:
                save_checkpoint(
                    checkpoints, key, progress, self.parameters, self.optimizer, self.best
                )
                saver.saved()
            if report is not None:
                report(progress.step, steps, done)

    def _step(self, batches: list[Batch]) -> int:
        progress = self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(progress.step, len(self.plan), self.settings)
        torch.manual_seed(seed_of(self.seed, "step", progress.step))
        self.recommender.model.train()
        examples = sum(len(batch.rows) for batch in batches)
        before = progress.loss_sum
        for batch in batches:
            loss = self.recommender.loss(self.parts[batch.part].take(batch.rows))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise WeftError(f"the loss is {value} at step {progress.step}; lower learning_rate")
            # Weighted by size: accumulated steps mean the same as one large step of examples.
            self.accelerator.backward(
                loss * (self.settings.accumulate * len(batch.rows) / examples)
            )
            progress.loss_sum += value * len(batch.rows)
            progress.loss_count += len(batch.rows)
        nn.utils.clip_grad_norm_([p for _, p in self.parameters], self.settings.clip)
        self.optimizer.step()
        # The fused kernel does not say that it changed them, and vectors are kept by that.
        torch.autograd.graph.increment_version([p for _, p in self.parameters])
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        sizes = sum(len(batch.rows) * math.log(len(batch.rows)) for batch in batches)
        progress.ending.append(((progress.loss_sum - before) / examples, sizes / examples))
        del progress.ending[: -last_steps(len(self.plan))]
        return examples

    def _log(self) -> None:
        progress = self.progress
        mean = progress.loss_sum / max(1, progress.loss_count)
        progress.loss_sum, progress.loss_count = 0.0, 0
        progress.curve.append((progress.step, mean, None))
        if self.settings.trackers:
            self.accelerator.log({"loss": mean}, step=progress.step)

    def _validate(self, value: float) -> None:
        progress = self.progress
        if not math.isfinite(value):
            raise WeftError(f"the validation gives {value} at step {progress.step}")
        progress.curve.append((progress.step, None, value))
        if self.settings.trackers:
            self.accelerator.log({"validation": value}, step=progress.step)
        if progress.best is None or value > progress.best:
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
            progress.best_ending = list(progress.ending)
            if self.settings.keep == "best":
                self.best = {n: p.detach().clone() for n, p in self.parameters}
        else:
            progress.waited += 1
            patience = self.settings.patience
            progress.stopped = patience is not None and progress.waited >= patience

    def keep(self) -> int:
        """Put the weights to be kept into the model; returns the step they come from."""
        if self.settings.keep == "last" or not self.best:
            return self.progress.step
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(self.best[name])
        return self.progress.best_step

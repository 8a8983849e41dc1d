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
from weft.errors import DataError, SettingError
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

    @property
    def model(self) -> nn.Module | None:
        """What is trained; None where nothing is."""
        ...

    @property
    def checkpoints_gradients(self) -> bool:
        """Whether activations may be computed again in place of being held."""
        ...

    def loss(self, batch: P_in) -> Tensor:
        """Scalar, mean over the batch; the batch is of one part."""
        ...

    def lengths(self, examples: P_in) -> NDArray[np.int64]:
        """[n] int64: how long each example's input is, in tokens; batches are grouped by it."""
        ...


@dataclass(frozen=True)
class TrainingFiles:
    """Where a run leaves what it needs to go on after a kill, and what trackers write.

    State is saved to the folder `checkpoints` after every step that ends
    `settings.checkpoint_every_seconds` or more after the last save, and every
    `settings.checkpoint_every` steps. A run of the same data, settings, seed and `start` goes on from
    there. `start` is a word for the initial weights (a hash, say) and for whatever else the loss
    depends on (the recommender's settings). Trackers that write files write them to `logs`.
    """

    checkpoints: Path | None = None
    start: str = ""
    logs: Path | None = None


Report = Callable[[int, int, float], None]
"""Called with the step, the steps in all, and the examples done in this process."""


@dataclass(frozen=True)
class Trained:
    """What a run leaves besides the weights in the model.

    `curve` is (step, mean loss since the last point or None, validation or None); `ending` is
    (loss, mean ln of the batches' sizes) of each of the last steps before the weights that remain.
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
    decisive = settings.model_dump(exclude=set(settings.ASIDE))
    return hash_json([data, batches, decisive, seed, shapes, extra])


def train(
    recommender: Trainable[P],
    parts: Sequence[P],
    settings: TrainSettings,
    *,
    seed: int,
    files: TrainingFiles | None = None,
    validate: Callable[[], float] | None = None,
    report: Report | None = None,
) -> Trained:
    """Train the parameters that require gradients on `parts` (one domain each, usually), in place.

    With `files` a run that was killed goes on where it was, and ends with the same bits. `validate`
    gives a number where higher is better; it is called every `settings.validate_every` steps and at
    the end. With `keep: best` the weights of its best value are what remains. A recommender without
    a `model` has nothing to train: `prepare` has fitted it.

    Raises a `WeftError` if there is nothing to train on, or the loss stops being a number.

    >>> import weft
    >>> class Bias(weft.Recommender):  # one number an item, whatever the history
    ...     def __init__(self, catalogue):
    ...         super().__init__(weft.RecommenderSettings(kind="bias"), catalogue)
    ...         self.model = torch.nn.Embedding.from_pretrained(
    ...             torch.zeros(len(catalogue), 1), freeze=False
    ...         )
    ...     def score(self, histories, candidates=None):
    ...         scores = self.model.weight.detach().T.repeat(len(histories), 1).numpy()
    ...         return scores if candidates is None else scores[0][candidates]
    ...     def loss(self, batch):
    ...         logits = self.model.weight.T.repeat(len(batch), 1)
    ...         return torch.nn.functional.cross_entropy(logits, torch.tensor(batch.targets).long())
    >>> split = weft.leave_one_out(weft.mall(users=30, items=30)["home"])
    >>> bias = Bias(split.train.domain.items)
    >>> trained = train(bias, [split.train], weft.TrainSettings(epochs=20, batch=16), seed=7)
    >>> trained.steps == 20 * (len(split.train) // 16)
    True
    """
    files = files or TrainingFiles()
    model = recommender.model
    if model is None:
        return Trained(0, [], 0)
    if not sum(len(part) for part in parts):
        raise DataError("there are no training examples")
    if (settings.patience or settings.keep == "best") and validate is None:
        raise SettingError("early stopping and keep: best need validation examples")
    _check_trackers(settings.trackers)
    accelerator = Accelerator(
        gradient_accumulation_steps=settings.accumulate,
        log_with=list(settings.trackers) or None,
        project_dir=str(files.logs) if files.logs else None,
        cpu=next(model.parameters()).device.type == "cpu",
    )
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
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
        _checkpoint_gradients(recommender, model)
    plan = _plan(parts, [recommender.lengths(part) for part in parts], settings, seed)
    key = _key(parts, plan, settings, seed, parameters, files.start)
    run = _Run(recommender, parts, settings, seed, accelerator, parameters, optimizer, plan)
    if files.checkpoints is not None:
        files.checkpoints.mkdir(parents=True, exist_ok=True)
        run.resume(files.checkpoints, key)
    run.go(files.checkpoints, key, validate, report)
    if settings.trackers:
        accelerator.end_training()
    step = run.take_weights()
    ending = run.progress.ending if step == run.progress.step else run.progress.best_ending
    return Trained(run.progress.step, run.progress.curve, step, ending)


def _checkpoint_gradients(recommender: Trainable[P], model: Any) -> None:
    """Let the model compute activations again in the backward pass."""
    newer = getattr(model, "activation_checkpointing_enable", None)  # transformers' two names
    enable = newer or getattr(model, "gradient_checkpointing_enable", None)
    if enable is None or not recommender.checkpoints_gradients:
        raise SettingError("this recommender is trained without gradient_checkpointing")
    # Not the reentrant kind: it gives the first block no gradient, as embeddings are frozen.
    enable({"use_reentrant": False})


def _check_trackers(names: Sequence[str]) -> None:
    """A tracker that is unknown or not installed is an error; accelerate would pass over it."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    there = [str(one) for one in get_available_trackers()]
    for name in names:
        if name not in there:
            raise SettingError(
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
        assert recommender.model is not None
        self.recommender, self.parts, self.settings, self.seed = recommender, parts, settings, seed
        self.model = recommender.model
        self.accelerator, self.parameters, self.optimizer = accelerator, parameters, optimizer
        self.plan = plan
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    def resume(self, checkpoints: Path, key: str) -> None:
        state = load_checkpoint(checkpoints, key, self.parameters, self.optimizer)
        if state is not None:
            self.progress, self.best = state

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
        self.model.train()
        examples = sum(len(batch.rows) for batch in batches)
        before = progress.loss_sum
        for batch in batches:
            loss = self.recommender.loss(self.parts[batch.part].take(batch.rows))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise SettingError(
                    f"the loss is {value} at step {progress.step}; lower learning_rate"
                )
            # Weighted by size: accumulated steps mean the same as one large step of examples.
            self.accelerator.backward(
                loss * (self.settings.accumulate * len(batch.rows) / examples)
            )
            progress.loss_sum += value * len(batch.rows)
            progress.loss_count += len(batch.rows)
        nn.utils.clip_grad_norm_([p for _, p in self.parameters], self.settings.clip)
        self.optimizer.step()
        # The fused kernel does not count its changes, and stored vectors are checked by that count.
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
            raise DataError(f"the validation gives {value} at step {progress.step}")
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

    def take_weights(self) -> int:
        """Put the last or best weights into the model; returns the step they come from."""
        if self.settings.keep == "last" or not self.best:
            return self.progress.step
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(self.best[name])
        return self.progress.best_step

"""The loop: seeds, accumulation, checkpointing, schedule, early stopping, errors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_runs import recommender, small_run
from tiny import last_of, make_shop
from torch import Tensor, nn

from weft.data.domain import Examples
from weft.errors import WeftError
from weft.training import TrainSettings, train
from weft.training.batches import epoch_batches
from weft.training.loop import rate_at

SHORT = TrainSettings(epochs=2, batch=16, learning_rate=0.01, log_every=1)


def test_same_seed_same_bits_and_other_seeds_differ(tiny_bert: Path) -> None:
    first, trained = small_run(tiny_bert, SHORT)
    torch.rand(5)
    again, repeated = small_run(tiny_bert, SHORT)
    assert trained == repeated and all(torch.equal(first[name], again[name]) for name in first)
    other, _ = small_run(tiny_bert, SHORT, seed=2)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("a"))


def test_training_lowers_the_loss(tiny_encoder: Path) -> None:
    settings = TrainSettings(epochs=15, batch=32, learning_rate=0.02, log_every=10)
    _, trained = small_run(tiny_encoder, settings)
    losses = [loss for _, loss, _ in trained.curve if loss is not None]
    assert losses[-1] < 0.8 * losses[0]


class Regression:
    """A loss that is a mean over rows, so that batches add up (in-batch negatives do not)."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(2, 1)
        self.checkpoints_gradients = False
        self.sizes: list[int] = []

    def loss(self, batch: Examples) -> Tensor:
        self.sizes.append(len(batch))
        x = torch.tensor(np.stack([batch.user, batch.end], axis=1) / 10, dtype=torch.float32)
        return ((self.model(x)[:, 0] - x.sum(1)) ** 2).mean()

    def lengths(self, examples: Examples) -> NDArray[np.int64]:
        return examples.end


def trained_weight(batch: int, accumulate: int, users: int = 64) -> tuple[Tensor, list[int]]:
    toy = Regression()
    settings = TrainSettings(batch=batch, accumulate=accumulate, clip=1e9, warmup=0)
    run = train(toy, [last_of(make_shop(users))], settings, seed=1)
    assert run.steps == 1
    return toy.model.get_parameter("weight"), toy.sizes


def test_two_batches_of_32_are_one_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a loss that is a mean of examples; with in-batch negatives it cannot be.

    AdamW's first step hardly depends on the gradient's size, so plain SGD takes its place.
    """
    monkeypatch.setattr(torch.optim, "AdamW", lambda p, lr, **others: torch.optim.SGD(p, lr=lr))
    one, whole = trained_weight(64, 1)
    two, halves = trained_weight(32, 2)
    four, more = trained_weight(32, 4)  # an incomplete group of batches is as much a mean
    assert (whole, halves, more) == ([64], [32, 32], [32, 32])
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(one, four, rtol=1e-6, atol=1e-7)


def test_gradient_checkpointing_gives_the_same_gradients_with_dropout(tiny_encoder: Path) -> None:
    examples = last_of(make_shop())
    gradients: list[dict[str, Tensor]] = []
    for checkpointing in (False, True):
        model = recommender(tiny_encoder, dropout=0.2)
        settings = SHORT.model_copy(update={"gradient_checkpointing": checkpointing, "epochs": 1})
        train(model, [examples], settings, seed=1)
        if checkpointing:
            assert model.model.is_gradient_checkpointing
        model.model.train()
        torch.manual_seed(3)
        model.loss(examples).backward()
        named = model.model.named_parameters()
        gradients.append({n: p.grad for n, p in named if p.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys() and len(plain) >= 16
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-7)


def test_learning_rates() -> None:
    settings = TrainSettings(learning_rate=0.8, warmup=0.2)
    rates = [rate_at(step, 10, settings) for step in range(10)]
    assert rates == pytest.approx([0.4, 0.8, *(0.8 * left / 8 for left in range(8, 0, -1))])
    cosine = settings.model_copy(update={"schedule": "cosine", "warmup": 0.0})
    expected = [0.4 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert [rate_at(step, 10, cosine) for step in range(10)] == pytest.approx(expected)
    assert rate_at(0, 1, TrainSettings(learning_rate=0.8, warmup=0.9)) == 0.8


def run_with(values: list[float], folder: Path, **settings: object) -> tuple[list[Tensor], object]:
    """Train with validations that give `values` one after the other; the weights at each."""
    model = recommender(folder)
    seen: list[Tensor] = []
    parameter = next(p for p in model.model.parameters() if p.requires_grad)

    def validate() -> float:
        seen.append(parameter.detach().clone())
        return values[len(seen) - 1]

    wanted = SHORT.model_copy(update={"epochs": 3, "validate_every": 2} | settings)
    trained = train(model, [last_of(make_shop())], wanted, seed=1, validate=validate)
    return [*seen, parameter.detach().clone()], trained


def test_patience_and_keep_best(tiny_bert: Path) -> None:
    values = [0.1, 0.5, 0.5, 0.4, 0.9, 0.9]
    seen, trained = run_with(values, tiny_bert, patience=2, keep="best")
    assert trained.steps == 8 and trained.kept_step == 4  # type: ignore[attr-defined]
    assert torch.equal(seen[-1], seen[1]) and not torch.equal(seen[-1], seen[3])
    seen, trained = run_with(values, tiny_bert, patience=2)
    assert trained.steps == trained.kept_step == 8  # type: ignore[attr-defined]
    assert torch.equal(seen[-1], seen[3])
    seen, trained = run_with([0.3, 0.2, 0.1, 0.0, 0.0, 0.0], tiny_bert, keep="best")
    assert trained.steps == 12 and trained.kept_step == 2  # type: ignore[attr-defined]
    points = [point for point in trained.curve if point[2] is not None]  # type: ignore[attr-defined]
    assert [point[0] for point in points] == [2, 4, 6, 8, 10, 12]


def test_what_cannot_be_trained_is_one_sentence(tiny_bert: Path) -> None:
    model = recommender(tiny_bert)
    examples = last_of(make_shop())
    with pytest.raises(WeftError, match="no training examples"):
        train(model, [examples.take(np.array([], dtype=np.int64))], SHORT, seed=1)
    with pytest.raises(WeftError, match="need validation examples"):
        train(model, [examples], SHORT.model_copy(update={"keep": "best"}), seed=1)
    with pytest.raises(WeftError, match="the validation gives nan at step 2"):
        run_with([math.nan], tiny_bert)
    with torch.no_grad():
        next(p for p in model.model.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(WeftError, match="the loss is nan at step 0; lower learning_rate"):
        train(model, [examples], SHORT, seed=1)


def test_batches_are_of_one_domain_whole_and_a_function_of_seed_and_epoch() -> None:
    parts = [last_of(make_shop(70)), last_of(make_shop(7)), last_of(make_shop(33))]
    lengths = [part.end for part in parts]
    batches = epoch_batches(parts, lengths, 16, seed=1, epoch=0)
    count = [sum(batch.part == part for batch in batches) for part in range(3)]
    assert count == [4, 1, 2]
    for part in range(3):
        rows = np.concatenate([batch.rows for batch in batches if batch.part == part])
        assert len(np.unique(rows)) == len(rows) == [64, 7, 32][part]

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [b.rows.tolist() for b in epoch_batches(parts, lengths, 16, seed, epoch)]

    assert order(1, 0) == order(1, 0) != order(1, 1) != order(2, 0)
    left = {
        row
        for epoch in range(60)
        for row in set(range(70))
        - {r for b in epoch_batches(parts, lengths, 16, 1, epoch) if b.part == 0 for r in b.rows}
    }
    assert len(left) > 60  # no example is always the one left out, or never


def test_batches_group_histories_of_like_token_counts() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, size=640)
    shop = last_of(make_shop(640))
    batches = epoch_batches([shop], [lengths], 32, seed=1, epoch=0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(640))
    waste = [1 - lengths[b.rows].mean() / lengths[b.rows].max() for b in batches]
    assert np.mean(waste) < 0.15  # a random batch wastes half


def test_an_unknown_tracker_is_named() -> None:
    settings = TrainSettings(batch=32, trackers=("no_such_tracker",))
    with pytest.raises(WeftError, match="trackers: 'no_such_tracker' is not installed"):
        train(Regression(), [last_of(make_shop(64))], settings, seed=1)

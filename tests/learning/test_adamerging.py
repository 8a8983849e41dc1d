"""AdaMerging: what is learned is replayed exactly, and the model is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lm import causal_model
from torch import Tensor, nn

from weft.adapters import Adapter, LoraSettings, attach, fold_into, from_attached
from weft.errors import WeftError
from weft.learning.adamerging import entropy_of_logits, learn_adamerging
from weft.learning.optimise import LearningRun
from weft.merging import merge_adapters
from weft.training.checkpoint import FILE

BACKBONE = {"backbone": {"name": "tiny", "fingerprint": "f" * 64}}


def adapter(seed: int, scale: float = 0.3) -> Adapter:
    model = causal_model("qwen2")
    attached = attach(model, LoraSettings(rank=2 + seed % 2, alpha=4))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in attached.values():
            linear.a.copy_(torch.randn(linear.a.shape, generator=generator) * scale)
            linear.b.copy_(torch.randn(linear.b.shape, generator=generator) * scale)
    return from_attached(attached, dict(BACKBONE))


def on(ids: Tensor) -> Callable[[nn.Module, int], Tensor]:
    """Entropy of the last token's prediction, on a few rows that the step decides."""

    def entropy(model: nn.Module, step: int) -> Tensor:
        rows = ids[[step % len(ids), (step + 1) % len(ids)]]
        return entropy_of_logits(model(input_ids=rows, use_cache=False).logits[:, -1])

    return entropy


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 400, (6, 12), generator=torch.Generator().manual_seed(1))


def test_entropy_is_that_of_the_definition() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64) * 4
    p = torch.softmax(logits, -1)
    wanted = -(p * p.log()).sum(-1).mean()
    assert float(entropy_of_logits(logits)) == pytest.approx(float(wanted), abs=1e-5)
    sure = torch.full((1, 4), float("-inf"))
    sure[0, 2] = 0.0
    assert float(entropy_of_logits(sure)) == 0.0


def test_identical_adapters_merge_to_themselves(ids: Tensor) -> None:
    one = adapter(3)
    learned = learn_adamerging(causal_model("qwen2"), [one, one, one], on(ids), steps=3)
    merged = merge_adapters([one, one, one], "linear", learned)
    for name, factors in one.factors.items():
        torch.testing.assert_close(merged.factors[name].delta(), factors.delta())


def test_entropy_falls_and_the_static_merge_replays_it(ids: Tensor, tmp_path: Path) -> None:
    model = causal_model("qwen2")
    before = copy.deepcopy(model.state_dict())
    parts = [adapter(1), adapter(2)]
    learned = learn_adamerging(model, parts, on(ids), steps=30, learning_rate=0.05)
    assert sum(learned.entropies[-6:]) < sum(learned.entropies[:6])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in model.parameters())
    assert all(sum(w) == pytest.approx(1, abs=1e-6) for w in learned.modules.values())

    seen: list[Tensor] = []

    def watch(model: nn.Module, step: int) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits
        seen.append(logits.detach())
        return entropy_of_logits(logits[:, -1])

    # a first step at the same place: learn on from nothing gives the equal-weight model's logits
    learn_adamerging(model, parts, watch, steps=1)
    even = merge_adapters(parts, "linear", [0.5, 0.5])
    folded = copy.deepcopy(model)
    fold_into(folded, even)
    with torch.no_grad():
        torch.testing.assert_close(folded(input_ids=ids).logits, seen[0], atol=1e-4, rtol=1e-4)

    merged = merge_adapters(parts, "linear", learned)
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for name, (first, second) in learned.modules.items():
            delta = first * parts[0].factors[name].delta() + second * parts[1].factors[name].delta()
            by_hand.get_parameter(f"{name}.weight").add_(delta)
        fold_into(model, merged)
        torch.testing.assert_close(
            model(input_ids=ids).logits, by_hand(input_ids=ids).logits, atol=1e-4, rtol=1e-4
        )


class StopHereError(Exception):
    pass


def test_a_stopped_learning_goes_on_to_the_same_bits(ids: Tensor, tmp_path: Path) -> None:
    parts = [adapter(1), adapter(2)]
    whole = learn_adamerging(causal_model("qwen2"), parts, on(ids), steps=60, learning_rate=0.01)

    def until(step: int, steps: int, done: float) -> None:
        if step == 40:
            raise StopHereError

    again: dict[str, Any] = {
        "steps": 60,
        "learning_rate": 0.01,
        "key": "k",
    }
    model = causal_model("qwen2")
    with pytest.raises(StopHereError):
        learn_adamerging(model, parts, on(ids), run=LearningRun(tmp_path, until), **again)
    assert (tmp_path / FILE).is_file()
    assert not any("logits" in name for name, _ in model.named_parameters())  # put back
    seen: list[int] = []
    resumed = learn_adamerging(
        model,
        parts,
        on(ids),
        run=LearningRun(tmp_path, lambda step, *_: seen.append(step)),
        **again,
    )
    assert seen[0] == 26
    assert resumed == whole


def test_adapters_that_do_not_fit_are_refused(ids: Tensor) -> None:
    model, one = causal_model("qwen2"), adapter(1)
    with pytest.raises(WeftError, match="at least two"):
        learn_adamerging(model, [one], on(ids))
    fewer = Adapter(dict(list(one.factors.items())[1:]), one.manifest)
    with pytest.raises(WeftError, match=r"differ in the module 'model\.layers"):
        learn_adamerging(model, [one, fewer], on(ids))
    whole = Adapter(one.factors, one.manifest, {"lm_head.weight": torch.zeros(2)})
    with pytest.raises(WeftError, match="adapter 2 saves modules whole"):
        learn_adamerging(model, [one, whole], on(ids))
    with pytest.raises(WeftError, match="no linear one of the model"):
        learn_adamerging(nn.Sequential(nn.Linear(2, 2)), [one, one], on(ids))
    with pytest.raises(WeftError, match="objective is nan at the first step"):
        learn_adamerging(model, [one, one], lambda model, step: torch.tensor(float("nan")))

"""Packed training equals the examples read one by one, gradients and all."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_lm import ARCHITECTURES, causal_model

from weft.adapters import LoraSettings, attach, initialise
from weft.adapters.lora import trainable
from weft.recommenders.text.lm import LanguageModel, packed_loss
from weft.recommenders.text.lm.packing import next_logits

Ids = NDArray[np.int64]


def texts() -> tuple[list[Ids], list[int]]:
    random = np.random.default_rng(1)
    rows = [random.integers(0, 400, n) for n in (12, 40, 7, 25)]
    return rows, [9, 30, 1, 24]


def one_by_one(model: Any) -> torch.Tensor:
    total, count = torch.zeros(()), 0
    for row, start in zip(*texts(), strict=True):
        logits = model(input_ids=torch.from_numpy(row)[None]).logits[0]
        wanted = torch.from_numpy(row[start:])
        total = total + torch.nn.functional.cross_entropy(
            logits[start - 1 : -1], wanted, reduction="sum"
        )
        count += len(wanted)
    return total / count


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients(architecture: str) -> None:
    model = causal_model(architecture)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    packed = packed_loss(LanguageModel(model), *texts())
    wanted = one_by_one(plain)
    assert float(packed.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    packed.backward()
    wanted.backward()
    for (name, own), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None, name
        torch.testing.assert_close(own.grad, other.grad, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_example_does_not_see_its_neighbours(architecture: str) -> None:
    language = LanguageModel(causal_model(architecture))
    rows, _ = texts()
    with torch.no_grad():
        together = next_logits(language, rows)
        alone = torch.cat([next_logits(language, [row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_gradients_of_lora_with_and_without_checkpointing() -> None:
    found: list[list[torch.Tensor]] = []
    for checkpointing in (False, True):
        model = causal_model("qwen3")
        attached = attach(model, LoraSettings(rank=2, alpha=4, dropout=0.2))
        initialise(attached, 3)
        for linear in attached.values():
            torch.nn.init.normal_(linear.b, std=0.1, generator=torch.Generator().manual_seed(1))
        model.train()
        language = LanguageModel(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        packed_loss(language, *texts()).backward()
        found.append([p.grad for _, p in trainable(attached) if p.grad is not None])
    assert len(found[0]) == 3 * 7 * 2  # q, k, v, o, gate, up, down of every layer
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        assert one.abs().max() > 0

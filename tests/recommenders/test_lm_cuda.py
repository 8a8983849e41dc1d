"""On a GPU, where there is one: the same scores, losses and gradients as on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_lm import ARCHITECTURES, causal_model

from weft.adapters import LoraSettings, attach, initialise
from weft.adapters.lora import trainable
from weft.recommenders.text.lm import LanguageModel, constrained_beam, greedy, packed_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

END = 7


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest) -> tuple[LanguageModel, LanguageModel]:
    """The same model in float64, on the CPU and on the GPU."""
    model = causal_model(request.param).double()
    return LanguageModel(model), LanguageModel(copy.deepcopy(model).to("cuda"))


def asked(count: int) -> tuple[Any, list[Any]]:
    random = np.random.default_rng(count)
    return random.integers(0, 400, 60), [random.integers(8, 11, 1 + i % 8) for i in range(count)]


@pytest.mark.parametrize("memory", [2 << 30, 1 << 20])
def test_log_likelihoods(pair: Any, memory: int) -> None:
    cpu, gpu = pair
    prompt, titles = asked(40)
    found = LanguageModel(gpu.model, memory=memory).continuations(prompt, titles, END)
    np.testing.assert_allclose(found.total, cpu.continuations(prompt, titles, END).total, rtol=1e-6)


def test_several_prompts_in_one_pass(pair: Any) -> None:
    cpu, gpu = pair
    random = np.random.default_rng(2)
    prompts = [random.integers(0, 400, n) for n in (31, 2, 50)]
    titles = [asked(n)[1] for n in (7, 40, 1)]
    found = gpu.continuations_together(prompts, titles, END)
    for prompt, own, one in zip(prompts, titles, found, strict=True):
        wanted = cpu.continuations(prompt, own, END).total
        np.testing.assert_allclose(one.total, wanted, rtol=1e-6)


def test_last_words_and_beam_and_greedy(pair: Any) -> None:
    cpu, gpu = pair
    prompt, titles = asked(12)
    for what in (
        lambda one: one.final_logits(prompt, titles, [30, 40]),
        lambda one: constrained_beam(one, prompt, titles, END, 4),
    ):
        np.testing.assert_allclose(what(gpu), what(cpu), rtol=1e-6)
    own, other = (greedy(one, [prompt, prompt[:9]], END, 12, 0) for one in pair)
    assert [one.tolist() for one in own] == [one.tolist() for one in other]


def test_packed_loss_and_gradients(pair: Any) -> None:
    random = np.random.default_rng(1)
    rows, starts = [random.integers(0, 400, n) for n in (12, 40, 7, 25)], [9, 30, 1, 24]
    found = []
    for one in pair:
        model = copy.deepcopy(one.model)
        attached = attach(model, LoraSettings(rank=2, alpha=4, dropout=0.0))
        initialise(attached, 3)
        for linear in attached.values():
            generator = torch.Generator().manual_seed(1)
            linear.b.data.copy_(torch.randn(linear.b.shape, generator=generator) * 0.1)
        model.train()
        loss = packed_loss(LanguageModel(model), rows, starts)
        loss.backward()
        grads = [p.grad.cpu() for _, p in trainable(attached) if p.grad is not None]
        found.append((float(loss.detach()), grads))
    (first, grads), (second, others) = found
    assert first == pytest.approx(second, rel=1e-6)
    for own, other in zip(grads, others, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)

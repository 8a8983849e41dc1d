"""X-LoRA, MeteoRA and the head alone: against plain adapters, and against PEFT's arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import CANDIDATES, HISTORIES, adapter_of, integrated, plain, randomise
from tiny import last_of, make_shop, save_encoder

from weft.adapters import Adapter, Factors, fold
from weft.backbones import load_backbone
from weft.recommenders.cross_encoder import add_head

KINDS: list[Any] = ["x_lora", {"kind": "x_lora", "form": "one_pass"}, "meteora"]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(request.param, tmp_path_factory.mktemp("encoders") / request.param)


def only_top(adapter: Adapter, block: int = 1) -> Adapter:
    """The adapter's delta in one block alone."""
    factors = {n: f for n, f in adapter.factors.items() if f".layer.{block}." in n}
    return Adapter(factors, adapter.manifest, adapter.saved)


def share(made: Any, source: int) -> None:
    """Have the gates choose one source for every token."""
    integrator = made.integrator
    gates = [integrator.head] if hasattr(integrator, "head") else list(integrator.gates)
    with torch.no_grad():
        for gate in gates:
            gate.weight.zero_()
            bias = torch.full((gate.bias.numel() // 2, 2), -40.0)
            bias[:, source] = 40.0
            gate.bias.copy_(bias.flatten())


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("source", [0, 1])
def test_a_gate_that_chooses_one_source_is_that_source(
    encoder: Path, how: Any, source: int
) -> None:
    both = [adapter_of(encoder, seed, rank=seed) for seed in (1, 2)]
    if isinstance(how, dict):  # below the adapters the backbone is plain
        both = [only_top(one) for one in both]
    made = integrated(encoder, both, how, best=source)
    share(made, source)
    expected = plain(encoder, adapter=both[source]).score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(made.score(HISTORIES, CANDIDATES), expected, atol=2e-6)


@pytest.mark.parametrize("how", KINDS)
def test_equal_weights_are_the_mean_of_the_deltas(encoder: Path, how: Any) -> None:
    both = [adapter_of(encoder, seed, rank=2) for seed in (1, 2)]
    if isinstance(how, dict):
        both = [only_top(one) for one in both]
    made = integrated(encoder, both, how)
    with torch.no_grad():
        for parameter in made.integrator.parameters():
            parameter.zero_()
    mean = {
        name: Factors(
            torch.cat([one.factors[name].a for one in both]),
            torch.cat([one.factors[name].b for one in both], dim=1),
            both[0].factors[name].scaling / 2,
        )
        for name in both[0].factors
    }
    expected = plain(encoder, adapter=Adapter(mean, both[0].manifest, both[0].saved))
    np.testing.assert_allclose(
        made.score(HISTORIES, CANDIDATES), expected.score(HISTORIES, CANDIDATES), atol=2e-6
    )


def test_x_lora_agrees_with_a_naive_version(encoder: Path) -> None:
    """Two float64 passes; in the second, every adapter's part of every linear by itself."""
    both = [adapter_of(encoder, seed, rank=seed) for seed in (1, 2)]
    made = integrated(encoder, both, "x_lora")
    randomise(made, size=0.5)
    rows = made.training_rows(last_of(make_shop()).take(np.arange(2)))
    ids, mask = made.inputs(rows, np.arange(len(rows)))
    made.model.eval()
    with torch.no_grad():
        states = made.states(ids, mask)
    model: Any = load_backbone(str(encoder), precision="float32").model.double()
    with torch.no_grad():
        plain_last = model(input_ids=ids, attention_mask=mask).last_hidden_state
        head = made.integrator.head
        logits = plain_last @ head.weight.double().T + head.bias.double()  # type: ignore[union-attr, operator]
        scales = torch.softmax(logits.view(*logits.shape[:2], 2, 2), dim=-1)  # block, source
        for name in both[0].factors:
            block = int(name.split(".layer.")[1].split(".")[0])
            linear = model.get_submodule(name)

            def hook(_: Any, args: Any, out: Any, block: int = block, name: str = name) -> Any:
                for source, one in enumerate(both):
                    f = one.factors[name]
                    part = args[0] @ f.a.double().T @ f.b.double().T * f.scaling
                    out = out + scales[:, :, block, source, None] * part
                return out

            linear.register_forward_hook(hook)
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    np.testing.assert_allclose(states.numpy(), expected.numpy(), atol=1e-5)


def test_meteora_keeps_only_the_largest_weights(encoder: Path) -> None:
    three = [adapter_of(encoder, seed) for seed in (1, 2, 3)]
    made = integrated(encoder, three, {"kind": "meteora", "top_k": 2})
    weights = made.integrator._weights(torch.randn(4, 6, 3))  # type: ignore[operator]
    assert ((weights == 0).sum(-1) == 1).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 6))


def test_the_head_alone_starts_as_its_source(encoder: Path) -> None:
    one = adapter_of(encoder, 1)
    made = integrated(encoder, [one], "head")
    expected = plain(encoder, adapter=one).score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(made.score(HISTORIES, CANDIDATES), expected, atol=2e-6)
    assert made.trainable() == {"integrator": 0, "head": 32 * 32 + 32 + 32 + 1}


def test_folding_one_adapter_is_the_stacked_stream(encoder: Path) -> None:
    one = adapter_of(encoder, 1, targets="all-linear")
    made = integrated(encoder, [one], "head")
    model: Any = load_backbone(str(encoder), precision="float32").model
    add_head(model, 0)
    fold(model, one)
    rows = made.training_rows(last_of(make_shop()).take(np.arange(2)))
    ids, mask = made.inputs(rows, np.arange(len(rows)))
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        torch.testing.assert_close(made.states(ids, mask), expected, atol=1e-4, rtol=0)

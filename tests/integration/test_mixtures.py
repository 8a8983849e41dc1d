"""X-LoRA, MeteoRA and the head alone: against plain adapters, and against PEFT's arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integrated_recommenders import (
    CANDIDATES,
    HISTORIES,
    adapter_of,
    integrated,
    integration,
    plain,
    randomise,
)
from tiny import last_of, make_shop, save_encoder

from weft.adapters import Adapter, Factors, fold_into
from weft.backbones import load_backbone
from weft.errors import WeftError
from weft.recommenders.text.cross_encoder import add_head
from weft.training import TrainSettings, train

KINDS: list[Any] = ["x_lora", {"kind": "x_lora", "form": "one_pass"}, "meteora"]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(request.param, tmp_path_factory.mktemp("encoders") / request.param)


def only_top(adapter: Adapter, block: int = 1) -> Adapter:
    """The adapter's delta in one block alone."""
    factors = {n: f for n, f in adapter.factors.items() if f".layer.{block}." in n}
    return Adapter(factors, adapter.manifest, adapter.saved)


def share(recommender: Any, source: int) -> None:
    """Have the gates choose one source for every token."""
    integrator = integration(recommender).integrator
    gates = [integrator.head] if hasattr(integrator, "head") else list(integrator.gates)
    with torch.no_grad():
        for gate in gates:
            gate.weight.zero_()
            bias = torch.full((gate.bias.numel() // 2, 2), -40.0)
            bias[:, source] = 40.0
            gate.bias.copy_(bias.flatten())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", [0, 1])
def test_a_gate_that_chooses_one_source_is_that_source(
    encoder: Path, kind: Any, source: int
) -> None:
    both = [adapter_of(encoder, seed, rank=seed) for seed in (1, 2)]
    if isinstance(kind, dict):  # below the adapters the backbone is plain
        both = [only_top(one) for one in both]
    recommender = integrated(encoder, both, kind, best=source)
    share(recommender, source)
    expected = plain(encoder, adapter=both[source]).score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(recommender.score(HISTORIES, CANDIDATES), expected, atol=2e-6)


def mean_of(both: list[Adapter]) -> dict[str, Factors]:
    """The mean of two adapters' deltas, exactly: as factors of both ranks."""
    return {
        name: Factors(
            torch.cat([one.factors[name].a for one in both]),
            torch.cat([one.factors[name].b for one in both], dim=1),
            both[0].factors[name].scaling / 2,
        )
        for name in both[0].factors
    }


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_are_the_mean_of_the_deltas(encoder: Path, kind: Any) -> None:
    both = [adapter_of(encoder, seed, rank=2) for seed in (1, 2)]
    if isinstance(kind, dict):
        both = [only_top(one) for one in both]
    recommender = integrated(encoder, both, kind)
    with torch.no_grad():
        for parameter in integration(recommender).integrator.parameters():
            parameter.zero_()
    mean = mean_of(both)
    expected = plain(encoder, adapter=Adapter(mean, both[0].manifest, both[0].saved))
    np.testing.assert_allclose(
        recommender.score(HISTORIES, CANDIDATES), expected.score(HISTORIES, CANDIDATES), atol=2e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_a_naive_version(encoder: Path, kind: Any) -> None:
    """Two float64 passes; in the second, every adapter's part of every linear by itself."""
    both = [adapter_of(encoder, seed, rank=seed) for seed in (1, 2)]
    recommender = integrated(encoder, both, kind)
    randomise(recommender, size=0.5)
    rows = recommender.training_rows(last_of(make_shop()).take(np.arange(2)))
    ids, mask = recommender.inputs(rows, np.arange(len(rows)))
    recommender.model.eval()
    with torch.no_grad():
        states = recommender.states(ids, mask)
    model: Any = load_backbone(str(encoder), precision="float32").model.double()
    entered: list[torch.Tensor] = []
    handles = [
        block.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        for block in model.encoder.layer
    ]
    with torch.no_grad():
        last = model(input_ids=ids, attention_mask=mask).last_hidden_state
        for handle in handles:
            handle.remove()
        scales = naive_scales(integration(recommender).integrator, kind, entered, last)
        for name in both[0].factors:
            block = int(name.split(".layer.")[1].split(".")[0])
            if block not in scales:
                continue

            def hook(_: Any, args: Any, out: Any, block: int = block, name: str = name) -> Any:
                for source, one in enumerate(both):
                    f = one.factors[name]
                    part = args[0] @ f.a.double().T @ f.b.double().T * f.scaling
                    out = out + scales[block][:, :, source, None] * part
                return out

            model.get_submodule(name).register_forward_hook(hook)
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    np.testing.assert_allclose(states.numpy(), expected.numpy(), atol=1e-5, rtol=1e-5)


def naive_scales(
    integrator: Any, kind: Any, entered: list[torch.Tensor], last: torch.Tensor
) -> dict[int, torch.Tensor]:
    """Each block's weights [n, tokens, 2] out of what the plain backbone's blocks get and give."""

    def gate(linear: Any, states: torch.Tensor) -> torch.Tensor:
        return states @ linear.weight.double().T + linear.bias.double()

    if kind == "meteora":
        return {
            block: torch.softmax(gate(linear, entered[block]), dim=-1)
            for block, linear in enumerate(integrator.gates)
        }
    if isinstance(kind, dict):  # one pass: the top block alone, by what enters it
        return {1: torch.softmax(gate(integrator.head, entered[1]), dim=-1)}
    logits = gate(integrator.head, last)
    return {b: torch.softmax(logits[:, :, 2 * b : 2 * b + 2], dim=-1) for b in (0, 1)}


def test_meteora_keeps_only_the_largest_weights(encoder: Path) -> None:
    three = [adapter_of(encoder, seed) for seed in (1, 2, 3)]
    recommender = integrated(encoder, three, {"kind": "meteora", "top_k": 2})
    logits = torch.randn(4, 6, 3)
    weights = integration(recommender).integrator._weights(logits)  # type: ignore[operator]
    assert ((weights == 0).sum(-1) == 1).all()
    assert torch.equal((weights == 0).int().argmax(-1), logits.argmin(-1))
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 6))


def test_the_head_alone_starts_as_its_source(encoder: Path) -> None:
    one = adapter_of(encoder, 1)
    recommender = integrated(encoder, [one], "head")
    expected = plain(encoder, adapter=one).score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(recommender.score(HISTORIES, CANDIDATES), expected, atol=2e-6)
    assert integration(recommender).trainable() == {"integrator": 0, "head": 32 * 32 + 32 + 32 + 1}


def test_folding_one_adapter_is_the_stacked_stream(encoder: Path) -> None:
    one = adapter_of(encoder, 1, targets="all-linear")
    recommender = integrated(encoder, [one], "head")
    model: Any = load_backbone(str(encoder), precision="float32").model
    add_head(model, 0)
    fold_into(model, one)
    rows = recommender.training_rows(last_of(make_shop()).take(np.arange(2)))
    ids, mask = recommender.inputs(rows, np.arange(len(rows)))
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        torch.testing.assert_close(recommender.states(ids, mask), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["x_lora", "meteora"])
def test_deberta_projects_positions_with_equal_weights(tmp_path: Path, kind: str) -> None:
    """Gates at zero weigh tokens equally too, so it is the mean of the deltas all through."""
    deberta = save_encoder("deberta", tmp_path / "deberta")
    both = [adapter_of(deberta, seed, rank=2) for seed in (1, 2)]
    recommender = integrated(deberta, both, kind)
    with torch.no_grad():
        for parameter in integration(recommender).integrator.parameters():
            parameter.zero_()
    mean = mean_of(both)
    alone = plain(deberta, adapter=Adapter(mean, both[0].manifest, both[0].saved))
    np.testing.assert_allclose(
        recommender.score(HISTORIES, CANDIDATES), alone.score(HISTORIES, CANDIDATES), atol=2e-6
    )


def test_an_architecture_that_feeds_linears_something_else_is_refused(tmp_path: Path) -> None:
    """DeBERTa v1 projects positions by modules of their own, of which streams know nothing."""
    from tiny import save_tokenizer
    from transformers import DebertaConfig, DebertaModel

    folder = tmp_path / "deberta-v1"
    config = DebertaConfig(
        vocab_size=save_tokenizer(folder), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=48, max_position_embeddings=160,
        relative_attention=True, pos_att_type=["c2p", "p2c"], pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    DebertaModel(config).save_pretrained(folder)
    both = [adapter_of(folder, seed, targets="all-linear") for seed in (1, 2)]
    recommender = integrated(folder, both, "x_cross")
    with pytest.raises(WeftError, match="adapters of this architecture can't be integrated"):
        recommender.score(HISTORIES, CANDIDATES)


def test_integrators_refuse_gradient_checkpointing(encoder: Path) -> None:
    recommender = integrated(encoder, [adapter_of(encoder, seed) for seed in (1, 2)], "x_lora")
    training = TrainSettings(batch=2, gradient_checkpointing=True)
    with pytest.raises(WeftError, match="without gradient_checkpointing"):
        train(recommender, [last_of(make_shop())], training, seed=0)

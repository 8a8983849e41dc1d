"""X-Cross: its identities, the naive version, what is trained, what is kept between epochs."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integrated_recommenders import (
    CANDIDATES,
    HISTORIES,
    SETTINGS,
    adapter_of,
    integrated,
    integration,
    naive_states,
    plain,
    randomise,
)
from tiny import last_of, make_shop, save_encoder

from weft.adapters import Adapter, Factors, LoraSettings, attach, save_adapter
from weft.backbones.blocks import Blocks
from weft.integration import make_integrator
from weft.integration.activations import Activations
from weft.integration.x_cross import XCrossSettings, refine
from weft.recommenders.integrated import StoredActivations
from weft.recommenders.text.cross_encoder import add_head
from weft.training import TrainingFiles, TrainSettings, train

ENCODERS = ["bert", "roberta", "deberta", "modernbert"]


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(request.param, tmp_path_factory.mktemp("encoders") / request.param)


def targets(encoder: Path) -> Any:
    """ModernBERT has one linear for query, key and value."""
    return ["Wqkv", "Wo"] if encoder.name == "modernbert" else "query-value"


def adapters(encoder: Path, count: int = 2) -> list[Adapter]:
    """Of unlike ranks."""
    return [
        adapter_of(encoder, seed, rank=1 + seed, targets=targets(encoder))
        for seed in range(1, count + 1)
    ]


@pytest.mark.parametrize("source", [0, 1])
def test_without_terms_and_with_one_weight_it_is_that_source(encoder: Path, source: int) -> None:
    both = adapters(encoder)
    recommender = integrated(encoder, both, {"beta": 0, "gamma": 0, "layers": 2}, best=source)
    integration(recommender).integrator.w.data = torch.eye(2)[source]  # type: ignore[assignment]
    randomise_w_cat(recommender)
    alone = plain(encoder, adapter=both[source])
    expected = alone.score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(recommender.score(HISTORIES, CANDIDATES), expected, atol=2e-6)
    other = plain(encoder, adapter=both[1 - source]).score(HISTORIES, CANDIDATES)
    assert abs(other - expected).max() > 1e-3  # the sources do differ


def randomise_w_cat(recommender: Any) -> None:
    w = integration(recommender).integrator.w.data.clone()
    randomise(recommender)
    integration(recommender).integrator.w.data = w


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("count", [2, 3])
def test_agrees_with_the_naive_version(encoder: Path, layers: int, count: int) -> None:
    sources = adapters(encoder, count)
    recommender = integrated(encoder, sources, {"layers": layers, "beta": 0.5, "gamma": 0.4})
    randomise(recommender)
    rows = recommender.training_rows(last_of(make_shop()).take(np.arange(2)))
    ids, mask = recommender.inputs(rows, np.arange(len(rows)))
    assert (mask == 0).any()  # texts of unlike lengths
    recommender.model.eval()
    with torch.no_grad():
        states = recommender.states(ids, mask)
    expected = naive_states(
        encoder, sources, integration(recommender).tensors(), 2 - layers, (0.5, 0.4), ids, mask
    )
    np.testing.assert_allclose(states.numpy(), expected, atol=5e-5, rtol=5e-5)


def permuted(w_cat: torch.Tensor, order: list[int]) -> torch.Tensor:
    """W_cat when source m stands at the place where `order` has m."""
    n, d = len(order), w_cat.shape[1] // len(order)
    view = w_cat.view(n, 2, n - 1, n, d)  # owner, kind, other, input
    out = torch.empty_like(view)
    for new, old in enumerate(order):
        others_new = [o for o in range(n) if o != new]
        others_old = [o for o in range(n) if o != old]
        for place, other in enumerate(others_new):
            was = others_old.index(order[other])
            for place_in, source in enumerate(order):
                out[new, :, place, place_in] = view[old, :, was, source]
    return out.view_as(w_cat)


@pytest.mark.parametrize("order", [[1, 0], [2, 0, 1], [1, 2, 0]])
def test_the_order_of_sources_changes_nothing(encoder: Path, order: list[int]) -> None:
    sources = adapters(encoder, len(order))
    recommender = integrated(encoder, sources, {"layers": 2}, best=0)
    randomise(recommender)
    other = integrated(encoder, [sources[m] for m in order], {"layers": 2}, best=order.index(0))
    tensors = integration(recommender).tensors()
    changed = {
        name: permuted(t, order) if "w_cat" in name else t[order] if name.endswith(".w") else t
        for name, t in tensors.items()
    }
    integration(other)._take(changed)
    np.testing.assert_allclose(
        other.score(HISTORIES, CANDIDATES), recommender.score(HISTORIES, CANDIDATES), atol=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 4),
    d=st.integers(1, 6),
    seed=st.integers(0, 99),
    beta=st.floats(-1, 1),
    gamma=st.floats(-2, 2),
)
def test_identical_sources_have_no_interactions(
    n: int, d: int, seed: int, beta: float, gamma: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    h = torch.randn(1, 5, d, generator=random).repeat(n, 1, 1)
    w_cat = torch.randn(2 * n * (n - 1), n * d, generator=random)
    for dtype in (torch.float32, torch.bfloat16):
        same = h.to(dtype)
        assert torch.equal(refine(same, w_cat, beta, gamma), refine(same, w_cat, beta, 0.0))


@pytest.mark.parametrize(("layers", "count"), [(None, 55_296), (9, 55_296), (1, 6_144)])
def test_the_numbers_trained_are_those_of_the_paper(layers: int | None, count: int) -> None:
    """12 blocks, 768 wide, the top 9 integrated, against LoRA of rank 16 on one square matrix each;
    shapes only, nothing is computed."""
    from transformers import BertConfig, BertModel

    shape = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 8, "vocab_size": 9}
    with torch.device("meta"):
        lora = attach(BertModel(BertConfig(**shape)), LoraSettings(rank=16, targets=["value"]))
        model = BertModel(BertConfig(**shape))
        head = add_head(BertModel(BertConfig(**shape)), 0)
        sources = [Adapter({n: Factors(x.a, x.b, 2.0) for n, x in lora.items()}, {})] * 2
        integrator = make_integrator(Blocks(model), sources, XCrossSettings(layers=layers), 0)
    trained = {name: p.numel() for name, p in integrator.named_parameters()}
    assert sum(n for name, n in trained.items() if name.startswith("w_cat")) == count
    assert trained["w"] == 2
    adapter = sum(linear.a.numel() + linear.b.numel() for linear in lora.values())
    assert adapter == 294_912 and 4 * trained["w_cat.0"] == adapter / 12
    assert sum(p.numel() for module in head.values() for p in module.parameters()) == 591_361


def test_the_numbers_trained_are_those_that_are_said(tmp_path: Path) -> None:
    encoder = save_encoder("bert", tmp_path / "bert")
    recommender = integrated(encoder, adapters(encoder, 3), {"layers": 2})
    n, d = 3, 32
    assert integration(recommender).trainable() == {
        "integrator": 2 * (2 * n * (n - 1) * n * d) + n,
        "head": d * d + d + d + 1,
    }
    assert sum(t.numel() for t in integration(recommender).tensors().values()) == sum(
        integration(recommender).trainable().values()
    )


@pytest.mark.parametrize(
    "kind", ["x_cross", "x_lora", {"kind": "x_lora", "form": "one_pass"}, "meteora", "head"]
)
def test_gradients_reach_what_is_trained_and_nothing_frozen(encoder: Path, kind: Any) -> None:
    sources = adapters(encoder)[: 1 if kind == "head" else 2]
    recommender = integrated(encoder, sources, kind)
    before = {name: p.detach().clone() for name, p in recommender.model.named_parameters()}
    train(
        recommender,
        [last_of(make_shop()).take(np.arange(6))],
        TrainSettings(batch=3, epochs=2, learning_rate=0.01),
        seed=0,
    )
    for name, parameter in recommender.model.named_parameters():
        own = name.startswith(("integrator.", "pooler.", "scorer."))
        assert parameter.requires_grad == own, name
        if not own:
            assert torch.equal(parameter, before[name]), name
        elif name != "scorer.bias":  # a softmax over candidates doesn't see it
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    "kind", ["x_cross", {"layers": 1}, "x_lora", {"kind": "x_lora", "form": "one_pass"}, "meteora",
            "head"],
)  # fmt: skip
def test_kept_activations_change_no_loss(encoder: Path, tmp_path: Path, kind: Any) -> None:
    sources = adapters(encoder)[: 1 if kind == "head" else 2]
    examples = last_of(make_shop()).take(np.arange(8))
    recommender = integrated(encoder, sources, kind)
    cached = integrated(encoder, sources, kind, activations=StoredActivations(tmp_path / "kept"))
    none = integrated(encoder, sources, kind, activations=StoredActivations(tmp_path / "none", 1))
    for one in (recommender, cached, none):
        randomise(one)
    for rows in (np.arange(4), np.arange(2, 8), np.array([7, 0])):
        losses = [
            one.loss(examples.take(rows)).item() for one in (recommender, cached, none, cached)
        ]
        np.testing.assert_allclose(losses, losses[0], atol=1e-5)
    cache = integration(cached)._activations
    assert cache is not None and (cache.misses, cache.hits) == (8, 16)
    assert len(list(cache.folder.iterdir())) == 8
    assert not list(integration(none)._activations.folder.iterdir())  # type: ignore[union-attr]


def test_kept_activations_stay_within_their_budget(tmp_path: Path) -> None:
    cached = Activations(tmp_path / "one", budget=1000)
    cached.put("a", torch.zeros(200))
    cached.put("b", torch.ones(200))  # 1600 bytes in all
    assert cached.get("b") is None and torch.equal(cached.get("a"), torch.zeros(200))  # type: ignore[arg-type]
    beside = Activations(tmp_path / "other", budget=1000)  # one budget for all of a root's folders
    beside.put("c", torch.ones(100))
    assert beside.get("c") is None
    again = Activations(tmp_path / "one", budget=1000)
    (tmp_path / "one" / "a.safetensors").write_bytes(b"damaged")
    assert again.get("a") is None


def test_other_negatives_are_other_activations(tmp_path: Path) -> None:
    encoder = save_encoder("bert", tmp_path / "bert")
    shop = make_shop()
    examples = last_of(shop).take(np.arange(4))
    recommender = integrated(
        encoder, adapters(encoder), "x_cross", activations=StoredActivations(tmp_path / "kept")
    )
    before = recommender.loss(examples).item()
    expected = integrated(encoder, adapters(encoder), "x_cross")
    for one in (recommender, expected):  # popularity in six users' sequences instead of everyone's
        one.prepare([last_of(shop).take(np.arange(6))])
    assert abs(recommender.loss(examples).item() - expected.loss(examples).item()) < 1e-5
    assert abs(recommender.loss(examples).item() - before) > 1e-6


def test_a_full_disk_only_costs_time(tmp_path: Path) -> None:
    encoder = save_encoder("bert", tmp_path / "bert")
    examples = last_of(make_shop()).take(np.arange(4))
    recommender = integrated(
        encoder, adapters(encoder), "x_cross", activations=StoredActivations(tmp_path / "kept")
    )
    expected = recommender.loss(examples).item()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        full = integrated(
            encoder, adapters(encoder), "x_cross", activations=StoredActivations(tmp_path / "full")
        )
        again = full.loss(examples).item()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert abs(again - expected) < 1e-6
    assert not list((tmp_path / "full").rglob("*.safetensors"))


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    encoder = save_encoder("bert", tmp_path / "bert")
    examples = [last_of(make_shop()).take(np.arange(12))]
    training = TrainSettings(batch=3, epochs=2, learning_rate=0.01, checkpoint_every=3)

    def fresh() -> Any:
        return integrated(
            encoder,
            adapters(encoder),
            "x_cross",
            activations=StoredActivations(tmp_path / "kept"),
            seed=5,
        )

    whole = fresh()
    train(whole, examples, training, seed=1)

    def stop(step: int, steps: int, done: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            fresh(),
            examples,
            training,
            seed=1,
            files=TrainingFiles(tmp_path / "state"),
            report=stop,
        )
    resumed = fresh()
    train(resumed, examples, training, seed=1, files=TrainingFiles(tmp_path / "state"))
    for name, tensor in integration(whole).tensors().items():
        assert torch.equal(tensor, integration(resumed).tensors()[name]), name


def test_a_decoder_is_integrated_at_its_last_token(tmp_path: Path) -> None:
    from tiny_lm import save_causal

    decoder = save_causal("qwen2", tmp_path / "qwen2")
    both = [adapter_of(decoder, seed) for seed in (1, 2)]
    recommender = integrated(decoder, both, {"beta": 0, "gamma": 0}, best=1)
    integration(recommender).integrator.w.data = torch.tensor([0.0, 1.0])  # type: ignore[assignment]
    expected = plain(decoder, adapter=both[1]).score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(recommender.score(HISTORIES, CANDIDATES), expected, atol=1e-4)
    assert abs(expected.std(axis=1)).min() > 1e-4
    save_adapter(both[0], tmp_path / "adapter")
    assert SETTINGS.pooling == "auto"

"""A model of θ_base + Σ w v: values and gradients against the naive way, and left as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from moved_models import moved
from safetensors.torch import load_file
from torch import Tensor

from weft.backbones import Backbone, load_backbone
from weft.errors import WeftError
from weft.learning.groups import Groups, make_groups
from weft.learning.task_vectors import task_vectors, weighted_model
from weft.merging.merge import merge, plan_merge

IDS = torch.tensor([[2, 5, 11, 3], [2, 6, 12, 3]])


@pytest.fixture(scope="module")
def parts(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    return [moved(tiny_bert, folder / f"part{seed}", seed) for seed in (1, 2, 3)]


def vectors_of(
    parts: list[Path],
    base: Path,
    method: Any = "task_arithmetic",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    job = plan_merge(parts, method, None, base=base)
    assert job.base is not None
    return task_vectors(job.parts.sources, job.method, job.base, dtype)


def loaded(base: Path) -> Backbone:
    return load_backbone(str(base), precision="float32")


def out(model: torch.nn.Module) -> Tensor:
    hidden: Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
    return hidden


def naive(
    model: torch.nn.Module, vectors: dict[str, Tensor], groups: Groups
) -> Callable[[Tensor], Tensor]:
    """The same by torch's own functional call, every parameter formed in autograd's sight."""

    def forward(w: Tensor) -> Tensor:
        theta = {}
        for name, parameter in model.named_parameters():
            if name in vectors:
                delta = w[:, groups.of[name]] @ vectors[name].double()
                theta[name] = parameter.detach().double() + delta.view(parameter.shape)
        output = torch.func.functional_call(
            model.double(), theta, (), {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    return forward


def in_weighted(parts: list[Path], base: Path, grouping: Any, w: Tensor, dtype: torch.dtype) -> Any:
    vectors = vectors_of(parts, base, dtype=dtype)
    groups = make_groups(grouping, vectors)
    assert w.shape == (3, len(groups))
    w = w.clone().requires_grad_(True)
    model = loaded(base).model
    with weighted_model(model, vectors, groups, dtype) as set_weights:
        set_weights(w)
        output = out(model)
        weigh = torch.linspace(-1, 1, output.numel()).view(output.shape)
        (output.float() * weigh).sum().backward()
    return output.detach(), w.grad, weigh, groups


@pytest.mark.parametrize(("grouping", "count"), [("domain", 1), ("layer", 3)])
def test_values_and_gradients_are_those_of_the_naive_way(
    parts: list[Path], tiny_bert: Path, grouping: Any, count: int
) -> None:
    w = 0.4 * torch.rand(3, count, generator=torch.Generator().manual_seed(0))
    output, gradient, weigh, groups = in_weighted(parts, tiny_bert, grouping, w, torch.float32)
    forward = naive(loaded(tiny_bert).model, vectors_of(parts, tiny_bert), groups)
    exact = w.double().requires_grad_(True)
    wanted = forward(exact)
    (wanted * weigh.double()).sum().backward()
    assert torch.allclose(output.double(), wanted, atol=1e-4)
    assert exact.grad is not None
    assert torch.allclose(gradient.double(), exact.grad, rtol=1e-3, atol=1e-3)


def test_gradients_are_finite_differences(parts: list[Path], tiny_bert: Path) -> None:
    w = torch.tensor([[0.2, 0.1, 0.3], [0.3, 0.2, 0.2], [0.1, 0.4, 0.2]])
    _, gradient, weigh, groups = in_weighted(parts, tiny_bert, "layer", w, torch.float32)
    forward = naive(loaded(tiny_bert).model, vectors_of(parts, tiny_bert), groups)
    for k in range(3):
        for g in range(3):
            step = torch.zeros(3, 3, dtype=torch.float64)
            step[k, g] = 1e-5
            with torch.no_grad():
                above = (forward(w.double() + step) * weigh).sum()
                below = (forward(w.double() - step) * weigh).sum()
            slope = float((above - below) / 2e-5)
            assert float(gradient[k, g]) == pytest.approx(slope, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_hot_weights_give_that_model(
    parts: list[Path], tiny_bert: Path, dtype: torch.dtype
) -> None:
    w = torch.tensor([[0.0], [1.0], [0.0]])
    output, *_ = in_weighted(parts, tiny_bert, "domain", w, dtype)
    with torch.no_grad():
        wanted = out(loaded(parts[1]).model)
    assert torch.allclose(output.float(), wanted, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_bfloat16_sees_steps_that_one_bfloat16_coefficient_would_lose(
    parts: list[Path], tiny_bert: Path
) -> None:
    vectors = vectors_of(parts, tiny_bert, dtype=torch.bfloat16)
    groups = make_groups("domain", vectors)
    model = loaded(tiny_bert).model
    name = "encoder.layer.0.output.dense.weight"
    with weighted_model(model, vectors, groups, torch.float32) as set_weights:
        w = torch.full((3, 1), 0.2)
        set_weights(w)
        before = model.get_submodule("encoder.layer.0.output.dense").weight.clone()
        set_weights(w + 2e-4)  # less than a bfloat16 of this size can tell
        after = model.get_submodule("encoder.layer.0.output.dense").weight
    wanted = 2e-4 * vectors[name].float().sum(0).view(before.shape)
    assert torch.allclose(after - before, wanted, rtol=0.1, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        "task_arithmetic",
        {"name": "ties", "density": 0.3, "weigh": "after"},
        {"name": "dare", "drop_rate": 0.4},
        {"name": "magnitude_prune", "density": 0.5},
    ],
    ids=str,
)
def test_vectors_add_up_to_what_the_static_engine_makes(
    parts: list[Path], tiny_bert: Path, tmp_path: Path, method: Any
) -> None:
    vectors = vectors_of(parts, tiny_bert, method)
    weights = [0.7, -0.2, 0.4]
    merge(parts, method, weights, base=tiny_bert, out=tmp_path / "merged")
    merged, base = load_file(tmp_path / "merged" / "model.safetensors"), load_file(
        tiny_bert / "model.safetensors"
    )  # fmt: skip
    assert set(vectors) == {name for name, value in merged.items() if value.is_floating_point()}
    for name, held in vectors.items():
        wanted = base[name].reshape(-1) + torch.tensor(weights) @ held
        assert torch.allclose(merged[name].reshape(-1), wanted, atol=1e-5), name


def test_methods_that_mix_the_parts_are_refused(parts: list[Path], tiny_bert: Path) -> None:
    with pytest.raises(WeftError, match=r"'ties' does not keep the parts apart.*weigh: after"):
        vectors_of(parts, tiny_bert, "ties")


def test_the_model_is_left_as_it_was(parts: list[Path], tiny_bert: Path) -> None:
    model = loaded(tiny_bert).model.train()
    model.requires_grad_(True)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    held = dict(model.named_parameters())
    vectors = vectors_of(parts, tiny_bert)
    with (
        pytest.raises(RuntimeError, match="stop"),
        weighted_model(
            model, vectors, make_groups("domain", vectors), torch.bfloat16
        ) as set_weights,
    ):
        set_weights(torch.ones(3, 1))
        raise RuntimeError("stop")
    assert model.training
    after = dict(model.named_parameters())
    assert set(after) == set(before)
    for name, value in after.items():
        assert value is held[name]
        assert value.requires_grad
        assert torch.equal(value, before[name])


def test_tied_embeddings_move_together(tmp_path: Path) -> None:
    """A causal model's input and output embeddings are one tensor of its folder."""
    from tiny_lm import causal_model

    model = causal_model("qwen2")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.save_pretrained(tmp_path / "base")
    parts = [moved(tmp_path / "base", tmp_path / f"p{seed}", seed) for seed in (1, 2)]
    vectors = vectors_of(parts, tmp_path / "base")
    w = torch.tensor([[0.5], [0.25]], requires_grad=True)
    ids = torch.tensor([[7, 8, 9, 10]])
    with weighted_model(
        model, vectors, make_groups("domain", vectors), torch.float32
    ) as set_weights:
        set_weights(w)
        output = model(input_ids=ids).logits
        output.square().sum().backward()
    merge(parts, "task_arithmetic", [0.5, 0.25], base=tmp_path / "base", out=tmp_path / "out")
    whole = type(model).from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        wanted = whole.eval()(input_ids=ids).logits
    assert torch.allclose(output.detach(), wanted, atol=1e-4)
    assert w.grad is not None
    assert bool((w.grad != 0).all())

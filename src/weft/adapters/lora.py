"""LoRA linears that cost little more than their matrix products, and how to attach them.

LoRA (Hu et al., 2021): y = W x + b + (α/r) B A dropout(x), with W and b frozen, A [r, in] and
B [out, r] trained. A starts Kaiming-uniform, B at zero, so that training starts at the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from weft.artifacts.hashing import hash_json
from weft.errors import SettingError
from weft.settings import StrictModel

Targets = Literal["all-linear", "query-value"] | list[str]
_HEADS = ("pooler", "lm_head", "classifier", "scorer")
_QUERY = ("query", "query_proj", "q_proj", "q_lin", "q")
_VALUE = ("value", "value_proj", "v_proj", "v_lin", "v")


class LoraSettings(StrictModel):
    """Shape of the adapters. `targets` are module names or name endings, or `all-linear`, or
    `query-value`: the two projections that Hu et al. adapt, under the names that most architectures
    have for them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: Targets = "all-linear"


def dropped_positions(size: int, p: float) -> Tensor:
    """Positions to zero so that each of `size` elements is dropped independently with chance p.

    Poisson(−size·ln(1−p)) positions are thrown uniformly; an element that is hit at least once is
    dropped. Hits per element are independent Poisson counts, so this is Bernoulli(p) exactly, for
    the price of about p·size random numbers instead of size. The one seed is taken from torch's
    generator: `torch.manual_seed` decides the mask, and activation checkpointing, which restores
    that generator, sees the same mask twice.
    """
    seed = int(torch.randint(2**62, ()).item())
    random = np.random.Generator(np.random.SFC64(seed))
    hits = int(random.poisson(-math.log1p(-p) * size))
    return torch.from_numpy(random.integers(0, size, size=hits, dtype=np.int64))


class _LoraFunction(torch.autograd.Function):
    """Forward and backward of one LoRA linear, without gradients for the frozen weight.

    x [..., in], weight [out, in], A [r, in], B [out, r]; A and B are float32 and computed with in
    x's dtype. Saved for the backward pass: the dropped input, the r-wide product, the positions.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        p: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, b = a.to(x.dtype), b.to(x.dtype)
        dropped: Tensor | None = None
        seen = rows
        if p > 0:
            dropped = dropped_positions(rows.numel(), p)
            seen = rows.clone()
            seen.view(-1).index_fill_(0, dropped, 0)
            scaling = scaling / (1 - p)
        wide = b * scaling
        if bias is not None:  # rides along as one more rank: its own pass over `out` costs a fifth
            wide = torch.cat([wide, bias[:, None]], dim=1)
        ranks = rows.new_ones(len(rows), wide.shape[1])
        narrow = ranks[:, : a.shape[0]]
        torch.mm(seen, a.T, out=narrow)
        out = rows @ weight.T
        out.addmm_(ranks, wide.T)
        ctx.save_for_backward(seen, narrow, weight, a, b, dropped)
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        seen, narrow, weight, a, b, dropped = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        grad_b = (narrow.T @ grad).T.float() * ctx.scaling
        grad_narrow = (grad @ b).mul_(ctx.scaling)
        grad_a = (grad_narrow.T @ seen).float()
        grad_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if dropped is None:
                grad_x.addmm_(grad_narrow, a)
            else:
                through = grad_narrow @ a
                through.view(-1).index_fill_(0, dropped, 0)
                grad_x += through
            grad_x = grad_x.view(*grads[0].shape[:-1], -1)
        return grad_x, None, None, grad_a, grad_b, None, None


class LoraLinear(nn.Module):
    """A frozen linear with a trained low-rank delta. `a` [r, in], `b` [out, r], float32."""

    def __init__(self, linear: nn.Linear, settings: LoraSettings) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.scaling = settings.alpha / settings.rank
        self.dropout = settings.dropout
        device = linear.weight.device
        self.a = nn.Parameter(torch.zeros(settings.rank, linear.in_features, device=device))
        self.b = nn.Parameter(torch.zeros(linear.out_features, settings.rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in x's dtype."""
        p = self.dropout if self.training else 0.0
        if x.device.type == "cpu":
            return cast(
                Tensor,
                _LoraFunction.apply(x, self.weight, self.bias, self.a, self.b, self.scaling, p),  # type: ignore[no-untyped-call]
            )
        narrow = nn.functional.dropout(x, p) @ self.a.to(x.dtype).T
        return nn.functional.linear(x, self.weight, self.bias) + self.scaling * (
            narrow @ self.b.to(x.dtype).T
        )


def _wanted(name: str, targets: Targets) -> bool:
    if targets == "all-linear":
        # Heads that a plain forward pass never reaches have no gradient, so no adapter either.
        return not any(part in _HEADS for part in name.split("."))
    if targets == "query-value":
        return name.rpartition(".")[2] in _QUERY + _VALUE
    return any(name == target or name.endswith("." + target) for target in targets)


def target_modules(model: nn.Module, targets: Targets) -> list[str]:
    """Names of the linears that `targets` selects, in the model's order; none is an error."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _wanted(name, targets)
    ]
    if not names:
        raise SettingError(f"no linear module of the backbone matches the LoRA targets {targets}")
    return names


def attach(
    model: nn.Module, settings: LoraSettings, whole: Collection[str] = ()
) -> dict[str, LoraLinear]:
    """Freeze the model, turn its own dropout off and put a LoRA linear in each target's place, but for
    those inside of the modules `whole`, which are trained as they are.

    Returns module name -> LoRA linear, in the model's order. A and B are zero until
    `initialise` or loaded factors fill them.

    >>> model = nn.ModuleDict({"query": nn.Linear(4, 4), "key": nn.Linear(4, 4)})
    >>> attached = attach(model, LoraSettings(rank=2, alpha=4, targets=["query"]))
    >>> initialise(attached, seed=7)
    >>> [(name, tuple(factor.shape)) for name, factor in trainable(attached)]
    [('query.a', (2, 4)), ('query.b', (4, 2))]
    >>> attached["query"].scaling
    2.0
    """
    model.requires_grad_(False)
    turn_dropout_off(model)
    attached: dict[str, LoraLinear] = {}
    for name in target_modules(model, settings.targets):
        if any(f"{name}.".startswith(f"{one}.") for one in whole):
            continue
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        linear = LoraLinear(cast(nn.Linear, getattr(parent, child)), settings)
        setattr(parent, child, linear)
        attached[name] = linear
    return attached


def turn_dropout_off(model: nn.Module) -> None:
    """Dropout modules, and the rates that some models keep as plain numbers (`attention_dropout`)."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def initialise(attached: dict[str, LoraLinear], seed: int) -> None:
    """Kaiming-uniform A (bound 1/√in) and zero B; each module's draw depends on seed and name."""
    for name, linear in attached.items():
        generator = torch.Generator().manual_seed(int(hash_json([seed, name])[:15], 16))
        bound = 1 / math.sqrt(linear.a.shape[1])
        values = torch.rand(linear.a.shape, generator=generator) * (2 * bound) - bound
        with torch.no_grad():
            linear.a.copy_(values)
            linear.b.zero_()


def trainable(attached: dict[str, LoraLinear]) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of all factors, in order: `module.a`, `module.b`."""
    for name, linear in attached.items():
        yield f"{name}.a", linear.a
        yield f"{name}.b", linear.b

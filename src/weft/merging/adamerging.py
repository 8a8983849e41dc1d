"""AdaMerging (Yang et al., ICLR 2024): merging weights that make the predictions sure.

Each module has a weight for every adapter, a softmax over them that starts equal, as WeaveRec
uses it. What is minimised is the entropy of predictions on inputs without labels; only the
weights are learned. They end as plain numbers that `merge_adapters` replays.

Sure is not right: nothing here says which predictions are correct, and the entropy can fall by
leaning on whichever adapter is the most confident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from weft.adapters import Adapter
from weft.errors import WeftError
from weft.training.checkpoint import Progress, load_checkpoint, save_checkpoint

Entropy = Callable[[nn.Module, int], Tensor]
"""Mean entropy of the model's predictions on the batch of a step, with gradients."""


@dataclass(frozen=True)
class LearnedWeights:
    """Module -> one weight for each adapter (they sum to 1), and the entropy at every step."""

    modules: Mapping[str, list[float]]
    entropies: list[float] = field(default_factory=list)

    def __call__(self, module: str) -> list[float]:
        """As `weights` of `merge_adapters`."""
        return self.modules[module]

    def rules(self, adapter: int) -> list[dict[str, Any]]:
        """One adapter's weights as rules of a merge recipe: a value for each module's tensor."""
        return [
            {"pattern": f"{name}.weight", "value": weights[adapter]}
            for name, weights in self.modules.items()
        ]


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Mean entropy (nats) of the distributions softmax(logits [..., classes])."""
    known = torch.log_softmax(logits.float(), dim=-1)
    return -(known.exp() * known).nan_to_num(0.0).sum(dim=-1).mean()


class _Weighted(nn.Module):
    """W x + Σ_k w_k s_k B_k A_k x, with w = softmax(`logits`), the only thing that learns."""

    def __init__(self, linear: nn.Linear, name: str, parts: Sequence[Adapter]) -> None:
        super().__init__()
        self.linear = linear
        factors = [part.factors[name] for part in parts]
        weight = linear.weight
        self.a = torch.cat([one.a for one in factors]).to(weight)  # [Σ r, in]
        self.b = torch.cat([one.b * one.scaling for one in factors], dim=1).to(weight)
        self.ranks = torch.tensor([one.rank for one in factors], device=weight.device)
        self.logits = nn.Parameter(torch.zeros(len(parts), device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.logits, dim=0).repeat_interleave(self.ranks).to(x.dtype)
        delta = ((x @ self.a.T) * weights) @ self.b.T
        return cast(Tensor, self.linear(x)) + delta


def learn_weights(
    model: nn.Module,
    adapters: Sequence[Adapter],
    entropy: Entropy,
    *,
    steps: int = 500,
    learning_rate: float = 1e-3,
    checkpoints: Path | None = None,
    key: str = "",
    report: Callable[[int, int, float], None] | None = None,
) -> LearnedWeights:
    """Minimise `entropy(model, step)` over per-module merging weights, by Adam.

    The adapters must have the same modules and save none whole. `entropy` must depend on nothing
    but the model and the step. With `checkpoints`, a folder, a killed call goes on where it was
    (the state of another `key` is left alone). Afterwards the model is exactly as it was.
    """
    _check(model, adapters)
    progress = Progress()
    with _weighted(model, adapters) as modules:
        named = [(name, module.logits) for name, module in modules.items()]
        optimizer = torch.optim.Adam([logits for _, logits in named], lr=learning_rate)
        if checkpoints is not None:
            checkpoints.mkdir(parents=True, exist_ok=True)
            found = load_checkpoint(checkpoints, key, named, optimizer)
            progress = found[0] if found else progress
        while progress.step < steps:
            loss = entropy(model, progress.step)
            if not torch.isfinite(loss):
                raise WeftError(f"the entropy is {float(loss)} at step {progress.step}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress.step += 1
            progress.curve.append((progress.step, float(loss.detach()), None))
            if checkpoints is not None and progress.step % 25 == 0 and progress.step < steps:
                save_checkpoint(checkpoints, key, progress, named, optimizer, {})
            if report is not None:
                report(progress.step, steps, float(progress.step))
        learned = {name: torch.softmax(logits.detach(), dim=0).tolist() for name, logits in named}
    return LearnedWeights(learned, [float(loss or 0.0) for _, loss, _ in progress.curve])


def _check(model: nn.Module, adapters: Sequence[Adapter]) -> None:
    if len(adapters) < 2:
        raise WeftError("AdaMerging needs at least two adapters")
    names = set(adapters[0].factors)
    for number, one in enumerate(adapters, start=1):
        if one.saved:
            raise WeftError(f"adapter {number} saves modules whole; AdaMerging merges LoRA only")
        if other := names ^ set(one.factors):
            raise WeftError(f"adapters 1 and {number} differ in the module '{min(other)}'")
    for name in names:
        try:
            module: nn.Module | None = model.get_submodule(name)
        except AttributeError:
            module = None
        if not isinstance(module, nn.Linear):
            raise WeftError(f"the adapters' module '{name}' is no linear one of the model")


@contextmanager
def _weighted(model: nn.Module, adapters: Sequence[Adapter]) -> Iterator[dict[str, _Weighted]]:
    """The model with weighted modules in the linears' places, and back again."""
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = model.training
    model.requires_grad_(False)
    model.eval()
    placed: dict[str, _Weighted] = {}
    try:
        for name in adapters[0].factors:
            module = _Weighted(cast(nn.Linear, model.get_submodule(name)), name, adapters)
            _put(model, name, module)
            placed[name] = module
        yield placed
    finally:
        for name, module in placed.items():
            _put(model, name, module.linear)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])
        model.train(training)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)

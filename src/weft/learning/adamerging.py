"""AdaMerging (Yang et al., ICLR 2024): merging weights that make the predictions sure.

Each module has a weight for every adapter, a softmax over them that starts equal, as WeaveRec
uses it. What is minimised is the entropy of predictions on inputs without labels; only the
weights are learned. They end as plain numbers that `merge_adapters` replays.

Sure is not right: nothing here says which predictions are correct, and the entropy can fall by
leaning on whichever adapter is the most confident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from weft.adapters import Adapter
from weft.errors import WeftError
from weft.learning.adapters import check_learnable, weighted_adapters
from weft.learning.groups import module_groups
from weft.learning.objectives import entropy_of
from weft.learning.optimise import Descent, LearningRun, minimise

ModelEntropy = Callable[[nn.Module, int], Tensor]
"""Mean entropy of the model's predictions on the batch of a step, with gradients."""


@dataclass(frozen=True)
class ModuleWeights:
    """Module -> one weight for each adapter (they sum to 1), and the entropy at every step."""

    modules: Mapping[str, list[float]]
    entropies: list[float] = field(default_factory=list)

    def __call__(self, module: str) -> list[float]:
        """As `weights` of `merge_adapters`."""
        return self.modules[module]


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Mean entropy (nats) of the distributions softmax(logits [..., classes]).

    >>> entropy_of_logits(torch.zeros(3, 2))
    tensor(0.6931)
    """
    return entropy_of(logits).mean()


def learn_adamerging(
    model: nn.Module,
    adapters: Sequence[Adapter],
    entropy: ModelEntropy,
    *,
    steps: int = 500,
    learning_rate: float = 1e-3,
    key: str = "",
    run: LearningRun | None = None,
) -> ModuleWeights:
    """Minimise `entropy(model, step)` over per-module merging weights, by Adam.

    The adapters must have the same modules and save none whole. `entropy` must depend on nothing
    but the model and the step. `key` names all that decides the outcome: a killed call goes on from
    a checkpoint of the same key alone. Afterwards the model is exactly as it was.

    Raises `MismatchError` for adapters that don't fit each other or the model.
    """
    check_learnable(model, adapters)
    groups = module_groups(adapters[0].factors)
    device = next(model.parameters()).device
    with weighted_adapters(model, adapters, groups) as set_weights:

        def loss(w: Tensor, step: int) -> Tensor:
            set_weights(w)
            return entropy(model, step)

        initial = torch.zeros(len(adapters), len(groups), device=device)
        descent = Descent(steps, learning_rate, shares=True)
        learned = minimise(initial, loss, descent, key=key, run=run)
    if learned.stopped:
        raise WeftError(f"AdaMerging: {learned.stopped}")
    weights = torch.tensor(learned.coefficients)
    modules = {name: weights[:, g].tolist() for name, g in groups.of.items()}
    return ModuleWeights(modules, [float(loss or 0.0) for _, loss, _ in learned.curve])

"""What merging weights are learned by: small pieces, each a scalar of logits, and their sum.

Logits are cosines of a pseudo-user with every item of its own domain's catalogue: `student` by the
merged model, `teacher` by that domain's. Entries of −inf in both are left out of everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Logits:
    """n pseudo-users of one domain against its catalogue of m items: [n, m] float32 each.

    `teacher` is None for objectives that need none; `first` are the logits of the merged model
    before anything was learned.
    """

    student: Tensor
    teacher: Tensor | None = None
    first: Tensor | None = None


class Objective(Protocol):
    """A scalar for each pseudo-user [n], lower is better; gradients flow to `student` only."""

    def __call__(self, logits: Logits) -> Tensor: ...


@dataclass(frozen=True)
class Entropy:
    """H(softmax(b / τ)): AdaMerging's, by default on raw cosines (MergeRec's baseline)."""

    temperature: float = 1.0

    def __call__(self, logits: Logits) -> Tensor:
        return entropy_of(logits.student / self.temperature)


@dataclass(frozen=True)
class Distillation:
    """T² · KL(softmax(a/T) ‖ softmax(b/T)) of teacher logits a and student logits b: MergeRec's
    L_KD.

    >>> same = torch.tensor([[0.9, 0.1, 0.0]])  # one pseudo-user, three items
    >>> student = torch.cat([same, same.flip(1)])
    >>> Distillation(temperature=1.0)(Logits(student, teacher=same.expand(2, 3)))
    tensor([0.0000, 0.2878])
    """

    temperature: float = 0.05

    def __call__(self, logits: Logits) -> Tensor:
        teacher = torch.log_softmax(_teacher(logits) / self.temperature, dim=-1)
        student = torch.log_softmax(logits.student / self.temperature, dim=-1)
        share = teacher.exp()
        terms = torch.where(share > 0, share * (teacher - student), torch.zeros_like(share))
        return self.temperature**2 * terms.sum(dim=-1)


@dataclass(frozen=True)
class Recommendation:
    """Cross entropy of b / τ with the item that the teacher ranks first: MergeRec's L_Rec, there
    with τ = 1. With `first_labels` the item that the merged model ranked first at the start."""

    temperature: float = 1.0
    first_labels: bool = False

    def __call__(self, logits: Logits) -> Tensor:
        ranking = logits.first if self.first_labels else _teacher(logits)
        assert ranking is not None
        labels = ranking.argmax(dim=-1)
        return torch.nn.functional.cross_entropy(
            logits.student / self.temperature, labels, reduction="none"
        )


@dataclass(frozen=True)
class WeightedSum:
    """Σ factor · objective."""

    terms: tuple[tuple[float, Objective], ...]

    def __call__(self, logits: Logits) -> Tensor:
        values = [factor * objective(logits) for factor, objective in self.terms]
        return torch.stack(values).sum(dim=0)


def entropy_of(logits: Tensor) -> Tensor:
    """[...]: entropy (nats) of the distributions softmax(logits [..., classes]); −inf is no class.

    >>> entropy_of(torch.tensor([[0.0, 0.0, -torch.inf], [1.0, 1.0, 1.0]]))
    tensor([0.6931, 1.0986])
    """
    log_share = torch.log_softmax(logits.float(), dim=-1)
    share = log_share.exp()
    return -(share * log_share.masked_fill(share == 0, 0.0)).sum(dim=-1)


def _teacher(logits: Logits) -> Tensor:
    if logits.teacher is None:
        raise ValueError("this objective needs a teacher's logits")
    return logits.teacher

"""MergeRec (arXiv 2601.01753): merging weights learned from catalogues, without any user's data.

    θ(w) = θ_base + Σ_k w_k v_k,   D̂_k = {[i] : i ∈ I_k},   L = L_Rec + λ L_KD,  λ = 1000

Each domain's own model ranks its catalogue for pseudo-users, and w is moved by Adam until the
merged model ranks likewise. What goes in are trained parts and catalogues; there is no way to pass
an interaction. What comes out is a merge recipe in plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.learning.groups import Grouping, Groups
from weft.learning.learn import Learned, learn
from weft.learning.objectives import (
    Distillation,
    Entropy,
    Logits,
    Objective,
    Recommendation,
    Sum,
)
from weft.learning.probes import Probes, ProbeSettings
from weft.learning.vectors import Place
from weft.merging.methods import make_method
from weft.recommenders.bi_encoder import BiEncoder
from weft.settings import StrictModel
from weft.text import joined
from weft.training.batches import seed_of


class CollaborativeSettings(StrictModel):
    """How merging weights are learned; the defaults are MergeRec's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str | dict[str, Any] = Field(
        default="task_arithmetic", description="any that keeps the parts apart"
    )
    weights: Grouping = Field(
        default="domain", description="one a domain, or one a domain and transformer block"
    )
    initial: float | None = Field(
        default=None, description="every weight at the start; the method's own unless given"
    )
    recommendation: float = Field(default=1.0, ge=0, description="factor of L_Rec")
    distillation: float = Field(default=1000.0, ge=0, description="λ, factor of L_KD")
    entropy: float = Field(default=0.0, ge=0, description="factor of AdaMerging's entropy")
    labels: Literal["teacher", "merged"] = Field(
        default="teacher", description="whose first item L_Rec wants: each domain's own model's"
    )
    temperature: float = Field(default=0.05, gt=0, description="T of L_KD")
    tau_rec: float = Field(default=1.0, gt=0, description="of L_Rec and of the entropy")
    mask_self: bool = Field(
        default=False,
        description="leave a probe's own items out: else L_Rec's label is nearly always the probe",
    )
    probes: ProbeSettings = ProbeSettings()
    refresh: int | None = Field(
        default=None, ge=1, description="steps until the item vectors are made anew; none: never"
    )
    steps: int = Field(default=500, ge=1)
    batch: int = Field(default=16, ge=1, description="probes of all domains in one step")
    learning_rate: float = Field(default=1e-3, gt=0)
    held_out: int = Field(
        default=128, ge=0, description="probes of all domains, a tenth at most, that watch"
    )

    @field_validator("method")
    @classmethod
    def _known(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        try:
            method = make_method(value)
        except WeftError as error:
            raise ValueError(str(error)) from None
        if not getattr(method, "keeps_parts", False):
            more = " (say {name: ties, weigh: after})" if method.name == "ties" else ""
            raise ValueError(
                f"'{method.name}' does not keep the parts apart, so it has no weights to learn{more}"
            )
        return value

    @model_validator(mode="after")
    def _something(self) -> CollaborativeSettings:
        if not (self.recommendation or self.distillation or self.entropy):
            raise ValueError("recommendation, distillation and entropy can't all be 0")
        if self.labels == "merged" and self.probes.length > 1:
            raise ValueError("labels: merged is for probes of one item")
        return self

    def start(self, parts: int) -> list[float]:
        """w of K parts at the start."""
        if self.initial is not None:
            return [self.initial] * parts
        return make_method(self.method).default_weights(parts)

    @property
    def taught(self) -> bool:
        """Whether any term looks at what the domains' own models say."""
        return bool(self.distillation) or (bool(self.recommendation) and self.labels == "teacher")

    def objective(self) -> Objective:
        terms: list[tuple[float, Objective]] = []
        if self.recommendation:
            own = self.labels == "merged"
            terms.append((self.recommendation, Recommendation(self.tau_rec, own_labels=own)))
        if self.distillation:
            terms.append((self.distillation, Distillation(self.temperature)))
        if self.entropy:
            terms.append((self.entropy, Entropy(self.tau_rec)))
        return Sum(tuple(terms))


@dataclass(frozen=True, eq=False)
class Taught:
    """What one domain gives to the learning: its items, its probes, and its own model's view of
    them as unit vectors: `items` [m, d] and `users` [p, d] float32."""

    name: str
    catalogue: Catalogue
    probes: Probes
    items: NDArray[np.float32]
    users: NDArray[np.float32]

    def __post_init__(self) -> None:
        for what, vectors in (("items", self.items), ("pseudo-users", self.users)):
            if not np.isfinite(vectors).all():
                raise WeftError(f"the model of '{self.name}' gives {what} vectors of NaN")


@dataclass
class Learner:
    """A merged model that learns from what several domains' models say about their catalogues."""

    student: BiEncoder
    place: Place
    domains: Sequence[Taught]
    settings: CollaborativeSettings
    seed: int
    first: list[NDArray[np.float32]] | None = None  # ē of each domain, of the initial model
    views: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = [self.student.tokens(one.catalogue) for one in self.domains]
        self.inputs = joined(
            [
                self.student.assemble_histories(tokens, one.probes.histories)
                for tokens, one in zip(self.tokens, self.domains, strict=True)
            ]
        )
        sizes = [len(one.probes) for one in self.domains]
        self.domain_of = np.repeat(np.arange(len(sizes)), sizes)
        self.row_of = np.concatenate([np.arange(size) for size in sizes])
        random = np.random.Generator(np.random.PCG64(seed_of(self.seed, "held out")))
        order = random.permutation(len(self.domain_of))
        held = min(self.settings.held_out, len(order) // 10)
        self.held, self.shown = np.sort(order[:held]), order[held:]
        self.objective = self.settings.objective()
        self.made_at = -1
        device = next(self.student.model.parameters()).device
        self.teachers = [torch.from_numpy(one.items).to(device) for one in self.domains]

    def run(
        self,
        groups: Groups,
        *,
        checkpoints: Any = None,
        key: str = "",
        report: Callable[[int, int, float], None] | None = None,
    ) -> Learned:
        """Learn from the settings' start."""
        start = torch.tensor(self.settings.start(len(self.domains)))
        initial = start[:, None].repeat(1, len(groups)).to(self.teachers[0].device)
        self._look(initial, 0)
        self.origin = self.views
        return learn(
            initial,
            self.loss,
            steps=self.settings.steps,
            learning_rate=self.settings.learning_rate,
            held_out=self.measured if len(self.held) else None,
            checkpoints=None if self.settings.refresh else checkpoints,
            key=key,
            report=report,
        )

    def loss(self, w: Tensor, step: int) -> Tensor:
        """Mean of the objective over the step's pseudo-users."""
        every = self.settings.refresh
        if every and step and step % every == 0 and self.made_at != step:
            self._look(w.detach(), step)
        self.place(w)
        return self._objective(self.rows(step)).mean()

    def rows(self, step: int) -> NDArray[np.int64]:
        """The pseudo-users of a step: all in random order, again and again."""
        count, size = len(self.shown), self.settings.batch
        places = np.arange(step * size, (step + 1) * size)
        found = np.empty(size, dtype=np.int64)
        for epoch in np.unique(places // count).tolist():
            random = np.random.Generator(np.random.PCG64(seed_of(self.seed, "epoch", epoch)))
            here = places // count == epoch
            found[here] = self.shown[random.permutation(count)[places[here] % count]]
        return found

    def measured(self, w: Tensor) -> float:
        """Mean of the objective over the held-out pseudo-users."""
        total = 0.0
        with torch.no_grad():
            self.place(w)
            for start in range(0, len(self.held), self.settings.batch):
                rows = self.held[start : start + self.settings.batch]
                total += float(self._objective(rows).sum())
        return total / len(self.held)

    def _objective(self, rows: NDArray[np.int64]) -> Tensor:
        users = self.student.embed(self.inputs, rows)
        values = []
        for k in np.unique(self.domain_of[rows]).tolist():
            here = np.flatnonzero(self.domain_of[rows] == k)
            values.append(self.objective(self._logits(k, self.row_of[rows[here]], users[here])))
        return torch.cat(values)

    def _logits(self, k: int, probes: NDArray[np.int64], users: Tensor) -> Logits:
        """Rows of student and teacher for some pseudo-users of domain k: formed when needed."""
        one = self.domains[k]
        student = users @ self.views[k].T
        teacher = first = None
        if self.settings.taught:
            teacher = torch.from_numpy(one.users[probes]).to(users.device) @ self.teachers[k].T
        if self.settings.recommendation and self.settings.labels == "merged":
            first = self._first_users(k, probes) @ self.origin[k].T
        if self.settings.mask_self:
            own = self._own(k, probes).to(users.device)
            student = student.masked_fill(own, -torch.inf)
            teacher = None if teacher is None else teacher.masked_fill(own, -torch.inf)
            first = None if first is None else first.masked_fill(own, -torch.inf)
        return Logits(student, teacher, first)

    def _own(self, k: int, probes: NDArray[np.int64]) -> Tensor:
        """[n, m] bool: items with the text of one in the probe."""
        text = self.tokens[k].text
        histories = self.domains[k].probes.histories
        return torch.from_numpy(
            np.stack([np.isin(text, text[histories[probe]]) for probe in probes.tolist()])
        )

    def _first_users(self, k: int, probes: NDArray[np.int64]) -> Tensor:
        """The initial model's vectors of pseudo-users that are single items."""
        rows = [int(self.domains[k].probes.histories[probe][-1]) for probe in probes.tolist()]
        return self.origin[k][rows]

    def _look(self, w: Tensor, step: int) -> None:
        """The merged model's vectors of all items, without gradients."""
        if step == 0 and self.first is not None:
            made = self.first
        else:
            with torch.no_grad():
                self.place(w)
                made = [self.student.encode_items(one.catalogue) for one in self.domains]
            if step == 0:
                self.first = made
        device = next(self.student.model.parameters()).device
        self.views = [torch.from_numpy(vectors).to(device) for vectors in made]
        self.made_at = step

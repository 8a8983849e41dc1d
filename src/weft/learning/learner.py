"""The learning step of MergeRec: a merged model that shall rank catalogues as its parts do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.data.domain import Catalogue
from weft.errors import DataError
from weft.learning.groups import Groups
from weft.learning.objectives import Logits
from weft.learning.optimise import Descent, LearnedCoefficients, LearningRun, minimise
from weft.learning.probes import Probes
from weft.learning.settings import CollaborativeSettings
from weft.recommenders.text.bi_encoder import BiEncoder
from weft.text import concatenate_rows
from weft.training.batches import seed_of


@dataclass(frozen=True, eq=False)
class TeacherView:
    """What one domain gives to the learning: its items, its probes, and both as its own model sees
    them: unit vectors `items` [m, d] and `users` [p, d] float32.

    Raises `DataError` for vectors that are not finite.
    """

    name: str
    catalogue: Catalogue
    probes: Probes
    items: NDArray[np.float32]
    users: NDArray[np.float32]

    def __post_init__(self) -> None:
        for what, vectors in (("items", self.items), ("pseudo-users", self.users)):
            if not np.isfinite(vectors).all():
                raise DataError(f"the model of '{self.name}' gives {what} vectors of NaN")


@dataclass(frozen=True, eq=False)
class Student:
    """The merged model. `set_weights` puts θ(w) of coefficients w [K, G] into it; `groups` says
    which of the G each tensor gets."""

    recommender: BiEncoder
    set_weights: Callable[[Tensor], None]
    groups: Groups

    @property
    def device(self) -> torch.device:
        return next(self.recommender.model.parameters()).device


class CollaborativeLearner:
    """Moves a student's merging weights until it ranks as the domains' own models do."""

    def __init__(
        self,
        student: Student,
        domains: Sequence[TeacherView],
        settings: CollaborativeSettings,
        seed: int,
    ) -> None:
        self.student, self.domains, self.settings, self.seed = student, domains, settings, seed
        reader = student.recommender
        self.tokens = [reader.tokens(one.catalogue) for one in domains]
        self.inputs = concatenate_rows(
            [
                reader.assemble_histories(tokens, one.probes.histories)
                for tokens, one in zip(self.tokens, domains, strict=True)
            ]
        )
        sizes = [len(one.probes) for one in domains]
        self.domain_of = np.repeat(np.arange(len(sizes)), sizes)
        self.row_of = np.concatenate([np.arange(size) for size in sizes])
        random = np.random.Generator(np.random.PCG64(seed_of(seed, "held out")))
        order = random.permutation(len(self.domain_of))
        held = min(settings.held_out, len(order) // 10)
        self.held_out, self.learning = np.sort(order[:held]), order[held:]
        self.objective = settings.objective()
        self.teacher_items = [torch.from_numpy(one.items).to(student.device) for one in domains]
        self.items: list[Tensor] = []  # of each domain, [m, d], by the merged model
        self.first_items: list[Tensor] = []  # the same before anything was learned
        self.encoded_at = -1  # the step that `items` are of

    def learn(self, key: str = "", run: LearningRun | None = None) -> LearnedCoefficients:
        """Learn from the settings' start; see `minimise` for `key` and `run`."""
        start = torch.tensor(self.settings.start(len(self.domains)))
        initial = start[:, None].repeat(1, len(self.student.groups)).to(self.student.device)
        self.begin(initial)
        run = run or LearningRun()
        if self.settings.refresh:  # item vectors depend on the steps before, and aren't stored
            run = LearningRun(report=run.report)
        descent = Descent(self.settings.steps, self.settings.learning_rate)
        watch = self.held_out_objective if len(self.held_out) else None
        return minimise(initial, self.loss, descent, watch, key=key, run=run)

    def begin(self, initial: Tensor) -> None:
        """Encode all items by the model of the initial coefficients [K, G]."""
        self._encode_items(initial, 0)
        self.first_items = self.items

    def loss(self, w: Tensor, step: int) -> Tensor:
        """Mean of the objective over the step's pseudo-users."""
        every = self.settings.refresh
        if every and step and step % every == 0 and self.encoded_at != step:
            self._encode_items(w.detach(), step)
        self.student.set_weights(w)
        return self.objective_of(self.rows(step)).mean()

    def rows(self, step: int) -> NDArray[np.int64]:
        """The pseudo-users of a step: all in random order, again and again."""
        count, size = len(self.learning), self.settings.batch
        places = np.arange(step * size, (step + 1) * size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in np.unique(places // count).tolist():
            random = np.random.Generator(np.random.PCG64(seed_of(self.seed, "epoch", epoch)))
            here = places // count == epoch
            rows[here] = self.learning[random.permutation(count)[places[here] % count]]
        return rows

    def held_out_objective(self, w: Tensor) -> float:
        """Mean of the objective over the held-out pseudo-users."""
        total = 0.0
        with torch.no_grad():
            self.student.set_weights(w)
            for start in range(0, len(self.held_out), self.settings.batch):
                rows = self.held_out[start : start + self.settings.batch]
                total += float(self.objective_of(rows).sum())
        return total / len(self.held_out)

    def objective_of(self, rows: NDArray[np.int64]) -> Tensor:
        """The objective [n] of some pseudo-users, by the weights that were last set; grouped by
        domain."""
        users = self.student.recommender.embed(self.inputs, rows)
        values = []
        for k in np.unique(self.domain_of[rows]).tolist():
            here = np.flatnonzero(self.domain_of[rows] == k)
            values.append(self.objective(self._logits(k, self.row_of[rows[here]], users[here])))
        return torch.cat(values)

    def _logits(self, k: int, probes: NDArray[np.int64], users: Tensor) -> Logits:
        """Rows of student and teacher for some pseudo-users of domain k: formed when needed."""
        one = self.domains[k]
        student = users @ self.items[k].T
        teacher = first = None
        if self.settings.needs_teachers:
            teacher = torch.from_numpy(one.users[probes]).to(users.device) @ self.teacher_items[k].T
        if self.settings.recommendation and self.settings.labels == "merged":
            first = self._first_users(k, probes) @ self.first_items[k].T
        if self.settings.mask_self:
            in_probe = self._items_of_probes(k, probes).to(users.device)
            student = student.masked_fill(in_probe, -torch.inf)
            teacher = None if teacher is None else teacher.masked_fill(in_probe, -torch.inf)
            first = None if first is None else first.masked_fill(in_probe, -torch.inf)
        return Logits(student, teacher, first)

    def _items_of_probes(self, k: int, probes: NDArray[np.int64]) -> Tensor:
        """[n, m] bool: items with the text of one in the probe."""
        text = self.tokens[k].text
        histories = self.domains[k].probes.histories
        return torch.from_numpy(
            np.stack([np.isin(text, text[histories[probe]]) for probe in probes.tolist()])
        )

    def _first_users(self, k: int, probes: NDArray[np.int64]) -> Tensor:
        """The initial model's vectors of pseudo-users that are single items."""
        rows = [int(self.domains[k].probes.histories[probe][-1]) for probe in probes.tolist()]
        return self.first_items[k][rows]

    def _encode_items(self, w: Tensor, step: int) -> None:
        """The merged model's vectors of all items, without gradients."""
        with torch.no_grad():
            self.student.set_weights(w)
            vectors = [self.student.recommender.encode_items(one.catalogue) for one in self.domains]
        self.items = [torch.from_numpy(one).to(self.student.device) for one in vectors]
        self.encoded_at = step

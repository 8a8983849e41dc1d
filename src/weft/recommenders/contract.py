"""What a recommender is: the one contract that all code outside of this room relies on.

A recommender scores the items of a catalogue for histories. To add one, write a class below
`Recommender` (or `BackboneRecommender`, `TextRecommender`), its settings below
`RecommenderSettings`, and one line in `weft.recommenders.kinds`. It is then trained, evaluated,
published, loaded and asked by the same calls as every other one. Only `score` must be written;
everything else has a default, which its docstring states.

    settings       what it was configured with                 `settings_type`, `settings`
    catalogue      the items that it scores                    `catalogue`, `use`, `unread_items`
    scoring        items for histories                         `score`, `top_k`, `top_k_of_titles`
    training       fitted, by gradients, or both               `prepare`, `model`, `loss`, `lengths`
    storing        weights and files that travel with them     `write`, `read`, `files`, `weights_hash`
    reporting      what happened, what it reads                `tally`, `notes`, `reading`, `on_read`
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from weft.artifacts.atomic import write_json
from weft.artifacts.hashing import hash_json
from weft.artifacts.travelling import MANIFEST, file_hashes
from weft.data.domain import Catalogue, Examples, IntArray
from weft.errors import SettingError
from weft.recommenders.model_file import model_hash, read_model, write_model
from weft.recommenders.ranking import Ranking, best, rows_with_titles
from weft.settings import StrictModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weft.recommenders.equipped import EquippedBackbone

Histories = Sequence[IntArray]
"""Item indices of each history, oldest first."""


class RecommenderSettings(StrictModel):
    """The `recommender:` block of a recipe, and of a folder's weft.json. A subclass names its `kind`
    as a literal with that literal as default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    SHORTENING: ClassVar[frozenset[str]] = frozenset()
    """The settings whose defaults keep a study short, so that a report names them."""

    kind: str

    @property
    def ranks_catalogues(self) -> bool:
        """Whether a whole catalogue can be ranked. Default: yes."""
        return True

    @property
    def ranks_catalogues_by_default(self) -> bool:
        """Whether it is ranked unless somebody asks for something else: where it can be, and is not
        far more work than a few candidates."""
        return self.ranks_catalogues

    def for_training(self) -> Self:
        """The same with every setting at its default that training does not look at. Default: all
        matter."""
        return self

    @property
    def reads_items_once(self) -> bool:
        """Whether an item's text is read once for all users, not anew for each. Default: no."""
        return False

    @property
    def pace(self) -> str:
        """Recommenders of one pace take about as long for a user: the kind, and what else decides."""
        return self.kind

    def guesses_among(self, batch: int) -> int | None:
        """Among how many items training's cross entropy picks one, in batches of so many examples:
        an untrained model's loss is the logarithm of it. None (the default): it picks none."""
        return None

    @property
    def guesses_in_batch(self) -> bool:
        """Whether `guesses_among` follows the size of each batch, also of a smaller last one."""
        return False


@dataclass(frozen=True)
class ReadingProgress:
    """What was read just now, while somebody waits: `count` more of `total` texts of items, or of
    histories. Item vectors that are computed begin with a count of 0."""

    what: Literal["items", "histories"]
    count: float
    total: int


OnRead = Callable[[ReadingProgress], None]


class Recommender(ABC):
    """A way to score the items of one catalogue at a time for histories, seen in training or not."""

    settings_type: ClassVar[type[RecommenderSettings]]
    """The class of its settings."""

    needs_backbone: ClassVar[bool] = False
    """Whether it is built on a pretrained language model; see `BackboneRecommender`."""

    reads_history: ClassVar[bool] = True
    """Whether a history decides what is suggested; false for a floor like popularity."""

    reads_text: ClassVar[bool] = False
    """Whether it can read a title that is no item's. If not, only items count in a history."""

    about: ClassVar[str] = ""
    """A sentence for people that goes with every answer."""

    files: ClassVar[tuple[str, ...]] = ()
    """Names of files that travel with its weights wherever they go: codebooks, tables of ids, counts.
    `write_files` and `read_files` are theirs. On a backbone, a study's `prepare` learns them once, of
    all domains, for all branches."""

    model: nn.Module | None = None
    """The module whose parameters with `requires_grad` are trained by gradients. None: `prepare`
    has fitted all there is."""

    checkpoints_gradients: bool = True
    """Whether training may compute activations again in place of holding them."""

    cache: Path | None = None
    """A folder for what is slow to compute and follows from the weights (item vectors); it may be
    deleted at any time. None: nothing is stored."""

    seed: int = 0
    """Of weights that `prepare` initialises."""

    device: str = "cpu"
    """Where a model without a backbone is to live: cpu, cuda, cuda:0, …"""

    on_read: OnRead | None = None
    """Called while it scores: a person waits."""

    def __init__(self, settings: RecommenderSettings, catalogue: Catalogue | None = None) -> None:
        self.settings = settings
        self._catalogue = catalogue
        self.tally: Counter[str] = Counter()
        """What happened while scoring, counted, for a report."""

    # --- the catalogue

    @property
    def catalogue(self) -> Catalogue:
        """The items that are scored; a `WeftError` where none was named yet."""
        if self._catalogue is None:
            raise SettingError(
                "this recommender was opened without a catalogue; give it one to score items: use(catalogue)"
            )
        return self._catalogue

    def use(self, catalogue: Catalogue) -> None:
        """Score this catalogue from now on."""
        self._catalogue = catalogue

    def unread_items(self) -> NDArray[np.bool_]:
        """[items]: items of which it knows nothing, so that they are never suggested. Default: none."""
        return np.zeros(len(self.catalogue), dtype=bool)

    # --- scoring

    @abstractmethod
    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """Scores, higher is better: [n, c] for `candidates` [n, c], or [n, items] without them.

        Items of equal text get equal bits, so that a tie is a tie.
        """

    def top_k(self, histories: Histories, k: int, *, mask_history: bool = True) -> Ranking:
        """The k best items of the whole catalogue for each history."""
        return best(self.score(histories), k, histories if mask_history else None)

    def top_k_of_titles(
        self, histories: Sequence[Sequence[str]], k: int, *, mask_history: bool = True
    ) -> Ranking:
        """`top_k` for histories of raw titles, oldest first. Default: each title stands for the
        catalogue's items of this title, and one that is no item's is passed over."""
        rows = rows_with_titles(self.catalogue, histories)
        return best(self.score(rows), k, rows if mask_history else None)

    @property
    def reads_whole_items(self) -> bool:
        """Whether more is read of an item in a history than its title, so that a history of items is
        to be scored by `score` and not by `top_k_of_titles`. Default: yes."""
        return True

    # --- training

    def prepare(self, train: Sequence[Examples]) -> None:  # noqa: B027
        """Before training: look at the whole training part of each domain's split. What is fitted
        and not trained by gradients does all of its work here, from the interactions that are `seen`
        in a training part. Default: nothing."""

    def training_examples(self, train: Examples) -> Examples:
        """Those of a training part that examples are drawn from. One that learns from every position
        in one pass takes each user's last. Default: all."""
        return train

    def loss(self, batch: Examples) -> Tensor:
        """Scalar, mean over a batch of one domain, whose catalogue is `batch.domain.items`. Needed where
        there is a `model`."""
        raise SettingError(f"a {self.settings.kind} is not trained by gradients")

    def lengths(self, examples: Examples) -> NDArray[np.int64]:
        """[n] int64: how long each example's input is, in tokens; batches are grouped by it.
        Default: zeros, no grouping."""
        return np.zeros(len(examples), dtype=np.int64)

    # --- storing

    @property
    def weights_hash(self) -> str:
        """Of everything trained or fitted that decides scores. Default: of the model and of the
        files that travel with it."""
        model = None if self.model is None else model_hash(self.model)
        return self._hashed_with_files(hash_json([self.settings.kind, model]))

    def _hashed_with_files(self, weights: str) -> str:
        """A hash of weights, and of `files` where there are any."""
        if not self.files:
            return weights
        with TemporaryDirectory() as folder:
            self.write_files(Path(folder))
            return hash_json([weights, file_hashes(Path(folder), self.files)])

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Write what was trained, and the files that travel with it, into an existing folder.

        `manifest` is what else weft.json is to hold: `recommender` (a settings block), `split`,
        domains, data, versions.
        """
        values = {"recommender": self.settings.model_dump(mode="json"), **manifest}
        write_json(folder / MANIFEST, {**self.with_files(folder, values), "kind": "recommender"})
        if self.model is not None:
            write_model(self.model, folder)

    def read(self, folder: Path) -> None:
        """Take over what `write` wrote. The files come first: a model's shapes may follow from
        them."""
        self.read_files(folder)
        if self.model is not None:
            read_model(self.model, folder)

    def write_files(self, folder: Path) -> None:  # noqa: B027
        """Write `files` into an existing folder."""

    def read_files(self, folder: Path) -> None:  # noqa: B027
        """Take over `files` from a folder: a trained recommender's, or one that has only them (an
        earlier stage that learned the codebooks)."""

    def with_files(self, folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write `files`; the manifest with their hashes."""
        self.write_files(folder)
        hashes = {"artifacts": file_hashes(folder, self.files)} if self.files else {}
        return {**manifest, **hashes}

    # --- reporting

    @property
    def notes(self) -> list[str]:
        """Sentences for people about what happened while it scored."""
        return []

    def reading(self, users: int) -> tuple[int, str]:
        """(how much there is to read for so many users, its unit)."""
        return users, "users"

    def reading_alone(
        self, items: IntArray, histories: Histories
    ) -> tuple[Callable[[], object], Callable[[], object]] | None:
        """Work to be timed: reading these items, and these histories, each by itself. None, the
        default: they are read together."""
        return None

    def _has_read(self, what: Literal["items", "histories"], count: float, total: int) -> None:
        if self.on_read is not None:
            self.on_read(ReadingProgress(what, count, total))


class BackboneRecommender(Recommender):
    """A recommender on a pretrained language model.

    Every one has the constructor (equipped backbone, settings, catalogue). It adds its own modules to
    the model, if it has any, and then calls `equipped.equip(modules)`. The backbone's model is
    changed in place and belongs to this object from then on.
    """

    needs_backbone = True

    backbone_head: ClassVar[Literal["none", "causal"]] = "none"
    """Which head the backbone is loaded with."""

    opens_light: ClassVar[bool] = False
    """Whether its model may be one that starts sooner, with the same bits."""

    trains_whole: ClassVar[bool] = False
    """Whether all of the backbone's parameters can be trained."""

    integrates: ClassVar[bool] = False
    """Whether it reads the last hidden states by `equipped.hidden`, so that integrated adapters can
    give them."""

    model: nn.Module

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: RecommenderSettings,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__(settings, catalogue)
        if equipped.integrated and not self.integrates:
            raise SettingError(f"a {settings.kind} recommender can't score through an integrator")
        self.equipped = equipped
        self.backbone = equipped.backbone
        self.model = equipped.backbone.model
        self.checkpoints_gradients = equipped.checkpoints_gradients

    def whole_modules(self) -> Mapping[str, nn.Module]:
        """The modules that it adds to the backbone's model, by name: trained and saved whole.
        Default: none."""
        return {}

    @property
    def attached(self) -> Mapping[str, Any]:
        """The LoRA linears that are trained, by module; empty where none are."""
        return self.equipped.attached

    @property
    def in_training(self) -> bool:
        """Whether weights may still move."""
        return self.equipped.in_training

    @property
    def weights_hash(self) -> str:
        return self._hashed_with_files(self.equipped.weights_hash)

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        values = {
            "backbone": self.backbone.identity,
            "recommender": self.settings.model_dump(mode="json"),
            **manifest,
        }
        self.equipped.write(folder, self.with_files(folder, values), self.whole_modules())

    def read(self, folder: Path) -> None:
        """The weights came with the backbone; what travels with them is taken over."""
        self.read_files(folder)

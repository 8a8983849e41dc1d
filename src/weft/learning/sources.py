"""From trained parts and catalogues to learned merging weights and the recipe that has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from weft.adapters import check_backbone
from weft.artifacts.atomic import read_json
from weft.artifacts.hashing import hash_json
from weft.backbones import Precision, load_backbone
from weft.backbones.load import dtype_of, fingerprint_of
from weft.data.domain import Catalogue, IntArray
from weft.errors import WeftError
from weft.learning.adapters import check_adapters, weighted_adapters
from weft.learning.collaborative import CollaborativeSettings, Learner, Taught
from weft.learning.groups import Groups, make_groups
from weft.learning.learn import Learned
from weft.learning.probes import Probes, make_probes
from weft.learning.vectors import Place, split, weighted
from weft.merging.job import Job
from weft.merging.merge import plan_merge
from weft.merging.methods import make_method
from weft.merging.parts import Base, Part
from weft.merging.vocabulary.rules import ROWS, TokenizerRules
from weft.recommenders.bi_encoder import BiEncoder, BiEncoderSettings
from weft.recommenders.kinds import make_recommender
from weft.training.batches import seed_of

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Collaborated:
    """Learned weights: what `plan_merge` takes as `weights`, and how it went."""

    specs: list[Any]
    groups: Groups
    learned: Learned
    notes: tuple[str, ...] = ()

    def said(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "weights": self.specs,
            "groups": list(self.groups.labels),
            "coefficients": self.learned.coefficients,
            "curve": self.learned.curve,
            "kept_step": self.learned.kept_step,
            "stopped": self.learned.stopped,
            "notes": list(self.notes),
        }


def learn_collaborative(
    parts: Sequence[Part],
    catalogues: Sequence[Catalogue],
    recommender: BiEncoderSettings,
    settings: CollaborativeSettings | None = None,
    *,
    base: Base | None = None,
    backbone: str | None = None,
    labels: Sequence[str | None] | None = None,
    union: bool = False,
    one_backbone: str | None = None,
    tokenizer: TokenizerRules | None = None,
    seed: int = 0,
    popularity: Sequence[IntArray] | None = None,
    precision: Precision = "auto",
    device: str = "cpu",
    cache: Path | None = None,
    checkpoints: Path | None = None,
    report: Callable[[int, int, float], None] | None = None,
) -> Collaborated:
    """Learn the weights that merge K trained parts into one recommender for K domains.

    Part k was trained on the domain of catalogue k: a folder of a checkpoint, or an adapter (a
    folder or an `Adapter`). Checkpoints need their `base`, a folder; adapters the `backbone` that
    they name. `union`, `tokenizer` and `one_backbone` are `union`, `tokenizer` (rows alone) and
    `backbone` of `weft.merge`. `popularity` [items] of each catalogue is only for `probes: {choose: popular}`.
    Nothing else about users can be given. With `cache`, a folder, item vectors of the parts are
    kept there; with `checkpoints`, a killed call goes on where it was.

    Items without text are left out of the learning. Raises `WeftError` for parts that don't fit,
    a catalogue with fewer than two items that have text, a model whose vectors are not finite.
    """
    settings = settings or CollaborativeSettings()
    sources = open_sources(
        parts, recommender, settings, base=base, backbone=backbone, labels=labels, union=union,
        one_backbone=one_backbone, tokenizer=tokenizer, precision=precision, device=device,
        cache=cache,
    )  # fmt: skip
    return _learn(
        sources, catalogues, settings, seed, popularity=popularity, checkpoints=checkpoints,
        report=report,
    )  # fmt: skip


def open_sources(
    parts: Sequence[Part],
    recommender: BiEncoderSettings,
    settings: CollaborativeSettings,
    *,
    base: Base | None = None,
    backbone: str | None = None,
    labels: Sequence[str | None] | None = None,
    union: bool = False,
    one_backbone: str | None = None,
    tokenizer: TokenizerRules | None = None,
    precision: Precision = "auto",
    device: str = "cpu",
    cache: Path | None = None,
) -> Sources:
    """The parts of `learn_collaborative`, opened and checked."""
    if tokenizer is not None and tokenizer.source != ROWS:
        raise WeftError(
            "weights are learned of parts with one vocabulary: --learn takes no --tokenizer but rows"
        )
    job = plan_merge(
        parts,
        settings.method,
        None,
        base=base,
        labels=labels,
        union=union,
        backbone=one_backbone,
        tokenizer=tokenizer,
    )
    return Sources(job, base, backbone, recommender, precision, device, cache)


def learn_from_sequences(
    sources: Sources,
    catalogues: Sequence[Catalogue],
    sequences: Sequence[Probes],
    settings: CollaborativeSettings,
    seed: int,
    *,
    checkpoints: Path | None = None,
    report: Callable[[int, int, float], None] | None = None,
) -> Collaborated:
    """As `learn_collaborative`, but from real users' sequences, rows of the catalogues: a control
    of what doing without them costs."""
    return _learn(
        sources, catalogues, settings, seed, probes=sequences, checkpoints=checkpoints,
        report=report,
    )  # fmt: skip


def _learn(
    sources: Sources,
    catalogues: Sequence[Catalogue],
    settings: CollaborativeSettings,
    seed: int,
    *,
    popularity: Sequence[IntArray] | None = None,
    probes: Sequence[Probes] | None = None,
    checkpoints: Path | None,
    report: Callable[[int, int, float], None] | None,
) -> Collaborated:
    count = len(sources.labels)
    if len(catalogues) != count:
        raise WeftError(
            f"{count} parts need {count} catalogues, one each in the same order, "
            f"not {len(catalogues)}"
        )
    notes: list[str] = []
    domains = []
    for k, catalogue in enumerate(catalogues):
        kept = _with_text(catalogue, sources.recommender)
        name = sources.labels[k]
        if len(kept) < 2:
            raise WeftError(
                f"the catalogue of '{name}' has {len(kept)} item{'s' * (len(kept) != 1)} with "
                "text, and ranking takes two"
            )
        if len(kept) < len(catalogue):
            notes.append(f"{len(catalogue) - len(kept)} items of '{name}' have no text: left out")
        counts = None if popularity is None else np.asarray(popularity[k])[kept]
        given = None if probes is None else _among(probes[k], kept, len(catalogue))
        if len(kept) < len(catalogue):
            catalogue = Catalogue(catalogue.frame[kept])
        taught = sources.taught(k, catalogue, settings, seed_of(seed, k), counts, given)
        domains.append(taught)
    return collaborate(
        sources, domains, settings, seed, tuple(notes), checkpoints=checkpoints, report=report
    )


def _among(probes: Probes, kept: IntArray, count: int) -> Probes:
    """The probes in rows of the items that were kept; those left with no item go."""
    place = np.full(count, -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    rows = [place[history] for history in probes.histories]
    return Probes(tuple(row[row >= 0] for row in rows if (row >= 0).any()))


def collaborate(
    sources: Sources,
    domains: Sequence[Taught],
    settings: CollaborativeSettings,
    seed: int,
    notes: tuple[str, ...] = (),
    *,
    checkpoints: Path | None = None,
    report: Callable[[int, int, float], None] | None = None,
) -> Collaborated:
    """`learn_collaborative` with the domains already taught."""
    with sources.student(settings) as (student, place, groups):
        learner = Learner(student, place, domains, settings, seed)
        told = [[one.probes.hash, student.tokens(one.catalogue).hash] for one in domains]
        own = [sources.key, student.backbone.fingerprint, str(dtype_of(sources.precision))]
        key = hash_json([own, settings.model_dump(mode="json"), seed, told])
        learned = learner.run(groups, checkpoints=checkpoints, key=key, report=report)
    stopped = (learned.stopped,) if learned.stopped else ()
    return Collaborated(groups.specs(learned.coefficients), groups, learned, (*notes, *stopped))


def _with_text(catalogue: Catalogue, recommender: BiEncoderSettings) -> Any:
    from weft.text import item_texts

    texts = item_texts(catalogue, recommender.text.model_copy(update={"keys": False}))
    return np.flatnonzero(pl.Series(texts, dtype=pl.String).str.len_chars().to_numpy() > 0)


@dataclass(frozen=True, eq=False)
class Sources:
    """The parts of a merge as teachers, and as one student."""

    job: Job
    base: Base | None
    backbone: str | None
    recommender: BiEncoderSettings
    precision: Precision
    device: str
    cache: Path | None

    def __post_init__(self) -> None:
        if self.job.parts.kind == "tensors":
            raise WeftError("learning needs parts that are folders of checkpoints, or adapters")
        if self.job.parts.kind == "checkpoints" and not isinstance(self.base, str | Path):
            raise WeftError("learning merging weights of checkpoints needs their base, a folder")
        if self.job.parts.kind == "adapters":
            if self.backbone is None:
                raise WeftError(
                    "learning merging weights of adapters needs their backbone (backbone)"
                )
            if self.job.method != make_method("task_arithmetic"):
                raise WeftError("of adapters the weights of task_arithmetic can be learned: a sum")
        else:  # before minutes of encoding, not after them
            paths = [path for path in self.job.parts.paths if path is not None]
            _check_tokenizers([Path(str(self.base)), *paths])

    @property
    def labels(self) -> Sequence[str]:
        return self.job.parts.labels

    @property
    def key(self) -> str:
        """Of the parts' contents."""
        parts = self.job.parts
        if parts.kind == "adapters":
            return hash_json([one.weights_hash for one in parts.adapters])
        return hash_json([fingerprint_of(path) for path in parts.paths if path is not None])

    def taught(
        self,
        k: int,
        catalogue: Catalogue,
        settings: CollaborativeSettings,
        seed: int,
        popularity: IntArray | None = None,
        probes: Probes | None = None,
    ) -> Taught:
        """What part k says about its catalogue, and the pseudo-users that it is asked about."""
        teacher = self.teacher(k, catalogue)
        items = teacher.item_vectors
        if probes is None:
            probes = make_probes(items, settings.probes, seed, popularity=popularity)
        lengths = {len(history) for history in probes.histories}
        if lengths == {1}:
            users = items[[int(history[0]) for history in probes.histories]]
        else:
            tokens = teacher.tokens(catalogue)
            users = teacher.encode(teacher.assemble_histories(tokens, probes.histories))
        return Taught(self.labels[k], catalogue, probes, items, users)

    def teacher(self, k: int, catalogue: Catalogue) -> BiEncoder:
        parts = self.job.parts
        how: dict[str, Any] = {
            "precision": self.precision, "device": self.device, "cache": self.cache,
        }  # fmt: skip
        if parts.kind == "adapters":
            assert self.backbone is not None
            made = make_recommender(
                self.backbone, self.recommender, catalogue, adapter=parts.adapters[k], **how
            )
        else:
            path = parts.paths[k]
            if path is None or not path.is_dir():
                raise WeftError(f"part '{self.labels[k]}' is no folder of a model")
            made = make_recommender(str(path), self.recommender, catalogue, **how)
        assert isinstance(made, BiEncoder)
        return made

    @contextmanager
    def student(self, settings: CollaborativeSettings) -> Iterator[tuple[BiEncoder, Place, Groups]]:
        """The merged model, what places coefficients in it, and their groups."""
        dtype = dtype_of(self.precision)
        parts = self.job.parts
        if parts.kind == "adapters":
            assert self.backbone is not None
            loaded = load_backbone(self.backbone, precision=self.precision, device=self.device)
            for adapter in parts.adapters:
                check_backbone(adapter, loaded.name, loaded.fingerprint)
            check_adapters(loaded.model, parts.adapters)
            groups = make_groups(settings.weights, parts.adapters[0].factors)
            student = BiEncoder(loaded, self.recommender)
            with weighted_adapters(loaded.model, parts.adapters, groups) as place:
                yield student, place, groups
            return
        assert self.job.base is not None
        loaded = load_backbone(str(self.base), precision="float32", device=self.device)
        vectors = split(parts.sources, self.job.method, self.job.base, dtype)
        vectors = {name: held.to(self.device) for name, held in vectors.items()}
        groups = make_groups(settings.weights, vectors)
        student = BiEncoder(loaded, self.recommender)
        with weighted(loaded.model, vectors, groups, dtype) as place:
            yield student, place, groups


def _check_tokenizers(folders: Sequence[Path]) -> None:
    """A `WeftError` for models that read text in other ways: their weights don't belong together."""
    said = {folder: _tokenizer(folder) for folder in folders}
    first = next((folder for folder, found in said.items() if found is not None), None)
    for folder, found in said.items():
        if first is not None and found is not None and found != said[first]:
            raise WeftError(f"{folder} has another tokenizer than {first}: they can't be merged")


def _tokenizer(folder: Path) -> Any:
    """What decides how text becomes tokens; None where the folder has no tokenizer.json."""
    if not (folder / TOKENIZER).is_file():
        return None
    said = read_json(folder / TOKENIZER)
    parts = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")
    return [said.get(part) for part in parts] if isinstance(said, dict) else said

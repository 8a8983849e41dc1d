"""The parts of a planned merge as models: each as a teacher, and all together as one student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from weft.errors import MismatchError, NotFoundError, SettingError
from weft.learning.adapters import check_learnable, weighted_adapters
from weft.learning.groups import Grouping, make_groups
from weft.learning.learner import Student, TeacherView
from weft.learning.probes import Probes
from weft.learning.task_vectors import task_vectors, weighted_model
from weft.merging.methods import make_method
from weft.merging.plan import MergePlan
from weft.merging.vocabulary.rules import ROWS
from weft.recommenders.equipped import PlainBackbone
from weft.recommenders.kinds import make_recommender
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings
from weft.text import item_texts

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Reading:
    """How the parts of a merge read items, and where they compute.

    `backbone` is what adapters were trained on; checkpoints have none. With `cache`, a folder, item
    vectors of the parts are stored there for the next call.
    """

    recommender: BiEncoderSettings = field(default_factory=BiEncoderSettings)
    backbone: str | None = None
    precision: Precision = "auto"
    device: str = "cpu"
    cache: Path | None = None

    def items_with_text(self, catalogue: Catalogue) -> IntArray:
        """Rows [n] of the items that have any text to read."""
        texts = item_texts(catalogue, self.recommender.text.model_copy(update={"keys": False}))
        lengths = pl.Series(texts, dtype=pl.String).str.len_chars().to_numpy()
        return np.flatnonzero(lengths > 0)


@dataclass(frozen=True, eq=False)
class PartModels:
    """The parts of a planned merge, with the way in which they read items.

    Raises `SettingError` for parts whose weights can't be learned, `MismatchError` for parts that
    read text in unlike ways.
    """

    plan: MergePlan
    reading: Reading

    def __post_init__(self) -> None:
        plan, parts = self.plan, self.plan.parts
        if plan.tokenizer is not None and plan.tokenizer.source != ROWS:
            raise SettingError("weights are learned of parts with one vocabulary (tokenizer: rows)")
        if parts.kind == "tensors":
            raise SettingError("learning needs parts that are folders of checkpoints, or adapters")
        if parts.kind == "checkpoints":  # before minutes of encoding, not after them
            if plan.base_path is None:
                raise SettingError(
                    "learning merging weights of checkpoints needs their base, a folder"
                )
            _check_tokenizers([plan.base_path, *(path for path in parts.paths if path)])
        elif self.reading.backbone is None:
            raise SettingError(
                "learning merging weights of adapters needs their backbone (backbone)"
            )
        elif plan.method != make_method("task_arithmetic"):
            raise SettingError("of adapters the weights of task_arithmetic can be learned: a sum")

    @property
    def labels(self) -> Sequence[str]:
        return self.plan.parts.labels

    @property
    def key(self) -> str:
        """Of the parts' contents."""
        parts = self.plan.parts
        if parts.kind == "adapters":
            return hash_json([one.weights_hash for one in parts.adapters])
        return hash_json([fingerprint_of(path) for path in parts.paths if path is not None])

    def teacher(self, k: int, catalogue: Catalogue) -> BiEncoder:
        """Part k as it was trained, for a catalogue."""
        parts, reading = self.plan.parts, self.reading
        adapter, place = None, reading.backbone
        if parts.kind == "adapters":
            adapter = parts.adapters[k]
        else:
            path = parts.paths[k]
            if path is None or not path.is_dir():
                raise NotFoundError(f"part '{self.labels[k]}' is no folder of a model")
            place = str(path)
        assert place is not None
        teacher = make_recommender(
            place,
            reading.recommender,
            catalogue,
            adapter=adapter,
            precision=reading.precision,
            device=reading.device,
        )
        teacher.cache = reading.cache
        assert isinstance(teacher, BiEncoder)
        return teacher

    def view(self, k: int, teacher: BiEncoder, catalogue: Catalogue, probes: Probes) -> TeacherView:
        """What part k's `teacher` makes of its catalogue and of the pseudo-users."""
        items = teacher.item_vectors
        lengths = {len(history) for history in probes.histories}
        if lengths == {1}:
            users = items[[int(history[0]) for history in probes.histories]]
        else:
            tokens = teacher.tokens(catalogue)
            users = teacher.encode(teacher.assemble_histories(tokens, probes.histories))
        return TeacherView(self.labels[k], catalogue, probes, items, users)

    @contextmanager
    def student(self, grouping: Grouping) -> Iterator[Student]:
        """The merged model, whose weights can be set as long as the context is open."""
        if self.plan.parts.kind == "adapters":
            with self._student_of_adapters(grouping) as student:
                yield student
        else:
            with self._student_of_checkpoints(grouping) as student:
                yield student

    @contextmanager
    def _student_of_adapters(self, grouping: Grouping) -> Iterator[Student]:
        adapters, reading = self.plan.parts.adapters, self.reading
        assert reading.backbone is not None
        loaded = load_backbone(reading.backbone, precision=reading.precision, device=reading.device)
        for adapter in adapters:
            check_backbone(adapter, loaded.name, loaded.fingerprint)
        check_learnable(loaded.model, adapters)
        groups = make_groups(grouping, adapters[0].factors)
        recommender = BiEncoder(PlainBackbone(loaded), reading.recommender)
        with weighted_adapters(loaded.model, adapters, groups) as set_weights:
            yield Student(recommender, set_weights, groups)

    @contextmanager
    def _student_of_checkpoints(self, grouping: Grouping) -> Iterator[Student]:
        plan, reading = self.plan, self.reading
        assert plan.base is not None
        dtype = dtype_of(reading.precision)
        loaded = load_backbone(str(plan.base_path), precision="float32", device=reading.device)
        vectors = task_vectors(plan.parts.sources, plan.method, plan.base, dtype)
        vectors = {name: rows.to(reading.device) for name, rows in vectors.items()}
        groups = make_groups(grouping, vectors)
        recommender = BiEncoder(PlainBackbone(loaded), reading.recommender)
        with weighted_model(loaded.model, vectors, groups, dtype) as set_weights:
            yield Student(recommender, set_weights, groups)


def _check_tokenizers(folders: Sequence[Path]) -> None:
    """Raise `MismatchError` for models that read text in unlike ways: their weights don't belong
    together."""
    tokenizers = {folder: _tokenizer(folder) for folder in folders}
    first = next((folder for folder, one in tokenizers.items() if one is not None), None)
    for folder, one in tokenizers.items():
        if first is not None and one is not None and one != tokenizers[first]:
            raise MismatchError(
                f"{folder} has another tokenizer than {first}: they can't be merged"
            )


def _tokenizer(folder: Path) -> Any:
    """What decides how text becomes tokens; None where the folder has no tokenizer.json."""
    if not (folder / TOKENIZER).is_file():
        return None
    content = read_json(folder / TOKENIZER)
    fields = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")
    return [content.get(one) for one in fields] if isinstance(content, dict) else content

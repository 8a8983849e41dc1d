"""What recommenders share that ask a causal language model about titles."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.adapters import Adapter, LoraSettings
from weft.backbones import Backbone
from weft.data.domain import Catalogue, Examples, IntArray
from weft.errors import WeftError
from weft.recommenders.catalogued import Catalogued, told
from weft.recommenders.equip import equip
from weft.recommenders.lm.model import LanguageModel
from weft.recommenders.protocol import Histories, Ranking, best, rows_with_titles
from weft.text import ItemTokens, TextSettings
from weft.text.prompt import Prompts, title_tokens


class Prompted(Catalogued):
    """A backbone with its causal head, an adapter, a catalogue's title tokens.

    With `adapter` its delta is folded into the weights: for use. With `lora` LoRA linears are
    attached: for training. With neither it is the zero-shot backbone. The backbone's model is
    changed in place and belongs to this object from then on.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: TextSettings,
        catalogue: Catalogue | None,
        adapter: Adapter | None,
        lora: LoraSettings | None,
        lora_seed: int,
        memory: int,
    ) -> None:
        super().__init__(catalogue)
        self.backbone = backbone
        self.model = backbone.model
        self.attached, self._weights = equip(backbone, adapter, lora, lora_seed)
        self.language = LanguageModel(self.model, memory=memory)
        self.counts: Counter[str] = Counter()  # what happened while scoring, for the report
        self._text = text

    @property
    def tokenizer(self) -> Any:
        return self.backbone.tokenizer

    def _tokenize(self, catalogue: Catalogue) -> ItemTokens:
        return title_tokens(self.tokenizer, catalogue, self._text)

    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """[n, c] float32 scores of `candidates` [n, c], or [n, items] without them.

        Users are read one at a time, so batches change no bit, but where settings or the ranker say
        otherwise (`together`, `published`).
        """
        asked = None if candidates is None else np.asarray(candidates, dtype=np.int64)
        return self._scores(self.tokens(self.catalogue), histories, asked)

    @abstractmethod
    def _scores(
        self, tokens: ItemTokens, histories: Histories, candidates: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """`score` for histories that are rows of `tokens`: the catalogue's, then any others."""

    def top_k_of_titles(
        self, histories: Sequence[Sequence[str]], k: int, *, mask_history: bool = True
    ) -> Ranking:
        """`top_k` for histories of raw titles, oldest first, of any catalogue or none.

        With `mask_history`, catalogue items whose title is in the history are left out.
        """
        own = self.tokens(self.catalogue)
        flat, rows = told(histories)
        spoken = title_tokens(self.tokenizer, flat, self._text)
        both = ItemTokens(
            np.concatenate([own.offsets, spoken.offsets[1:] + own.offsets[-1]]),
            np.concatenate([own.ids, spoken.ids]),
        )
        masked = rows_with_titles(self.catalogue, histories) if mask_history else None
        return best(self._scores(both, [row + len(own) for row in rows], None), k, masked)

    def lengths(self, examples: Examples) -> NDArray[np.int64]:
        """[n] int64 zeros: packed batches need no sorting by length."""
        return np.zeros(len(examples), dtype=np.int64)

    def _count(self, made: Prompts) -> None:
        self.counts["prompts"] += len(made.ragged)
        self.counts["prompts with a history cut"] += int((made.history_cut > 0).sum())

    def _titled(self, tokens: ItemTokens) -> NDArray[np.int64]:
        """The catalogue's items that say something."""
        return np.flatnonzero(tokens.lengths[: len(self.catalogue)])

    def _check_titled(
        self, tokens: ItemTokens, items: NDArray[np.int64], catalogue: Catalogue | None = None
    ) -> None:
        empty = tokens.lengths[items] == 0
        if empty.any():
            item = (catalogue or self.catalogue).item_ids[int(items[empty][0])]
            raise WeftError(
                f"item '{item}' has no title, so a language model can't name it; leave such items out "
                "with the domain's filters: {titled: true}"
            )

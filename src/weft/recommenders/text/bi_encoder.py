"""The bi-encoder: history and item through one encoder, scored by cosine.

Both are encoded by the same backbone + LoRA; a history is its items' texts, most recent first
(RecFormer, Li et al., 2023; MergeRec §3). Trained with in-batch negatives: cross entropy over
cosine / temperature, where another row's target that is the same item, or one of the same title,
is no negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from weft.artifacts.hashing import hash_json
from weft.backbones import Backbone
from weft.backbones.blocks import longest_input
from weft.backbones.load import Pooling
from weft.data.domain import Catalogue, Examples, IntArray
from weft.errors import SettingError
from weft.recommenders.contract import Histories
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.item_vectors import computed_by, read_vectors, write_vectors
from weft.recommenders.text.base import TextRecommender, TextRecommenderSettings, by_length
from weft.text import (
    ItemTokens,
    Ragged,
    Structure,
    TextSettings,
    assemble,
    encode_items,
    encode_titles,
    pad,
    spread_values,
)
from weft.text.inputs import KEY, PADDING, START, VALUE

TOKENS_AT_ONCE = 4096  # of one forward pass without gradients: activations stay in the cache


class BiEncoderSettings(TextRecommenderSettings):
    """The `recommender:` block of a recipe."""

    SHORTENING: ClassVar[frozenset[str]] = frozenset({"history_items", "history_tokens"})

    kind: Literal["bi_encoder"] = "bi_encoder"
    text: TextSettings = TextSettings()
    history_items: int = Field(default=5, ge=1, description="at most this many, the most recent")
    history_tokens: int = Field(default=64, ge=8, description="of the whole encoded history")
    temperature: float = Field(default=0.05, gt=0)
    pooling: Pooling | None = Field(
        default=None, description="of tokens' vectors: mean or cls; as the backbone's folder says"
    )

    @property
    def reads_items_once(self) -> bool:
        return True

    def guesses_among(self, batch: int) -> int:
        """The items of the batch."""
        return batch

    @property
    def guesses_in_batch(self) -> bool:
        return True


def structure_of(backbone: Backbone, history_items: int) -> Structure:
    """What stands around and between items: for a RecFormer only its start token.

    Raises a `SettingError` for more items than a RecFormer has positions for.
    """
    kind = getattr(backbone.model.config, "model_type", "")
    if kind != "recformer":
        return Structure.for_tokenizer(backbone.tokenizer)
    config: Any = backbone.model.config
    most = config.max_item_embeddings - 1
    if history_items > most:
        raise SettingError(
            f"history_items is {history_items}, and the backbone '{backbone.name}' knows {most} "
            "item positions"
        )
    start = backbone.tokenizer.bos_token_id
    if start is None:
        start = backbone.tokenizer.cls_token_id
    return Structure((start,), (), (), placed=True)


class BiEncoder(TextRecommender):
    """A recommender over a catalogue: backbone + adapter, scores are cosines."""

    settings_type = BiEncoderSettings
    opens_light = True
    trains_whole = True
    settings: BiEncoderSettings

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: BiEncoderSettings,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__(equipped, settings, catalogue)
        self.structure = structure_of(self.backbone, settings.history_items)
        self._not_stored: str | None = None  # why vectors could not be stored
        self._vectors_of: tuple[tuple[int, int], ...] = ()
        self._vectors: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None
        longest = longest_input(self.model)
        if longest is not None and settings.history_tokens > longest:
            raise SettingError(
                f"history_tokens is {settings.history_tokens}, "
                f"and the backbone '{self.backbone.name}' reads at most {longest}"
            )
        equipped.equip()

    def use(self, catalogue: Catalogue) -> None:
        """Score this catalogue from now on."""
        if catalogue is not self._catalogue:
            self._catalogue, self._vectors = catalogue, None

    def reading(self, users: int) -> tuple[int, str]:
        """Every distinct text of the catalogue once, and every user's history."""
        return len(self._distinct_texts(self.catalogue)[1]) + users, "texts"

    # --- text to vectors

    def _tokenize(self, catalogue: Catalogue) -> ItemTokens:
        return encode_items(self.backbone.tokenizer, catalogue, self.settings.text)

    def assemble_histories(self, tokens: ItemTokens, histories: Histories) -> Ragged:
        """The model's input for each history of rows of `tokens`."""
        recent = [history[::-1][: self.settings.history_items] for history in histories]
        return assemble(
            tokens, recent, structure=self.structure, max_tokens=self.settings.history_tokens
        )

    def assemble_items(self, tokens: ItemTokens, items: IntArray) -> Ragged:
        singles = np.asarray(items, dtype=np.int64)[:, None]
        return assemble(
            tokens, list(singles), structure=self.structure, max_tokens=self.settings.history_tokens
        )

    def embed(self, inputs: Ragged, rows: IntArray) -> Tensor:
        """Unit vectors [n, d] float32 of the chosen rows, in one forward pass."""
        ids, mask = pad(inputs, rows, self.backbone.tokenizer.pad_token_id or 0)
        device = next(self.model.parameters()).device
        arrays = {"input_ids": ids, "attention_mask": mask} | self._marks(inputs, rows, mask)
        tensors = {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}
        mask_tensor = tensors["attention_mask"]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.equipped.mixed):
            hidden = self.model(**tensors).last_hidden_state
        if (self.settings.pooling or self.backbone.pooling) == "cls":
            pooled = hidden[:, 0].float()
        else:
            weight = mask_tensor.to(hidden.dtype)[:, None]  # a product: one pass, no copy
            pooled = (weight @ hidden)[:, 0].float() / mask_tensor.sum(1, keepdim=True)
        return nn.functional.normalize(pooled, dim=-1)

    def _marks(
        self, inputs: Ragged, rows: IntArray, mask: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """What a RecFormer reads beside ids: token types and item positions [n, L]."""
        if inputs.items is None or inputs.keys is None:
            return {}
        kinds = np.where(inputs.items == 0, START, np.where(inputs.keys, KEY, VALUE))
        config: Any = self.model.config
        last = config.max_item_embeddings - 1
        return {
            "token_type_ids": spread_values(inputs, rows, kinds, mask, PADDING),
            "item_position_ids": spread_values(inputs, rows, inputs.items, mask, last),
        }

    def encode(
        self, inputs: Ragged, what: Literal["items", "histories"] = "histories"
    ) -> NDArray[np.float32]:
        """Unit vectors [n, d] float32 of all rows, without gradients, sorted by length inside; `what`
        they are for whoever watches (`on_read`)."""
        runs = list(by_length(inputs.lengths, TOKENS_AT_ONCE))
        parts: list[NDArray[np.float32]] = []
        self.model.eval()
        if what == "items" and runs:
            self._has_read(what, 0, len(inputs))
        with torch.inference_mode():
            for rows in runs:
                parts.append(self.embed(inputs, rows).cpu().numpy())
                self._has_read(what, len(rows), len(inputs))
        if not parts:
            width: int = self.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
            return np.empty((0, width), dtype=np.float32)
        out = np.empty((len(inputs), parts[0].shape[1]), dtype=np.float32)
        out[np.concatenate(runs)] = np.concatenate(parts)
        return out

    def encode_items(self, catalogue: Catalogue) -> NDArray[np.float32]:
        """Unit vectors [items, d] float32 of a catalogue, computed now; see `item_vectors`."""
        tokens, first, text_of = self._distinct_texts(catalogue)
        vectors = self.encode(self.assemble_items(tokens, first), "items")
        return vectors[text_of]

    def _distinct_texts(
        self, catalogue: Catalogue
    ) -> tuple[ItemTokens, NDArray[np.int64], NDArray[np.int64]]:
        """(tokens, first item of each distinct text [t], distinct text of each item [items])."""
        tokens = self.tokens(catalogue)
        seen: dict[bytes, int] = {}
        text_of = np.array(
            [seen.setdefault(tokens.of(row).tobytes(), len(seen)) for row in range(len(tokens))],
            dtype=np.int64,
        )
        _, first = np.unique(text_of, return_index=True)
        return tokens, first, text_of

    def _text_vectors(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(unit vectors of the distinct texts [t, d], distinct text of each item [items]).

        Items of one text share one vector, computed once, so that a tie is a tie. The vectors
        stay in memory for as long as no weight changes and, with a `cache`, on disk, by the
        hash of backbone and adapter weights, settings, precision, libraries, processor and item
        tokens. What is in training is not stored on disk.
        """
        state = tuple((p.data_ptr(), p._version) for p in self.model.parameters())
        if self._vectors is not None and self._vectors_of == state:
            return self._vectors
        tokens, first, text_of = self._distinct_texts(self.catalogue)
        path = None if self.in_training else self._cache_file(tokens)
        vectors = None if path is None else read_vectors(path, len(first))
        if vectors is None:
            vectors = self.encode(self.assemble_items(tokens, first), "items")
            self._not_stored = None if path is None else write_vectors(path, vectors)
        self._vectors, self._vectors_of = (vectors, text_of), state
        return self._vectors

    def _cache_file(self, tokens: ItemTokens) -> Path | None:
        if self.cache is None:
            return None
        parameter = next(self.model.parameters())
        place = [str(parameter.dtype), parameter.device.type, self.equipped.mixed, computed_by()]
        reading = [place, self.backbone.pooling, asdict(self.structure)]
        key = hash_json([self.weights_hash, self.settings.model_dump(), reading, tokens.hash])
        return self.cache / f"{key}.safetensors"

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """[items, d] float32 unit vectors of the catalogue."""
        vectors, text_of = self._text_vectors()
        return vectors[text_of]

    def reading_alone(
        self, items: IntArray, histories: Histories
    ) -> tuple[Callable[[], object], Callable[[], object]]:
        tokens = self.tokens(self.catalogue)
        titles = self.assemble_items(tokens, items)
        users = self.assemble_histories(tokens, histories)
        return lambda: self.encode(titles), lambda: self.encode(users)

    @property
    def notes(self) -> list[str]:
        return [] if self._not_stored is None else [self._not_stored]

    # --- scoring

    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """Cosines: [n, c] for `candidates` [n, c], or [n, items] without them."""
        users = self.encode(self.assemble_histories(self.tokens(self.catalogue), histories))
        return self._against_items(users, candidates)

    def _against_items(
        self, users: NDArray[np.float32], candidates: IntArray | None
    ) -> NDArray[np.float32]:
        if candidates is not None and self.in_training:
            return self._pairs_in_training(users, candidates)
        vectors, text_of = self._text_vectors()
        if candidates is not None:
            # One product of two vectors a pair, never a blocked one: equal vectors, equal bits.
            pairs: NDArray[np.float32] = np.einsum(
                "nd,ncd->nc", users, vectors[text_of[candidates]]
            )
            return pairs
        scores: NDArray[np.float32] = users @ vectors.T
        return scores if len(vectors) == len(text_of) else scores[:, text_of]

    def _pairs_in_training(
        self, users: NDArray[np.float32], candidates: IntArray
    ) -> NDArray[np.float32]:
        """As `_against_items`, but only the texts of the candidates are encoded: no vector will
        be used again, as the weights still move."""
        tokens, first, text_of = self._distinct_texts(self.catalogue)
        texts, place = np.unique(text_of[candidates], return_inverse=True)
        vectors = self.encode(self.assemble_items(tokens, first[texts]), "items")
        pairs: NDArray[np.float32] = np.einsum(
            "nd,ncd->nc", users, vectors[place.reshape(candidates.shape)]
        )
        return pairs

    def _scores_of_titles(self, titles: list[str], histories: Histories) -> NDArray[np.float32]:
        tokens = encode_titles(self.tokenizer, titles, self.settings.text)
        users = self.encode(self.assemble_histories(tokens, histories))
        return self._against_items(users, None)

    # --- training

    def lengths(self, examples: Examples) -> NDArray[np.int64]:
        """[n] int64: tokens of each encoded history."""
        tokens = self.tokens(examples.domain.items)
        return self.assemble_histories(tokens, examples.histories()).lengths

    def loss(self, batch: Examples) -> Tensor:
        """Mean cross entropy over in-batch negatives; all examples of one domain.

        Source: InfoNCE with cosine / temperature, as in MergeRec's fine-tuning.
        """
        tokens = self.tokens(batch.domain.items)
        rows = np.arange(len(batch))
        users = self.embed(self.assemble_histories(tokens, batch.histories()), rows)
        items = self.embed(self.assemble_items(tokens, batch.targets), rows)
        logits = users @ items.T / self.settings.temperature
        group = torch.from_numpy(batch.domain.items.title_group[batch.targets]).to(logits.device)
        same = group[:, None] == group[None, :]
        same.fill_diagonal_(False)
        labels = torch.arange(len(batch), device=logits.device)
        return nn.functional.cross_entropy(logits.masked_fill(same, float("-inf")), labels)

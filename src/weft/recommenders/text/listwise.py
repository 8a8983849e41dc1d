"""A causal language model that reads a history and candidate titles and answers with titles.

The recommender of WeaveRec (arXiv 2510.26546, §5.1). The prompt is a chat; the answer is the
target's title (`top1`), or that and four random candidates (`top5`, as published). Three
rankers score candidates with it: exactly, by a constrained beam, or as published, by what greedy
decoding writes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from weft.data.domain import Catalogue, Examples, IntArray
from weft.data.draws import mix
from weft.errors import DataError, SettingError
from weft.evaluation.candidates import CandidateSettings, draw_candidates
from weft.recommenders.contract import Histories
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.text.base import TextRecommenderSettings
from weft.recommenders.text.lm.decode import constrained_beam, greedy
from weft.recommenders.text.lm.packing import packed_loss
from weft.recommenders.text.prompted import Prompted
from weft.text import ItemTokens, Ragged, TextSettings
from weft.text.prompt import (
    ListPrompt,
    PromptSettings,
    canonical,
    check_round_trip,
    parse_answer,
)

ANSWERS = {"top1": 1, "top5": 5}
_KEY = np.array([[20251122]], dtype=np.uint64)  # of the order in a prompt


class ListwiseSettings(TextRecommenderSettings):
    """The `recommender:` block of a recipe."""

    kind: Literal["listwise"] = "listwise"
    text: TextSettings = TextSettings(tokens=None)
    prompt: PromptSettings = PromptSettings()
    listed: bool = Field(default=True, description="the prompt lists the candidates")
    drawn: int = Field(default=29, ge=5, description="candidates beside the truth in training")
    answer: Literal["top1", "top5"] = Field(default="top5", description="what is learned")
    ranker: Literal["exact", "beam", "published"] = "exact"
    normalise: bool = Field(default=False, description="exact: log-likelihood per token")
    beams: int = Field(default=10, ge=1, description="width of the constrained beam")
    new_tokens: int = Field(default=800, ge=1, description="published: at most written")
    memory: int = Field(default=2 << 30, ge=1 << 20, description="bytes for scoring one user")
    together: int | None = Field(
        default=None, ge=1, description="exact: users in one pass; none: 1 on a CPU, else 32"
    )

    @property
    def ranks_catalogues(self) -> bool:
        """Whether a whole catalogue can be ranked: not if the prompt lists the candidates."""
        return not self.listed and self.ranker != "published"

    @property
    def pace(self) -> str:
        return f"{self.kind} {self.ranker}"

    def for_training(self) -> ListwiseSettings:
        """The same with every setting at its default that training does not look at."""
        scoring_only = ("ranker", "normalise", "beams", "new_tokens", "memory", "together")
        plain = ListwiseSettings()
        return self.model_copy(update={name: getattr(plain, name) for name in scoring_only})


class Listwise(Prompted):
    """A recommender over a catalogue: backbone + adapter, scores are log-likelihoods of titles.

    Exact: log P(title, terminator | prompt), in nats, or that per token. Beam: the same, −inf for
    what the beam did not reach. Published: 5, 4, … 1 for the titles written first to fifth, 0 for
    the rest.
    """

    settings_type = ListwiseSettings
    settings: ListwiseSettings

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: ListwiseSettings,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__(equipped, settings, catalogue, memory=settings.memory)
        self.prompt = ListPrompt(self.tokenizer, settings.prompt, ANSWERS[settings.answer])
        self._round_trips: set[int] = set()  # catalogues whose titles are known to come back

    def _scores(
        self, tokens: ItemTokens, histories: Histories, candidates: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        if candidates is None:
            return self._whole(tokens, histories)
        self._check_titles(tokens, candidates)
        prompts = self._prompts(tokens, histories, candidates)
        if self.settings.ranker == "published":
            return self._written(prompts, tokens, candidates)
        out = np.empty(candidates.shape, dtype=np.float32)
        size = self._together
        for start in range(0, len(prompts), size):
            rows = range(start, min(start + size, len(prompts)))
            several = [prompts.of(row) for row in rows]
            out[rows] = self._likelihoods(several, tokens, candidates[rows])
            self._has_read("histories", len(rows), len(histories))
        return out

    def _whole(self, tokens: ItemTokens, histories: Histories) -> NDArray[np.float32]:
        """[n, items]: every item that has a title; the rest −inf."""
        if self.settings.listed:
            raise SettingError(
                "this recommender ranks candidates that its prompt lists, so it can't rank a whole "
                "catalogue: give candidates, or train one with recommender.listed: false"
            )
        if self.settings.ranker == "published":
            raise SettingError(
                "the published ranker needs candidates; ranker: exact ranks catalogues"
            )
        there = self._titled(tokens)
        prompts = self._prompts(tokens, histories, None)
        out = np.full((len(prompts), len(self.catalogue)), -np.inf, dtype=np.float32)
        for row in range(len(prompts)):
            out[row, there] = self._likelihoods([prompts.of(row)], tokens, there[None])[0]
            self._has_read("histories", 1, len(histories))
        return out

    # --- one prompt

    def _prompts(
        self, tokens: ItemTokens, histories: Histories, candidates: NDArray[np.int64] | None
    ) -> Ragged:
        shown = shuffled(candidates) if candidates is not None and self.settings.listed else None
        titles = ANSWERS[self.settings.answer] if self.settings.ranker == "published" else 1
        if candidates is None:
            longest = tokens.lengths[: len(self.catalogue)].max(initial=0)
            lengths = np.full((len(histories), 1), longest)
        else:
            lengths = np.sort(tokens.lengths[candidates], axis=1)[:, -titles:]
        prompts = self.prompt.prompts(tokens, histories, shown, self._most(lengths))
        self._count(prompts)
        return prompts.ragged

    def _most(self, lengths: IntArray) -> IntArray | None:
        """[n] tokens of prompts that leave room in the window for answers of titles of so many tokens
        (`lengths` [n, k])."""
        window = self.language.window
        return None if window is None else window - self.prompt.answer_lengths(lengths)

    @property
    def _together(self) -> int:
        """Users read in one pass. On a CPU one: nothing is gained there, and batches change no bit."""
        if self.settings.ranker != "exact":
            return 1
        return self.settings.together or (1 if self.language.device.type == "cpu" else 32)

    @property
    def _end(self) -> int:
        """The token after a first title: of the separator, or the end of the turn."""
        return self.prompt.separator[0] if self.settings.answer == "top5" else self.prompt.end

    def _likelihoods(
        self,
        prompts: list[NDArray[np.int32]],
        tokens: ItemTokens,
        candidates: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """[n, C] of n prompts, each with its own C candidates."""
        titles = [[tokens.of(item) for item in row.tolist()] for row in candidates]
        if self.settings.ranker == "beam":
            width = self.settings.beams
            each = zip(prompts, titles, strict=True)
            return np.stack(
                [constrained_beam(self.language, *one, self._end, width) for one in each]
            )
        likelihoods = self.language.continuations_together(prompts, titles, self._end)
        if self.settings.normalise:
            return np.stack([one.total / one.tokens for one in likelihoods]).astype(np.float32)
        return np.stack([one.total for one in likelihoods])

    def _written(
        self, prompts: Ragged, tokens: ItemTokens, candidates: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The published ranker: greedy decoding, split, exact match; the rest share the last rank."""
        tokenizer = self.tokenizer
        if id(self.catalogue) not in self._round_trips:
            check_round_trip(tokenizer, self.catalogue, self.settings.text)
            self._round_trips.add(id(self.catalogue))
        out = np.zeros(candidates.shape, dtype=np.float32)
        rows = [prompts.of(i) for i in range(len(prompts))]
        answers = greedy(
            self.language, rows, self.prompt.end, self.settings.new_tokens, tokenizer.pad_token_id
        )
        for row, ids in enumerate(answers):
            names = [canonical(tokenizer, tokens.of(item)) for item in candidates[row].tolist()]
            written = parse_answer(tokenizer.decode(ids, skip_special_tokens=True))
            named = list(dict.fromkeys(title for title in written if title in names))
            self.tally["answers"] += 1
            self.tally["answers without a candidate"] += not named
            self.tally["titles written"] += len(written)
            self.tally["titles that are no candidate"] += sum(t not in names for t in written)
            for score, name in zip((5, 4, 3, 2, 1), named, strict=False):
                out[row, [one == name for one in names]] = score  # cut alike: a tie
        return out

    def _check_titles(self, tokens: ItemTokens, candidates: NDArray[np.int64]) -> None:
        """Every candidate has a title, and no two listed ones have the same."""
        self._check_titled(tokens, candidates)
        if not self.settings.listed and self.settings.ranker != "published":
            return  # equal titles share one score there: a tie
        group = np.sort(self.catalogue.title_group[candidates], axis=1)
        again = group[:, 1:] == group[:, :-1]
        if again.any():
            row, column = np.argwhere(again)[0]
            title = self.catalogue.titles[int(group[row, column])]
            raise DataError(
                f"two candidates of history {row + 1} have the same title '{title}': "
                "a prompt that lists both can't tell them apart"
            )

    # --- training

    def loss(self, batch: Examples) -> Tensor:
        """Mean cross entropy over the answers' tokens; examples packed without cross-attention."""
        prompts, answers = self.training_texts(batch)
        pairs = [(prompts.of(i), answers.of(i)) for i in range(len(batch))]
        rows = [np.concatenate(pair) for pair in pairs]
        return packed_loss(self.language, rows, [len(prompt) for prompt, _ in pairs])

    def training_texts(self, batch: Examples) -> tuple[Ragged, Ragged]:
        """(prompts, answers) of training examples, in ids.

        The candidates and the answer's other titles are drawn for each example by its user and
        position: the same in every epoch and batch.
        """
        tokens = self.tokens(batch.domain.items)
        count = ANSWERS[self.settings.answer]
        drawn = CandidateSettings(drawn=self.settings.drawn)
        needed = self.settings.listed or count > 1
        chosen = draw_candidates(batch, drawn, seed=0) if needed else batch.targets[:, None]
        candidates = chosen.astype(np.int64)
        shown = shuffled(candidates) if self.settings.listed else None
        answer_items = candidates[:, :count]
        self._check_titled(tokens, answer_items[:, 0], batch.domain.items)
        most = self._most(tokens.lengths[answer_items])
        prompts = self.prompt.prompts(tokens, batch.histories(), shown, most).ragged
        return prompts, self.prompt.answers(tokens, answer_items)


def shuffled(candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row's candidates in an order that hangs on which they are, not on how they came."""
    known = np.sort(candidates, axis=1)
    keys = mix(np.bitwise_xor.reduce(mix(_KEY, known), axis=1, keepdims=True), known)
    return np.take_along_axis(known, np.argsort(keys, axis=1, kind="stable"), axis=1)

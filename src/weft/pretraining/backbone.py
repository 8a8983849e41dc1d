"""A backbone where no hub is: tokenizer and model trained from scratch on catalogue text.

The text is titles, and lists of titles that share a category or brand (see weft.text.corpus);
no interaction is read. The outcome is an ordinary transformers folder that any recipe can name
as its `backbone`, with the perplexity on held-out titles in its card.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weft.artifacts.atomic import check_folder
from weft.artifacts.hashing import hash_arrays, hash_json
from weft.artifacts.staging import staged
from weft.backbones.cpu import keep_freed_memory
from weft.backbones.load import dtype_of
from weft.backbones.shapes import new_causal_model
from weft.backbones.tokenizer import END_OF_TEXT, TURN_END, train_tokenizer
from weft.data.catalogue import load_catalogue
from weft.errors import DataError, SettingError
from weft.pretraining.card import write_card
from weft.pretraining.recipe import PretrainRecipe
from weft.text.cleaning import clean_text
from weft.text.corpus import Corpus, Shelves, held_out
from weft.text.items import TextSettings
from weft.text.prompt import ListPrompt, PromptSettings, title_tokens
from weft.training import TrainingFiles, train
from weft.training.batches import seed_of
from weft.training.blocks import NextToken, TextBlocks
from weft.training.loop import Report

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class PretrainedBackbone:
    """What came out: perplexities per token on held-out text, before and after training."""

    folder: Path
    parameters: int
    tokens: int
    perplexity: float
    perplexity_before: float


def pretrain_backbone(
    recipe: PretrainRecipe,
    out: Path | str,
    *,
    data: Path | str | None = None,
    device: str = "cpu",
    report: Report | None = None,
) -> PretrainedBackbone:
    """Train the backbone that `recipe` describes and write it to `out`, whole or not at all.

    Started again after a kill it goes on from its last checkpoint and ends with the same bits.
    `out` gets config.json, model.safetensors (float32), the tokenizer with its ChatML template,
    weft.json (recipe, hash of the text, perplexities, loss curve) and a card.

    Raises `SettingError` for a recipe that does not fit its text, `DataError` for too few titles.
    """
    out, data = Path(out), None if data is None else Path(data)
    check_folder(out, new=True)
    shelves = read_shelves(recipe, data)
    key = hash_json([recipe.model_dump(mode="json"), shelves.hash, str(dtype_of(recipe.precision))])
    with staged(out, key[:16]) as folder:
        text = TrainingText.of(recipe, shelves)
        model = _new_model(recipe, text.tokenizer, device)
        learner = NextToken(model, mixed=dtype_of(recipe.precision) is torch.bfloat16)
        before = learner.perplexity(text.validation)
        trained = train(
            learner, [text.training], recipe.train.loop, seed=seed_of(recipe.seed, "train"),
            files=TrainingFiles(folder / CHECKPOINTS, key), report=report,
        )  # fmt: skip
        result = PretrainedBackbone(
            folder=out,
            parameters=sum(p.numel() for p in model.parameters()),
            tokens=int(text.training.ids.size),
            perplexity=learner.perplexity(text.validation),
            perplexity_before=before,
        )
        _save_model(model, text.tokenizer, folder)
        figures = {name: one for name, one in asdict(result).items() if name != "folder"}
        write_card(recipe, text.facts | figures | {"curve": trained.curve}, folder)
    return result


def read_shelves(recipe: PretrainRecipe, data: Path | None) -> Shelves:
    """The titles of the recipe's catalogues."""
    root = Path() if data is None else data
    catalogues = [load_catalogue(root / name) for name in recipe.catalogues]
    return Shelves.of(catalogues, recipe.corpus.fields)


@dataclass(frozen=True, eq=False)
class TrainingText:
    """The tokenizer, the blocks to learn from, and those of held-out titles alone."""

    tokenizer: Any
    training: TextBlocks
    validation: TextBlocks
    facts: dict[str, Any]

    @classmethod
    def of(cls, recipe: PretrainRecipe, shelves: Shelves) -> TrainingText:
        """Raises `DataError` for titles too few to hold some out."""
        out = held_out(shelves.titles, recipe.corpus.held_out, recipe.seed)
        if not out.any() or out.all():
            raise DataError(f"{len(shelves.titles)} titles are too few to hold some out")
        read = [clean_text(t) for t, held in zip(shelves.titles, out, strict=True) if not held]
        tokenizer = train_tokenizer(read, recipe.shape.vocabulary)
        first, second = corpora(recipe, shelves, out, tokenizer)
        size, seed = recipe.train.block, recipe.seed
        training = TextBlocks(first.blocks(size, recipe.train.block_count, seed_of(seed, "text")))
        held = second.blocks(size, None, seed_of(seed, "held out"))
        validation = TextBlocks(held[: recipe.train.validation_blocks])
        if not len(validation):
            raise DataError(f"the held-out titles fill no block of {size} tokens")
        facts = {
            "titles": {"read": int((~out).sum()), "held_out": int(out.sum())},
            "text_hash": hash_arrays({"ids": training.ids}, shelves.hash),
        }
        return cls(tokenizer, training, validation, facts)


def corpora(
    recipe: PretrainRecipe, shelves: Shelves, out: NDArray[np.bool_], tokenizer: Any
) -> tuple[Corpus, Corpus]:
    """The text to learn from, and that of the held-out titles (`out` [titles] bool) alone.

    Raises `SettingError` for a window that is too short for a block or a dialogue.
    """
    settings = recipe.corpus
    tokens = title_tokens(tokenizer, shelves.titles, TextSettings(tokens=settings.title_tokens))
    window = recipe.shape.window
    needed = (settings.candidates[1] + 1) * (settings.title_tokens + 2) + 32
    if window < max(needed, recipe.train.block):
        raise SettingError(
            f"shape.window: {window} is too short: blocks have {recipe.train.block} tokens, and "
            f"a dialogue's candidates up to about {needed} (corpus.candidates, title_tokens)"
        )
    prompt = ListPrompt(tokenizer, PromptSettings(max_tokens=window, short=True))
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    first, second = (
        Corpus(shelves.restrict(rows), tokens, prompt, settings, end) for rows in (~out, out)
    )
    return first, second


def _new_model(recipe: PretrainRecipe, tokenizer: Any, device: str) -> Any:
    shape = recipe.shape.model_copy(update={"vocabulary": len(tokenizer)})
    model = new_causal_model(
        shape,
        seed_of(recipe.seed, "model"),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(device)
    if device == "cpu":
        keep_freed_memory()
    return model


def _save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(TURN_END)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

"""A backbone where no hub is: tokenizer and model trained from scratch on catalogue text.

The text is titles, and lists of titles that share a category or brand (see weft.text.corpus);
no interaction is read. The outcome is an ordinary transformers folder that any recipe can name
as its `backbone`, with the perplexity on held-out titles in its card.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field

from weft import __version__
from weft.artifacts.atomic import check_folder, write_json
from weft.artifacts.hashing import hash_arrays, hash_json
from weft.artifacts.staging import staged
from weft.backbones.cpu import keep_freed_memory
from weft.backbones.load import Precision, dtype_of
from weft.backbones.shapes import Shape, new_causal_model
from weft.backbones.tokenizer import END_OF_TEXT, TURN_END, train_tokenizer
from weft.data.catalogue import load_catalogue
from weft.errors import WeftError
from weft.safe_text import markdown
from weft.settings import StrictModel
from weft.systems.recipe import read_settings
from weft.text.clean import clean
from weft.text.corpus import Corpus, CorpusSettings, Shelves, held_out
from weft.text.items import TextSettings
from weft.text.prompt import ListPrompt, PromptSettings, title_tokens
from weft.training import TrainSettings, train
from weft.training.batches import seed_of
from weft.training.blocks import Blocks, NextToken

CARD, MANIFEST = "README.md", "weft.json"
CATALOGUE_FILE = "items.parquet"


class PretrainTraining(TrainSettings):
    """The training loop's settings, for blocks of text."""

    tokens: int = Field(default=10_000_000, ge=1, description="to read in all")
    block: int = Field(default=768, ge=16, description="tokens in a row of a batch")
    epochs: int = Field(default=1, ge=1, le=1, description="one: passes follow from `tokens`")
    batch: int = Field(default=8, ge=2, description="blocks in one forward pass")
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    schedule: Literal["linear", "cosine"] = "cosine"
    validation_blocks: int = Field(default=64, ge=1, description="at most, for the perplexity")


class PretrainRecipe(StrictModel):
    """What to read, the model's shape, and how to train it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", pattern=r"^[\w.-]*$")
    catalogues: tuple[str, ...] = Field(min_length=1, description="folders under --data")
    shape: Shape = Shape()
    corpus: CorpusSettings = CorpusSettings()
    train: PretrainTraining = PretrainTraining()
    precision: Precision = "auto"
    seed: int = 0


def load_pretrain_recipe(path: Path) -> PretrainRecipe:
    """Read a recipe; what is wrong with it is one sentence that names file and field."""
    return read_settings(path, PretrainRecipe)


@dataclass(frozen=True)
class Pretrained:
    """What came out: perplexities per token on held-out text, before and after training."""

    folder: Path
    parameters: int
    tokens: int
    perplexity: float
    perplexity_before: float


Report = Callable[[int, int, float], None]


def pretrain(
    recipe: PretrainRecipe,
    out: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
    report: Report | None = None,
) -> Pretrained:
    """Train the backbone that `recipe` describes and write it to `out`, whole or not at all.

    Started again after a kill it goes on from its last checkpoint and ends with the same bits.
    `out` gets config.json, model.safetensors (float32), the tokenizer with its ChatML template,
    weft.json (recipe, hash of the text, perplexities, loss curve) and a card.
    """
    check_folder(out, new=True)
    shelves = read_shelves(recipe, data)
    key = hash_json([recipe.model_dump(mode="json"), shelves.hash, str(dtype_of(recipe.precision))])
    with staged(out, key[:16]) as folder:
        made = _make(recipe, shelves, folder, key, device, report)
    return Pretrained(out, **made)


def read_shelves(recipe: PretrainRecipe, data: Path | None) -> Shelves:
    """The titles of the recipe's catalogues."""
    root = Path() if data is None else data
    found = [load_catalogue(root / name) for name in recipe.catalogues]
    return Shelves.of(found, recipe.corpus.fields)


def _make(
    recipe: PretrainRecipe,
    shelves: Shelves,
    folder: Path,
    key: str,
    device: str,
    report: Report | None,
) -> dict[str, Any]:
    out = held_out(shelves.titles, recipe.corpus.held_out, recipe.seed)
    if not out.any() or out.all():
        raise WeftError(f"{len(shelves.titles)} titles are too few to hold some out")
    read = [clean(t) for t, held in zip(shelves.titles, out, strict=True) if not held]
    tokenizer = train_tokenizer(read, recipe.shape.vocabulary)
    training, validation = corpora(recipe, shelves, out, tokenizer)
    steps = -(
        -recipe.train.tokens // (recipe.train.block * recipe.train.batch * recipe.train.accumulate)
    )
    count = steps * recipe.train.batch * recipe.train.accumulate
    blocks = Blocks(training.blocks(recipe.train.block, count, seed_of(recipe.seed, "text")))
    held = validation.blocks(recipe.train.block, None, seed_of(recipe.seed, "held out"))
    check = Blocks(held[: recipe.train.validation_blocks])
    if not len(check):
        raise WeftError(f"the held-out titles fill no block of {recipe.train.block} tokens")
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    shape = recipe.shape.model_copy(update={"vocabulary": len(tokenizer)})
    model = new_causal_model(shape, seed_of(recipe.seed, "model"), bos_token_id=None, **ids)
    model.to(device)
    if device == "cpu":
        keep_freed_memory()
    learner = NextToken(model, mixed=dtype_of(recipe.precision) is torch.bfloat16)
    before = learner.perplexity(check)
    settings = TrainSettings.model_validate(
        recipe.train.model_dump(include=set(TrainSettings.model_fields))
    )
    done = train(
        learner, [blocks], settings, seed=seed_of(recipe.seed, "train"),
        checkpoints=folder / "checkpoints", start=key, report=report,
    )  # fmt: skip
    made = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": int(blocks.ids.size),
        "perplexity": learner.perplexity(check),
        "perplexity_before": before,
    }
    _write(recipe, model, tokenizer, folder, made, done.curve, shelves, blocks, out)
    return made


def corpora(
    recipe: PretrainRecipe, shelves: Shelves, out: Any, tokenizer: Any
) -> tuple[Corpus, Corpus]:
    """The text to learn from, and that of the held-out titles (`out` [titles] bool) alone."""
    said = recipe.corpus
    settings = TextSettings(tokens=said.title_tokens)
    tokens = title_tokens(tokenizer, shelves.titles, settings)
    most = recipe.shape.window
    needed = (said.candidates[1] + 1) * (said.title_tokens + 2) + 32
    if most < max(needed, recipe.train.block):
        raise WeftError(
            f"shape.window: {most} is too short: blocks have {recipe.train.block} tokens, and "
            f"a dialogue's candidates up to about {needed} (corpus.candidates, title_tokens)"
        )
    prompt = ListPrompt(tokenizer, PromptSettings(max_tokens=most, short=True))
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    first, second = (
        Corpus(shelves.restrict(keep), tokens, prompt, said, end) for keep in (~out, out)
    )
    return first, second


def _write(
    recipe: PretrainRecipe,
    model: Any,
    tokenizer: Any,
    folder: Path,
    made: dict[str, Any],
    curve: Sequence[Any],
    shelves: Shelves,
    blocks: Blocks,
    out: Any,
) -> None:
    import shutil

    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(TURN_END)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = {
        "kind": "backbone",
        "recipe": recipe.model_dump(mode="json"),
        "titles": {"read": int((~out).sum()), "held_out": int(out.sum())},
        "text_hash": hash_arrays({"ids": blocks.ids}, shelves.hash),
        **made,
        "curve": curve,
        "versions": {"weft": __version__, "torch": torch.__version__},
        "machine": platform.machine(),
    }
    write_json(folder / MANIFEST, said)
    (folder / CARD).write_text(card(recipe, said), "utf-8")


def card(recipe: PretrainRecipe, said: dict[str, Any]) -> str:
    """What the backbone is, in words."""
    shape, train_ = recipe.shape, recipe.train
    titles = said["titles"]
    return f"""# {markdown(recipe.name or "A small causal language model")}

A {shape.architecture} model of {said["parameters"]:,} parameters (width {shape.hidden}, {shape.layers} layers,
{shape.heads} heads, vocabulary {shape.vocabulary:,}, window {shape.window:,}), trained from scratch by
`weft backbone pretrain` on {said["tokens"]:,} tokens of catalogue text: {titles["read"]:,} titles, and lists
of titles that share {markdown(" or ".join(recipe.corpus.fields))}, plain or told as a recommendation dialogue. It has read
no user's interactions, and no other text: it is a backbone for recommenders, not a general one.

| | |
|---|---|
| catalogues | {markdown(", ".join(recipe.catalogues))} |
| perplexity per token of text made of {titles["held_out"]:,} held-out titles (prompts' words and separators too) | {said["perplexity"]:.2f} (untrained {said["perplexity_before"]:,.0f}) |
| blocks of | {train_.block} tokens, documents one after the other |
| seed | {recipe.seed} |

`weft.json` has the whole recipe and the loss curve.
"""

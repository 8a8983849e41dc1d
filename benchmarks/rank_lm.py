"""Ranking 30 titles with a causal language model, and training it: weft beside the plain way.

    python benchmarks/rank_lm.py [--data DATA] [--shape 10m|0.5b|7b] [--out results/rank_lm.json]

A Qwen2-shaped model of random weights (12 M parameters, or the shapes of Qwen2-0.5B and -7B for a
GPU), titles of Amazon Beauty (DATA holds amazon-beauty-2014) or of the demo mall. Variants take
turns on the same users in one process; on a GPU where there is one.

1. Ranking, 30 candidates behind prompts of 500 tokens. Plain: one batched transformers forward
   over the 30 whole texts (sdpa, padded on the right, logits of the last positions only). Scores
   must agree to 1e-4 in float32.
2. The same against one plain forward over as many tokens as the prompt and the tree have together.
3. Training tokens a second, LoRA on all seven projections, for prompts that list 30 candidates and
   for prompts that list none: packed against padded to the longest of the batch, with stock
   attention (sdpa) and with weft's, which tells what padding costs by itself. LoRA linears, head
   (on answers only) and examples are the same, and so is the loss where nothing is dropped. Only
   real tokens count.

On a GPU also the most memory allocated, beside what can't be done without: for ranking the weights
and the widest activations of one layer, for training the weights, the factors with their gradients
and what the backward pass needs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, spread
from numpy.typing import NDArray

from weft.adapters import LoraSettings, attach, initialise
from weft.backbones.cpu import keep_freed_memory
from weft.backbones.shapes import Shape, new_causal_model
from weft.backbones.tokenizer import train_tokenizer
from weft.data.domain import Domain
from weft.data.folder import load_domain
from weft.data.mall import mall
from weft.data.splits import leave_one_out, sample_train
from weft.evaluation.candidates import CandidateSettings, draw_candidates
from weft.recommenders.text.lm import LanguageModel, PrefixTree, packed_loss
from weft.text import TextSettings
from weft.text.prompt import ListPrompt, PromptSettings, title_tokens

PROMPT, DRAWN, SEED = 500, 29, 7
PASS, COST, PACKED = 10.0, 1.5, 1.5  # what is aimed at
Ids = NDArray[np.int32]


SHAPES = {  # vocabulary None: that of a tokenizer trained on the titles
    "10m": {"layers": 8},
    "0.5b": {"hidden": 896, "layers": 24, "heads": 14, "intermediate": 4864},
    "7b": {"hidden": 3584, "layers": 28, "heads": 28, "intermediate": 18944},
}
KEY_HEADS = {"10m": (5, 1), "0.5b": (2,), "7b": (4,)}
VOCABULARY = {"10m": None, "0.5b": 151_936, "7b": 152_064}


@dataclass(frozen=True)
class Setting:
    """What is measured: a shape, the number of its key heads, a dtype, a device."""

    shape: Shape
    dtype: str
    device: str

    def model(self) -> Any:
        none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        with torch.device(self.device):
            model = new_causal_model(self.shape, SEED, **none)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:  # larger than a fresh model's, so that scores differ
                    parameter.mul_(3)
        for parameter in model.parameters():  # not the buffers: rotations stay in float32
            parameter.data = parameter.data.to(getattr(torch, self.dtype))
        return model.eval()

    @property
    def tokens_bytes(self) -> int:
        """Of what one layer makes of one token at its widest: residual stream and gated MLP."""
        size = getattr(torch, self.dtype).itemsize
        return size * (2 * self.shape.hidden + 3 * self.shape.intermediate)


class Memory:
    """The most that is allocated on a GPU while `with` lasts, in bytes; nothing on a CPU."""

    def __init__(self, device: str) -> None:
        self.on_gpu, self.most = device != "cpu", 0

    def __enter__(self) -> Memory:
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *error: object) -> None:
        if self.on_gpu:
            self.most = torch.cuda.max_memory_allocated()

    def beside(self, least: int, other: int = 0) -> dict[str, Any]:
        """What was allocated (without `other`, which has no part in it), and the least needed."""
        if not self.on_gpu:
            return {}
        most = self.most - other
        return {"memory_gb": {"most": round(most / 1e9, 2), "least_needed": round(least / 1e9, 2),
                              "ratio": round(most / least, 2)}}  # fmt: skip


def weights_of(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    synchronise(device)
    start = time.perf_counter()
    out = work()
    synchronise(device)
    return time.perf_counter() - start, out


# --- ranking


@torch.inference_mode()
def plain_scores(model: Any, prompt: Ids, titles: list[Ids], end: int) -> NDArray[np.float64]:
    rows = [np.concatenate([prompt, title, [end]]) for title in titles]
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    device = next(model.parameters()).device
    tensor = torch.from_numpy(ids).to(device)
    keep = width - len(prompt) + 1
    # Padding on the right needs no mask: nothing that counts comes after it.
    logits = model(input_ids=tensor, use_cache=False, logits_to_keep=keep).logits
    known = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    told = known.gather(2, tensor[:, len(prompt) :, None])[:, :, 0].cpu().numpy()
    return np.array([told[n, : len(t) + 1].sum(dtype=np.float64) for n, t in enumerate(titles)])


@torch.inference_mode()
def one_forward(model: Any, tokens: int, states: int) -> Any:
    device = next(model.parameters()).device
    ids = torch.arange(tokens, device=device)[None] % model.config.vocab_size
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=states).logits
    return torch.logsumexp(logits.float(), dim=-1).cpu()


def ranking(users: list[tuple[Ids, list[Ids]]], setting: Setting, turns: int) -> dict[str, Any]:
    model, plain, device = setting.model(), setting.model(), setting.device
    language = LanguageModel(model)
    seconds: dict[str, list[float]] = {"weft": [], "plain": [], "one forward": []}
    memory = {"weft": Memory(device), "plain": Memory(device)}
    apart, end, needed = 0.0, 1, 0
    for turn in range(turns + 1):
        prompt, titles = users[turn % len(users)]
        nodes = len(PrefixTree.of(titles))
        tokens = len(prompt) + nodes
        needed = max(needed, tokens * setting.tokens_bytes, nodes * setting.shape.vocabulary * 4)
        with memory["weft"]:
            ours, found = timed(lambda: language.continuations(prompt, titles, end).total, device)  # noqa: B023
        with memory["plain"]:
            theirs, wanted = timed(lambda: plain_scores(plain, prompt, titles, end), device)  # noqa: B023
        forward, _ = timed(lambda: one_forward(plain, tokens, nodes + 1), device)  # noqa: B023
        apart = max(apart, float(np.abs(found - wanted).max()))
        if turn:  # the first warms up
            for name, value in zip(seconds, (ours, theirs, forward), strict=True):
                seconds[name].append(value)
    ratio = [b / a for a, b in zip(seconds["weft"], seconds["plain"], strict=True)]
    cost = [a / b for a, b in zip(seconds["weft"], seconds["one forward"], strict=True)]
    weights = weights_of(model)
    return {
        "users_per_second": {
            name: spread([1 / s for s in seconds[name]], 2) for name in ("weft", "plain")
        },
        "times_as_fast_as_plain": spread(ratio, 2),
        "times_the_cost_of_one_forward": spread(cost, 2),
        "targets_met": [statistics.median(ratio) >= PASS, statistics.median(cost) <= COST],
        "largest_difference_of_scores": apart,
        **{f"{k}, {name}": v for name, one in memory.items()
           for k, v in one.beside(weights + needed, weights).items()},
    }  # fmt: skip


# --- training


def padded_loss(
    language: LanguageModel, rows: list[Ids], starts: list[int], stock: bool
) -> torch.Tensor:
    """The same loss, padded on the right to the longest of the batch."""
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    device, counts = language.device, zip(rows, starts, strict=True)
    before = [n * width + np.arange(s - 1, len(r) - 1) for n, (r, s) in enumerate(counts)]
    wanted = [row[start:] for row, start in zip(rows, starts, strict=True)]
    if stock:  # padding on the right needs no mask
        found = language.model.base_model(
            input_ids=torch.from_numpy(ids).to(device), use_cache=False
        )
        hidden = found.last_hidden_state.flatten(0, 1)
    else:
        hidden = language.packed(list(ids))
    logits = language.logits(hidden[torch.from_numpy(np.concatenate(before)).to(device)])
    ids_wanted = torch.from_numpy(np.concatenate(wanted).astype(np.int64)).to(device)
    return torch.nn.functional.cross_entropy(logits, ids_wanted)


Loss = Callable[[LanguageModel, list[Ids], list[int]], torch.Tensor]
WAYS: dict[str, Loss] = {
    "packed": packed_loss,
    "padded": lambda *given: padded_loss(*given, stock=True),
    "padded, weft's attention": lambda *given: padded_loss(*given, stock=False),
}


def texts_of(domain: Domain, tokenizer: Any, listed: bool, count: int) -> list[tuple[Ids, Ids]]:
    """Prompts and answers of training examples."""
    tokens = title_tokens(tokenizer, domain.items, TextSettings(tokens=None))
    prompt = ListPrompt(tokenizer, PromptSettings())
    examples = sample_train(leave_one_out(domain).train, count, SEED)
    drawn = draw_candidates(examples, CandidateSettings(drawn=DRAWN), SEED).astype(np.int64)
    asked = prompt.prompts(tokens, examples.histories(), drawn if listed else None).ragged
    answers = prompt.answers(tokens, examples.targets[:, None])
    return [(asked.of(i), answers.of(i)) for i in range(count)]


def training(
    pairs: list[tuple[Ids, Ids]], setting: Setting, batch: int, checkpointing: bool
) -> dict[str, Any]:
    model, device = setting.model(), setting.device
    attached = attach(model, LoraSettings())
    initialise(attached, SEED)
    language = LanguageModel(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    memory = {way: Memory(device) for way in WAYS}
    texts = [np.concatenate(pair) for pair in pairs]
    with torch.no_grad():  # nothing is dropped: equal losses
        few, begin = texts[:4], [len(p) for p, _ in pairs[:4]]
        losses = [float(loss(language, few, begin)) for loss in WAYS.values()]

    def step(loss: Loss, rows: list[Ids], starts: list[int]) -> None:
        loss(language, rows, starts).backward()
        model.zero_grad()

    model.train()
    shares, needed = [], 0
    for first in range(0, len(texts), batch):
        rows = texts[first : first + batch]
        starts = [len(prompt) for prompt, _ in pairs[first : first + batch]]
        real = sum(map(len, rows))
        for way, loss in WAYS.items():
            if not first:
                step(loss, rows[:4], starts[:4])  # warms up
            with memory[way]:
                took, _ = timed(lambda: step(loss, rows, starts), device)  # noqa: B023
            rates[way].append(real / took)
        shares.append(real / (batch * max(map(len, rows))))
        needed = max(needed, real)
    ratios = {
        way: [a / b for a, b in zip(rates["packed"], rates[way], strict=True)]
        for way in list(WAYS)[1:]
    }
    factors = 8 * sum(p.numel() for one in attached.values() for p in (one.a, one.b))
    kept = setting.shape.layers * setting.shape.hidden * getattr(torch, setting.dtype).itemsize
    least = weights_of(model) + factors + needed * (kept + setting.tokens_bytes)
    return {
        "tokens_per_second": {way: spread(values, 0) for way, values in rates.items()},
        "packed_times_as_fast_as": {way: spread(values, 2) for way, values in ratios.items()},
        "target_met": statistics.median(ratios["padded"]) >= PACKED,
        "share_of_real_tokens_when_padded": spread(shares, 2),
        "mean_tokens": round(float(np.mean([len(text) for text in texts])), 0),
        "largest_difference_of_losses": max(losses) - min(losses),
        **{f"{k}, {way}": v for way, one in memory.items() for k, v in one.beside(least).items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/rank_lm.json"))
    parser.add_argument("--turns", type=int, default=4, help="users ranked")
    parser.add_argument("--batch", type=int, default=16, help="in training")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, default="10m")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--checkpointing", action="store_true", help="of activations, in training")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()
    else:  # it compiles a plan for every new shape, and every user's is new: plain is faster without
        torch.backends.cuda.enable_cudnn_sdp(False)
    domain = load_domain(args.data / "amazon-beauty-2014") if args.data else mall()["kitchen"]
    tokenizer = train_tokenizer(domain.items.titles, 8192)
    tokens = title_tokens(tokenizer, domain.items, TextSettings(tokens=None))
    test = leave_one_out(domain).test.take(np.arange(args.turns + 1))
    drawn = draw_candidates(test, CandidateSettings(drawn=DRAWN), SEED)
    random = np.random.default_rng(SEED)
    users = [
        (random.integers(300, len(tokenizer), PROMPT).astype(np.int32),
         [tokens.of(i) for i in row.tolist()])
        for row in drawn
    ]  # fmt: skip
    trees = [len(PrefixTree.of(titles)) for _, titles in users]
    made: dict[str, Any] = {
        "titles": domain.name,
        "shape": args.shape,
        "prompt_tokens": PROMPT,
        "candidates": 1 + DRAWN,
        "distinct_tokens_of_candidates": spread(trees, 0),
        "batch_in_training": args.batch,
        "activation_checkpointing": args.checkpointing,
    }
    start = machine("torch", "transformers")
    if device != "cpu":
        start["gpu"] = torch.cuda.get_device_name()
    vocabulary = VOCABULARY[args.shape] or len(tokenizer)

    def setting(dtype: str, kv_heads: int) -> Setting:
        shape = Shape(kv_heads=kv_heads, vocabulary=vocabulary, window=4096, **SHAPES[args.shape])
        return Setting(shape, dtype, device)

    def note(name: str, found: dict[str, Any]) -> None:
        made[name] = found
        print(name, json.dumps(found), flush=True)
        about = {"device": device, "threads": torch.get_num_threads(), "machine": start}
        args.out.write_text(json.dumps(about | made, indent=1) + "\n", "utf-8")

    for dtype in args.dtypes:
        for kv_heads in KEY_HEADS[args.shape]:
            found = ranking(users, setting(dtype, kv_heads), args.turns)
            heads = SHAPES[args.shape].get("heads", 5)
            note(f"ranking, {dtype}, {kv_heads} key heads of {heads}", found)
    for listed in (True, False):
        pairs = texts_of(domain, tokenizer, listed, args.batch * args.batches)
        for dtype in args.dtypes:
            name = f"training, {dtype}, candidates {'listed' if listed else 'not listed'}"
            chosen = setting(dtype, KEY_HEADS[args.shape][0])
            note(name, training(pairs, chosen, args.batch, args.checkpointing))
    for name, found in made.items():  # at the end, so that no figure is lost
        for what in ("scores", "losses"):
            if "float32" in name and found.get(f"largest_difference_of_{what}", 0.0) > 1e-4:
                raise SystemExit(
                    f"{name}: {what} differ by {found[f'largest_difference_of_{what}']}"
                )


if __name__ == "__main__":
    main()

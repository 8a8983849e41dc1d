"""Tokens a second of a LoRA training step: weft beside stock transformers + PEFT.

    python benchmarks/lora_step.py [--out results/lora_step.json]

MiniLM, LoRA r 16, α 32, dropout 0.05 on every linear but the pooler, the backbone's own dropout
off, AdamW; batches of 64 histories of up to 64 tokens and 64 items of up to 16, of the demo mall.
Three variants, each in a process of its own, take turns of a few steps on the same batches, from
the same first factors: weft (bfloat16 weights), stock with bfloat16 weights, and stock with
float32 weights under bfloat16 autocast. Stock attention is sdpa, as it comes. The steps
are one training run, whose loss curves must agree (dropout masks differ by variant).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from common import machine, spread

VARIANTS = ("weft", "stock_bfloat16", "stock_autocast")
TARGET = 3.0
BATCH, SMOOTH = 64, 10
SEED = 7


def stock_model(precision: str, first: dict[str, Any]) -> Any:
    """transformers + PEFT with its defaults, and `first` factors A."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    from weft.backbones import find_backbone

    model = AutoModel.from_pretrained(find_backbone("minilm"), dtype=getattr(torch, precision))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=list(first))
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, a in first.items():
            wrapped.base_model.model.get_submodule(name).lora_A["default"].weight.copy_(a)
    return wrapped


def stepper(variant: str) -> Callable[[int], tuple[int, float]]:
    """A function that trains on batch i and gives (its tokens, its loss)."""
    import numpy as np
    import torch

    from weft.adapters import LoraSettings, attach, initialise
    from weft.backbones.load import Backbone, find_backbone, load_backbone
    from weft.data.mall import mall
    from weft.data.splits import leave_one_out
    from weft.recommenders.equipped import LoraBackbone, PlainBackbone
    from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings

    settings = BiEncoderSettings(history_items=10, history_tokens=64)
    domain = mall(SEED)["home"]
    train = leave_one_out(domain).train
    train = train.take(np.flatnonzero(train.end >= 4))
    order = np.random.default_rng(SEED).permutation(len(train))
    if variant == "weft":
        backbone = load_backbone("minilm", precision="bfloat16")
        recommender = BiEncoder(LoraBackbone(backbone, LoraSettings(), SEED), settings)
    else:
        from transformers import AutoModel, AutoTokenizer

        folder = find_backbone("minilm")
        attached = attach(AutoModel.from_pretrained(folder), LoraSettings())
        initialise(attached, SEED)
        first = {name: linear.a.detach() for name, linear in attached.items()}
        precision = "bfloat16" if variant == "stock_bfloat16" else "float32"
        model = stock_model(precision, first)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        backbone = Backbone(variant, model, tokenizer, "", "mean", folder)
        recommender = BiEncoder(PlainBackbone(backbone), settings)
    recommender.model.train()
    trained = [p for p in recommender.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    autocast = variant == "stock_autocast"
    tokens = recommender.tokens(domain.items)

    def step(i: int) -> tuple[int, float]:
        batch = train.take(order[np.arange(i * BATCH, (i + 1) * BATCH) % len(order)])
        torch.manual_seed(i)
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss = recommender.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        histories = recommender.assemble_histories(tokens, batch.histories())
        items = recommender.assemble_items(tokens, batch.targets)
        return len(histories.ids) + len(items.ids), float(loss.detach())

    return step


def work(variant: str) -> None:
    """Answer each line "threads first last" with the steps' seconds, tokens and losses."""
    import torch

    step = stepper(variant)
    print("ready", flush=True)
    for line in sys.stdin:
        threads, first, last = map(int, line.split())
        torch.set_num_threads(threads)
        start, start_cpu = time.perf_counter(), time.process_time()
        done = [step(i) for i in range(first, last)]
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        tokens, losses = sum(t for t, _ in done), [loss for _, loss in done]
        answer = {"seconds": seconds, "cpu": cpu, "tokens": tokens, "losses": losses}
        print(json.dumps(answer), flush=True)


class Worker:
    """One variant's process."""

    def __init__(self, variant: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.step, self.losses = 0, list[float]()
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended early")
        return line

    def turn(self, threads: int, steps: int) -> tuple[float, float]:
        """Train a few steps; tokens a second of wall time, and of processor time."""
        assert self.process.stdin is not None
        print(threads, self.step, self.step + steps, file=self.process.stdin, flush=True)
        answer = json.loads(self._line())
        self.step += steps
        self.losses += answer["losses"]
        return answer["tokens"] / answer["seconds"], answer["tokens"] / answer["cpu"]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def times_as_fast(seen: dict[str, list[float]]) -> dict[str, list[float]]:
    """weft's rate over each stock variant's, turn by turn."""
    return {
        variant: [ours / theirs for ours, theirs in zip(seen["weft"], seen[variant], strict=True)]
        for variant in VARIANTS[1:]
    }


def rates(workers: dict[str, Worker], threads: int, turns: int, steps: int) -> dict[str, Any]:
    """Alternate turns; the ratios are of neighbouring turns, so that both saw the same machine."""
    seen: dict[str, list[float]] = {variant: [] for variant in workers}
    seen_cpu: dict[str, list[float]] = {variant: [] for variant in workers}
    for _ in range(turns):
        for variant, worker in workers.items():
            worker.turn(threads, 1)  # awake again: not counted
            wall, cpu = worker.turn(threads, steps)
            seen[variant].append(wall)
            seen_cpu[variant].append(cpu)
    ratios, by_cpu = times_as_fast(seen), times_as_fast(seen_cpu)
    fastest = min(ratios, key=lambda variant: statistics.median(ratios[variant]))
    return {
        "threads": threads,
        "tokens_per_second": {variant: spread(values, 0) for variant, values in seen.items()},
        "weft_times_as_fast_as": {variant: spread(r, 2) for variant, r in ratios.items()},
        # The same by processor time, which other work on the machine hardly touches.
        "weft_times_as_fast_as_by_cpu": {variant: spread(r, 2) for variant, r in by_cpu.items()},
        "fastest_stock": fastest,
        "target_met": statistics.median(ratios[fastest]) >= TARGET,
    }


def smooth(losses: list[float]) -> list[float]:
    return [statistics.fmean(losses[i : i + SMOOTH]) for i in range(len(losses) - SMOOTH + 1)]


def curves(workers: dict[str, Worker]) -> dict[str, Any]:
    """The loss curves, and how far apart they ever are once smoothed."""
    ours = smooth(workers["weft"].losses)
    apart = {}
    for variant in VARIANTS[1:]:
        pairs = zip(ours, smooth(workers[variant].losses), strict=True)
        apart[variant] = round(max(abs(a - b) for a, b in pairs), 4)
    losses = {variant: [round(x, 4) for x in w.losses] for variant, w in workers.items()}
    return {
        "steps": len(workers["weft"].losses),
        "mean_of": SMOOTH,
        "largest_difference_to_weft": apart,
        "loss": losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/lora_step.json"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="in one turn")
    parser.add_argument("--work", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return
    about = machine("torch", "transformers", "peft")
    workers = {variant: Worker(variant) for variant in VARIANTS}
    cores = len(os.sched_getaffinity(0))
    speeds = [rates(workers, cores, args.turns, args.steps)]
    if cores > 1:
        speeds.append(rates(workers, 1, 3, 2))
    report = {"target": TARGET, "speed": speeds, "curves": curves(workers), "machine": about}
    for worker in workers.values():
        worker.end()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report) + "\n", "utf-8")
    print(
        json.dumps(
            {"speed": speeds, "apart": report["curves"]["largest_difference_to_weft"]}, indent=2
        )
    )


if __name__ == "__main__":
    main()

"""What integrating two adapters costs, beside the passes it is made of and beside PEFT's X-LoRA.

    python benchmarks/integrate.py [--out results/integrate.json]

MiniLM in bfloat16, two adapters (LoRA r 16 on query and value, random), prompts of the demo mall with
4 to 14 items of history, batches of two examples with 30 candidates each. In turns, in one process:

- inference: X-Cross (top three quarters of the blocks) against two passes of the plain backbone, which
  has the same short last block, so that the ratio is of integration alone; against the same passes as
  transformers runs them; against PEFT's X-LoRA on the same adapters, stock transformers with its sdpa
  attention, also with X-Cross computing the whole last block; weft's X-LoRA beside it;
- a training step of X-Cross against the forward and backward of the stacked streams in it;
- an epoch of steps whose frozen activations come from disk against one that computes them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import machine, spread

BARS = {"inference": 1.25, "step": 1.5, "x_lora": 2.0, "cached": 1.3}
SEED = 7


def examples_of(count: int) -> Any:
    import numpy as np

    from weft.data.mall import mall
    from weft.data.splits import leave_one_out

    train = leave_one_out(mall(SEED)["home"]).train
    train = train.take(np.flatnonzero((train.end >= 4) & (train.end <= 14)))
    return train.take(np.random.default_rng(SEED).permutation(len(train))[:count])


def adapters(targets: Any) -> list[Any]:
    """Two with random deltas and heads, on the backbone."""
    import torch

    from weft.adapters import LoraSettings, from_attached
    from weft.backbones import load_backbone
    from weft.recommenders.equipped import LoraBackbone
    from weft.recommenders.text.cross_encoder import (
        CrossEncoder,
        CrossEncoderSettings,
    )

    made = []
    for seed in (1, 2):
        backbone = load_backbone("minilm", precision="float32")
        lora = LoraBackbone(backbone, LoraSettings(targets=targets), seed)
        one = CrossEncoder(lora, CrossEncoderSettings())
        random = torch.Generator().manual_seed(seed)
        for linear in one.attached.values():
            linear.b.data = torch.randn(linear.b.shape, generator=random) * 0.02
        made.append(
            from_attached(one.attached, {"backbone": backbone.identity}, one.whole_modules())
        )
    return made


def integrated(parts: list[Any], how: Any, **more: Any) -> Any:
    from weft.backbones import load_backbone
    from weft.data.mall import mall
    from weft.data.splits import leave_one_out
    from weft.integration import integrator_settings
    from weft.recommenders.integrated import IntegratedBackbone
    from weft.recommenders.text.cross_encoder import CrossEncoder, CrossEncoderSettings

    backbone = load_backbone("minilm", precision="bfloat16")
    stacked = IntegratedBackbone(backbone, parts, integrator_settings(how), **more)
    made = CrossEncoder(stacked, CrossEncoderSettings())
    made.prepare([leave_one_out(mall(SEED)["home"]).train])
    return made


def peft_x_lora(parts: list[Any], folder: Path) -> Any:
    """PEFT's X-LoRA over the same adapters, on stock transformers in bfloat16.

    Its loader expects a model whose modules are named `model.…`, as causal models' are: the encoder is
    wrapped in one.
    """
    import torch
    from peft import XLoraConfig, get_peft_model
    from transformers import AutoModel

    from weft.adapters import Adapter, save_adapter
    from weft.backbones import find_backbone

    places = {}
    for number, part in enumerate(parts):
        place = folder / f"adapter-{number}"
        factors = {f"model.{name}": one for name, one in part.factors.items()}
        save_adapter(Adapter(factors, part.manifest), place)  # its head is no part of this
        places[str(number)] = str(place)

    class Wrapped(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, **inputs: Any) -> Any:
            return self.model(**inputs)

    model = Wrapped(AutoModel.from_pretrained(find_backbone("minilm"), dtype=torch.bfloat16))
    model.config.use_cache = False
    config = XLoraConfig(
        task_type="FEATURE_EXTRACTION",
        hidden_size=model.config.hidden_size,
        adapters=places,
        layerwise_scalings=True,
        xlora_depth=1,
    )
    return get_peft_model(model, config).to(torch.bfloat16).eval()


def alternate(works: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each, turn by turn; the first turn is not counted."""
    seen: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                seen[name].append(time.perf_counter() - start)
    return seen


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """Of neighbouring turns, so that both saw the same machine."""
    return spread([a / b for a, b in zip(above, below, strict=True)], 3)


def inference(parts: list[Any], turns: int) -> dict[str, Any]:
    import numpy as np
    import torch

    from weft.backbones import load_backbone
    from weft.recommenders.equipped import PlainBackbone
    from weft.recommenders.text.cross_encoder import CrossEncoder, CrossEncoderSettings

    ours = integrated(parts, "x_cross")
    mixture, one_pass = (
        integrated(parts, {"kind": "x_lora", "form": form}) for form in ("published", "one_pass")
    )
    backbone = PlainBackbone(load_backbone("minilm", precision="bfloat16"))
    short = CrossEncoder(backbone, CrossEncoderSettings())
    whole = load_backbone("minilm", precision="bfloat16").model
    with tempfile.TemporaryDirectory() as place:
        peft = peft_x_lora(parts, Path(place))
    batches = []
    batch = examples_of(8)
    for start in range(0, 8, 2):
        rows = ours.training_rows(batch.take(np.arange(start, start + 2)))
        batches.append(ours.inputs(rows, np.arange(len(rows))))

    def over(run: Callable[[Any, Any], object]) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                for ids, mask in batches:
                    run(ids, mask)

        return work

    def twice(model: Any) -> Callable[[Any, Any], None]:
        def run(ids: Any, mask: Any) -> None:
            for _ in range(2):
                model(input_ids=ids, attention_mask=mask)

        return run

    def whole_last(ids: Any, mask: Any) -> None:
        with ours.equipped.integrator._blocks.all_tokens():
            ours.head_scores(ours.states(ids, mask))

    def by_peft(ids: Any, mask: Any) -> None:
        peft(input_ids=ids, attention_mask=mask)

    seen = alternate(
        {
            "x_cross": over(lambda i, m: ours.head_scores(ours.states(i, m))),
            "two_plain": over(twice(short.model)),
            "two_plain_whole_last_block": over(twice(whole)),
            "x_cross_whole_last_block": over(whole_last),
            "weft_x_lora": over(lambda i, m: mixture.head_scores(mixture.states(i, m))),
            "weft_x_lora_one_pass": over(lambda i, m: one_pass.head_scores(one_pass.states(i, m))),
            "peft_x_lora": over(by_peft),
        },
        turns,
    )
    tokens = sum(int(mask.sum()) for _, mask in batches)
    return {
        "prompts": sum(len(ids) for ids, _ in batches),
        "tokens_in_a_prompt": round(tokens / sum(len(ids) for ids, _ in batches), 1),
        "milliseconds_a_prompt": {
            name: spread([1000 * s / sum(len(i) for i, _ in batches) for s in seconds], 3)
            for name, seconds in seen.items()
        },
        "x_cross_over_two_plain": ratios(seen["x_cross"], seen["two_plain"]),
        "x_cross_over_two_plain_whole_last_block": ratios(
            seen["x_cross"], seen["two_plain_whole_last_block"]
        ),
        "x_cross_times_as_fast_as_peft_x_lora": ratios(seen["peft_x_lora"], seen["x_cross"]),
        "x_cross_whole_last_block_times_as_fast_as_peft_x_lora": ratios(
            seen["peft_x_lora"], seen["x_cross_whole_last_block"]
        ),
        "weft_x_lora_times_as_fast_as_peft_x_lora": ratios(
            seen["peft_x_lora"], seen["weft_x_lora"]
        ),
        "weft_x_lora_one_pass_times_as_fast_as_peft_x_lora": ratios(
            seen["peft_x_lora"], seen["weft_x_lora_one_pass"]
        ),
    }


def training(parts: list[Any], turns: int) -> dict[str, Any]:
    import numpy as np
    import torch

    batch = examples_of(8)
    ours = integrated(parts, "x_cross")
    trained = [p for p in ours.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step(recommender: Any, opt: Any, first: int) -> None:
        recommender.model.train()
        recommender.loss(batch.take(np.arange(first, first + 2))).backward()
        opt.step()
        opt.zero_grad(set_to_none=True)

    def contained(first: int) -> None:
        """The stacked streams alone: below the first integrated block forward, above it both."""
        rows = ours.training_rows(batch.take(np.arange(first, first + 2)))
        ids, mask = ours.inputs(rows, np.arange(len(rows)))
        own = ours.equipped.integrator
        states = own.frozen(ids, mask).requires_grad_()
        n = own.sources
        blocks = own._blocks
        last = blocks.run(ids.repeat(n, 1), mask.repeat(n, 1), start=(own.first + 1, states))
        last.float().sum().backward()

    def every(work: Callable[[int], None]) -> Callable[[], None]:
        return lambda: [work(first) for first in range(0, 8, 2)] and None

    seen = alternate(
        {
            "step": every(lambda first: step(ours, optimizer, first)),
            "contained": every(contained),
        },
        turns,
    )
    with tempfile.TemporaryDirectory() as place:
        kept = integrated(parts, "x_cross", activations=Path(place))
        own = [p for p in kept.model.parameters() if p.requires_grad]
        other = torch.optim.AdamW(own, lr=1e-4)
        epochs = alternate(
            {
                "computed": every(lambda first: step(ours, optimizer, first)),
                "kept": every(lambda first: step(kept, other, first)),
            },
            turns,
        )
        stored = sum(file.stat().st_size for file in Path(place).rglob("*.safetensors"))
    return {
        "examples": 8,
        "seconds": {name: spread(seconds, 3) for name, seconds in (seen | epochs).items()},
        "step_over_contained": ratios(seen["step"], seen["contained"]),
        "kept_epoch_times_as_fast": ratios(epochs["computed"], epochs["kept"]),
        "kept_bytes_an_example": stored // 8,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/integrate.json"))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--targets", default="query-value", help="or all-linear")
    args = parser.parse_args()
    import torch

    about = machine("torch", "transformers", "peft")
    parts, found = adapters(args.targets), []
    cores = len(os.sched_getaffinity(0))
    for threads in sorted({1, cores}, reverse=True):
        torch.set_num_threads(threads)
        read, learn = inference(parts, args.turns), training(parts, args.turns)
        met = {
            "inference": read["x_cross_over_two_plain"]["median"] <= BARS["inference"],
            "step": learn["step_over_contained"]["median"] <= BARS["step"],
            "x_lora": read["x_cross_times_as_fast_as_peft_x_lora"]["median"] >= BARS["x_lora"],
            "cached": learn["kept_epoch_times_as_fast"]["median"] >= BARS["cached"],
        }
        found.append({"threads": threads, "inference": read, "training": learn, "bars_met": met})
    report = {"bars": BARS, "runs": found, "machine": about}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report) + "\n", "utf-8")
    print(json.dumps(found, indent=2))
    print({one["threads"]: one["bars_met"] for one in found})


if __name__ == "__main__":
    main()

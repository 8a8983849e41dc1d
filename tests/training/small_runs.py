"""A small training run, in this process or as a program that waits to be killed.

As a program (`python small_runs.py BACKBONE CHECKPOINTS [half | timed]`) it says "step N" on stdout after
each step and goes on when a line comes in on stdin. With `half` it stops in the middle of writing
its second checkpoint, and says "half"; with `timed` it saves by time alone, every 0 seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.adapters import LoraSettings
from weft.backbones import load_backbone
from weft.recommenders.equipped import LoraBackbone
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings
from weft.training import Trained, TrainingFiles, TrainSettings, train

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import last_of, make_shop

SETTINGS = TrainSettings(
    epochs=6,
    batch=16,
    accumulate=2,
    learning_rate=0.01,
    validate_every=4,
    keep="best",
    checkpoint_every=3,
    log_every=2,
)  # 64 examples: 4 batches an epoch, 12 steps


TIMED = SETTINGS.model_copy(update={"checkpoint_every": None, "checkpoint_every_seconds": 0.0})


def recommender(folder: Path, *, dropout: float = 0.1, seed: int = 1) -> BiEncoder:
    return BiEncoder(
        LoraBackbone(
            load_backbone(str(folder), precision="float32"),
            LoraSettings(rank=2, alpha=4, dropout=dropout),
            seed,
        ),
        BiEncoderSettings(history_tokens=48),
        make_shop().items,
    )


def small_run(
    folder: Path,
    settings: TrainSettings = SETTINGS,
    *,
    seed: int = 1,
    checkpoints: Path | None = None,
    start: str = "",
    **options: Any,
) -> tuple[dict[str, Tensor], Trained]:
    """(final factors by name, what `train` returns)."""
    model = recommender(folder, seed=seed)
    examples = last_of(make_shop())

    def validate() -> float:
        torch.rand(3)  # a validation that draws must not matter
        return -float(model.loss(examples))

    files = TrainingFiles(checkpoints, start)
    trained = train(
        model, [examples], settings, seed=seed, files=files, validate=validate, **options
    )
    return {n: p.detach() for n, p in model.model.named_parameters() if p.requires_grad}, trained


def _stop_halfway() -> None:
    from weft.training import checkpoint

    write, calls = checkpoint.save_file, []

    def half(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        write(tensors, path, **options)
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            print("half", flush=True)
            sys.stdin.readline()

    checkpoint.save_file = half


if __name__ == "__main__":

    def wait(step: int, steps: int, examples: float) -> None:
        print(f"step {step}", flush=True)
        sys.stdin.readline()

    if sys.argv[3:] == ["half"]:
        _stop_halfway()
    settings = TIMED if sys.argv[3:] == ["timed"] else SETTINGS
    small_run(Path(sys.argv[1]), settings, checkpoints=Path(sys.argv[2]), report=wait)

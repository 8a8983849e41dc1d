"""A folder in which the commands and programs of the documents run: tiny stand-ins for what they
name, a backbone of random weights, generated logs, checkpoints that differ by noise."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import COLOURS, THINGS, make_shop, save_encoder
from tiny_lm import save_causal

import weft
from weft.stages.executor import Bounds, Ended, Executor, execute
from weft.stages.stage import Stage

FILMS = {"m0117": "Brief Encounter", "m0042": "The Third Man", "m0203": "The Lady Vanishes"}
SMALL = {  # what makes a recipe of the documents a matter of seconds
    "recommender": {"kind": "bi_encoder", "history_items": 3, "history_tokens": 48},
    "branches": {"examples": 16, "batch": 8, "lora": {"rank": 2, "alpha": 4}},
    "controls": [],
    "evaluate": {"candidates": {"drawn": 9, "by": "uniform"}},
}
LEARNING = {"steps": 2, "probes": {"per_domain": 8}}


def build(folder: Path) -> dict[str, str]:
    """Fill the folder; returns what stands in for names that need a network: name -> path."""
    base = save_encoder("bert", folder / "BASE")
    for number, name in enumerate("ABC"):
        _near(base, folder / name, seed=number)
    write_logs(folder)
    for name in "abc":
        (folder / name).mkdir()
        weft.save_catalogue(make_shop().items, folder / name)
        (folder / name / "items.parquet").rename(folder / f"{name}.parquet")
    mergekit = {
        "merge_method": "linear",
        "models": [{"model": name, "parameters": {"weight": 0.5}} for name in "AB"],
        "dtype": "float32",
    }
    (folder / "mergekit.yaml").write_text(yaml.safe_dump(mergekit))
    (folder / "learning.yaml").write_text(yaml.safe_dump(LEARNING))
    return {"minilm": str(base)}


class InPlace(Executor):
    """Does each stage in this process, when it is submitted: no worker has to start."""

    bounds = Bounds(1)

    def __init__(self, *_: object) -> None:
        self.ended: list[Ended] = []

    def __enter__(self) -> InPlace:
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, stage: Stage, run: Path) -> None:
        execute(stage, run, lambda *_: None)
        self.ended.append(Ended(stage.key))

    def events(self, seconds: float) -> list[Ended]:
        ended, self.ended = self.ended, []
        return ended

    def kill(self) -> None: ...


def small_recipe(text: str, backbone: Path) -> str:
    """A recipe of the documents with tiny sizes; what it says itself stays."""
    return yaml.safe_dump({**SMALL, "backbone": str(backbone), **yaml.safe_load(text)})


def _near(base: Path, folder: Path, *, seed: int) -> None:
    """A checkpoint of the same kind: the base's weights and a little noise."""
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    noise = torch.Generator().manual_seed(seed)
    weights = {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=noise)
        for name, tensor in load_file(base / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_logs(folder: Path) -> None:
    """books.csv and films.csv: 40 customers, 48 titles each, ISO dates."""
    things = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    films = {**FILMS, **{f"m{1000 + row}": f"The {title}" for row, title in enumerate(things[3:])}}
    books = {f"b{row}": title for row, title in enumerate(things)}
    for name, titles in (("books", books), ("films", films)):
        random = np.random.default_rng(3)
        items = list(titles)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["customer", "sku", "when", "name"])
            for user in range(40):
                for step, item in enumerate(random.permutation(len(items))[: 5 + user % 4]):
                    when = datetime.fromtimestamp(1.6e9 + 86400 * (user + 40 * step), UTC)
                    row = [f"u{user}", items[item], when.isoformat(), titles[items[item]]]
                    writer.writerow(row)


# --- what single pages take for granted


def _log(folder: Path) -> dict[str, str]:
    """docs/data.md: a log whose columns are partly named as weft names them."""
    rows = (folder / "films.csv").read_text().splitlines()[1:]
    text = "\n".join(["customer,item_id,timestamp,product", *rows])
    (folder / "log.csv").write_text(text + "\n")
    return {}


def _checkpoints(folder: Path) -> dict[str, str]:
    """docs/mergerec.md: models of three domains with their catalogues, and what a run leaves; weights
    of a RecFormer as they are published, and the configuration of a Longformer."""
    reading = {"kind": "bi_encoder", "text": {"fields": ["title"], "tokens": 16}}
    manifest = {"kind": "checkpoint", "backbone": {"name": "BASE"}, "recommender": reading}
    for part, name in zip("ABC", ("BEAUTY", "TOYS", "FILMS"), strict=True):
        (folder / part).rename(folder / name)
        (folder / f"{part.lower()}.parquet").rename(folder / f"{name.lower()}.parquet")
        (folder / name / "weft.json").write_text(json.dumps(manifest))
    served = folder / "runs/mergerec/recommenders/amazon-office-2014/mergerec"
    shutil.copytree(folder / "TOYS", served)
    weft.save_catalogue(make_shop().items, served)
    (folder / "titles.txt").write_text("red mug\nblue lamp\n")
    (folder / "longformer").mkdir()
    (folder / "FOLDER").mkdir()
    (folder / "longformer/config.json").write_text('{"num_hidden_layers": 2}')
    torch.save({"longformer.embeddings": torch.ones(2), "pooler": torch.ones(2)}, "recformer.bin")
    return {"CollaborativeSettings()": "CollaborativeSettings(steps=2)"}


def _causal(folder: Path) -> dict[str, str]:
    """docs/serving-elsewhere.md: three adapters from PEFT of a small causal model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = save_causal("qwen2", folder / "qwen")
    for seed, name in enumerate(("BEAUTY", "HYBRID-1", "HYBRID-2")):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        )
        get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(name)
    return {"Qwen/Qwen2-7B-Instruct": str(model)}


SAVED = Path(__file__).parent / "recommenders" / "folders_of_0_1"


def _integrator(folder: Path) -> dict[str, str]:
    """docs/x-cross.md: an integrator's folder, two adapters of cross-encoders, and a domain."""
    served = folder / "runs/x-cross/recommenders/amazon-toys-2014/x-cross"
    shutil.copytree(SAVED / "integrator", served)
    shutil.copytree(SAVED / "backbone", folder / "backbone")
    for name, adapter in zip(("sports", "beauty"), sorted(served.glob("adapters/*")), strict=True):
        shutil.copytree(adapter, folder / "adapters" / name)
    weft.save_domain(make_shop(), folder / "data" / "toys")
    small = "CrossEncoderSettings(prompt={'max_tokens': 100}, drawn=4)"
    return {"minilm": "backbone", "CrossEncoderSettings()": small}


def _study(folder: Path) -> dict[str, str]:
    """docs/tutorial.md: a study of the tiny backbone."""
    domains = "domains: [films, books]"
    return {domains: f"backbone: {folder / 'BASE'}\\n{domains}"}


PREPARE: dict[str, Callable[[Path], dict[str, str]]] = {
    "data.md": _log,
    "mergerec.md": _checkpoints,
    "serving-elsewhere.md": _causal,
    "tutorial.md": _study,
    "x-cross.md": _integrator,
}
"""A page -> what fills its folder, and further names that are replaced."""

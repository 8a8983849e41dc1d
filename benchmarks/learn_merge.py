"""What learning merging weights costs, beside a plain step of training the same model.

    python benchmarks/learn_merge.py [--out results/learn_merge.json]

MiniLM, six models that differ from it by noise, catalogues of generated malls. In turns, in one process:

- a step: θ(w) of six task vectors in bfloat16 placed in the model, 16 probes, MergeRec's objective,
  gradients to w, Adam; against the same 16 probes and objective with every parameter trained as weft
  trains them (products in bfloat16, clipping, fused AdamW);
- the whole: 500 steps for six domains, from folders and catalogues to weights, in minutes;
- memory: eight task vectors of a random BERT of 109 million parameters, the peak of a whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import machine, spread

BARS = {"step_over_plain": 2.0, "whole_minutes": 15.0, "peak_gb": 4.0}
SEED = 7


def moved(base: Path, folder: Path, seed: int) -> Path:
    """A copy of a model with a little noise on every tensor."""
    import torch
    from safetensors.torch import load_file, save_file

    from weft.backbones.files import copy_files

    folder.mkdir()
    copy_files(base, folder)
    random = torch.Generator().manual_seed(seed)
    tensors = {
        name: value.float() + 0.01 * torch.randn(value.shape, generator=random)
        if value.is_floating_point()
        else value
        for name, value in load_file(base / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def catalogues(items: int) -> list[Any]:
    """Six catalogues of as many items, of two generated malls."""
    from weft.data.mall import mall

    made = [
        domain.items for seed in (1, 2) for domain in mall(seed, users=40, items=items).values()
    ]
    return made[:6]


def reading() -> Any:
    from weft.recommenders.text.bi_encoder import BiEncoderSettings

    return BiEncoderSettings(history_items=10, history_tokens=96)


def steps(parts: list[Path], base: Path, repeats: int) -> dict[str, Any]:
    """Seconds of both kinds of step, alternately, and their ratio."""
    import torch

    from weft.learning.learner import CollaborativeLearner, Student
    from weft.learning.part_models import PartModels, Reading
    from weft.learning.probes import make_probes
    from weft.learning.settings import CollaborativeSettings
    from weft.merging.merge import plan_merge
    from weft.recommenders.kinds import new_recommender

    settings = CollaborativeSettings()
    job = plan_merge(parts, "task_arithmetic", None, base=str(base))
    models = PartModels(job, Reading(reading(), precision="bfloat16"))
    domains = []
    for k, catalogue in enumerate(catalogues(500)):
        teacher = models.teacher(k, catalogue)
        probes = make_probes(teacher.item_vectors, settings.probes, SEED)
        domains.append(models.view(k, teacher, catalogue, probes))
    times: dict[str, list[float]] = {"learning": [], "plain": []}
    with models.student(settings.weights) as student:
        learner = CollaborativeLearner(student, domains, settings, SEED)
        w = torch.nn.Parameter(torch.full((6, len(student.groups)), 0.2))
        learner.begin(w.detach())
        adam = torch.optim.Adam([w], lr=1e-3)
        whole: Any = new_recommender(str(base), reading(), precision="bfloat16")
        whole_student = Student(whole, student.set_weights, student.groups)
        trained = [p for p in whole.model.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(trained, lr=1e-5, fused=True)

        def learning(step: int) -> None:
            loss = learner.loss(w, step)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()

        def plain(step: int) -> None:
            learner.student = whole_student
            loss = learner.objective_of(learner.rows(step)).mean()
            learner.student = student
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            adamw.step()
            adamw.zero_grad(set_to_none=True)

        ways: dict[str, Callable[[int], None]] = {"learning": learning, "plain": plain}
        for step in range(repeats + 2):
            for name, work in ways.items():
                started = time.perf_counter()
                for more in range(4):
                    work(step * 4 + more)
                if step >= 2:
                    times[name].append((time.perf_counter() - started) / 4)
    ratios = [a / b for a, b in zip(times["learning"], times["plain"], strict=True)]
    return {
        "milliseconds": {
            name: spread([1000 * t for t in found], 1) for name, found in times.items()
        },
        "step_over_plain": spread(ratios, 3),
    }


def whole(parts: list[Path], base: Path, items: int) -> dict[str, Any]:
    """Minutes of the whole learning, 500 steps of 16."""
    from weft.learning.collaborative import learn_collaborative
    from weft.learning.part_models import Reading
    from weft.merging.merge import plan_merge

    started = time.perf_counter()
    plan = plan_merge(parts, "task_arithmetic", None, base=str(base))
    found = learn_collaborative(plan, catalogues(items), reading=Reading(reading()))
    minutes = (time.perf_counter() - started) / 60
    return {
        "domains": 6,
        "items_of_each": items,
        "steps": found.learned.kept_step,
        "whole_minutes": round(minutes, 2),
    }


def large(folder: Path, models: int) -> None:
    """In a process of its own: split and a few steps on a BERT of 110 million; prints gigabytes."""
    import torch
    from transformers import BertConfig, BertModel

    from weft.backbones import find_backbone
    from weft.backbones.files import copy_files
    from weft.learning.collaborative import learn_collaborative
    from weft.learning.part_models import Reading
    from weft.learning.settings import CollaborativeSettings
    from weft.merging.merge import plan_merge

    if not (folder / "base").is_dir():
        torch.manual_seed(0)
        made = BertModel(BertConfig(), add_pooling_layer=False)
        (folder / "base").mkdir()
        copy_files(find_backbone("minilm"), folder / "base")
        made.save_pretrained(folder / "base")
        for seed in range(models):
            moved(folder / "base", folder / f"part{seed}", seed)
        print(json.dumps({}), flush=True)
        return
    parts = [folder / f"part{seed}" for seed in range(models)]
    made_of = (catalogues(60) * 2)[:models]
    settings = CollaborativeSettings(steps=5, held_out=0)
    plan = plan_merge(parts, settings.method, None, base=str(folder / "base"))
    learn_collaborative(plan, made_of, settings, reading=Reading(reading()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        json.dumps(
            {
                "parameters": 108_891_648,
                "task_vectors": models,
                "their_bytes_gb": round(models * 108_891_648 * 2 / 1e9, 2),
                "peak_gb": round(peak, 2),
            }
        )
    )


def memory(models: int = 8) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, __file__, "--large", folder]
        subprocess.run(argv, check=True, capture_output=True)
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--large", type=Path)
    said = parser.parse_args()
    if said.large is not None:
        large(said.large, 8)
        return
    import torch

    from weft.backbones import find_backbone

    found: dict[str, Any] = {"bars": BARS, "machine": machine("torch", "transformers"), "steps": []}
    base = find_backbone("minilm")
    with tempfile.TemporaryDirectory() as folder:
        parts = [moved(base, Path(folder) / f"part{seed}", seed) for seed in range(6)]
        for threads in (2, 1):
            torch.set_num_threads(threads)
            found["steps"].append({"threads": threads, **steps(parts, base, said.repeats)})
            print(json.dumps(found["steps"][-1]), flush=True)
        torch.set_num_threads(2)
        found["whole"] = whole(parts, base, said.items)
        print(json.dumps(found["whole"]), flush=True)
    found["memory"] = memory()
    print(json.dumps(found["memory"]), flush=True)
    found["bars_met"] = {
        "step_over_plain": all(
            one["step_over_plain"]["median"] <= BARS["step_over_plain"] for one in found["steps"]
        ),
        "whole_minutes": found["whole"]["whole_minutes"] <= BARS["whole_minutes"],
        "peak_gb": found["memory"]["peak_gb"] <= BARS["peak_gb"],
    }
    text = json.dumps(found)
    if said.out is not None:
        said.out.write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()

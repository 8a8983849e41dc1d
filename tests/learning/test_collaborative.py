"""Merging weights learned from catalogues: what they reach, replay, refuse and survive."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moved_models import READING, WEIGHTS, adapter_of, catalogue, moved, scorer
from safetensors.torch import load_file, save_file

from weft.adapters import Adapter
from weft.data.domain import Catalogue
from weft.errors import MismatchError, WeftError
from weft.learning.collaborative import CollaborativeWeights, learn_collaborative
from weft.learning.groups import Grouping
from weft.learning.learner import CollaborativeLearner, TeacherView
from weft.learning.objectives import Distillation, Logits, Recommendation
from weft.learning.optimise import LearningRun
from weft.learning.part_models import PartModels, Reading
from weft.learning.probes import ProbeSettings, make_probes
from weft.learning.settings import CollaborativeSettings
from weft.merging.merge import merge, plan_merge
from weft.merging.plan import plan_recipe
from weft.merging.recipe_file import load_merge_recipe

CATALOGUES = [catalogue(0, 24), catalogue(24, 24)]
MANY = [catalogue(0, 150), catalogue(150, 150)]
QUICK = {"steps": 60, "learning_rate": 0.02, "held_out": 8}


@pytest.fixture(scope="module")
def parts(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    return [moved(tiny_bert, folder / f"part{seed}", seed) for seed in (1, 2)]


def learn(
    parts: Sequence[Any],
    base: Path | None,
    catalogues: Sequence[Catalogue] = CATALOGUES,
    *,
    backbone: Path | None = None,
    seed: int = 0,
    checkpoints: Path | None = None,
    **changes: Any,
) -> CollaborativeWeights:
    settings = CollaborativeSettings(**(QUICK | changes))
    plan = plan_merge(parts, settings.method, None, base=base)
    reading = read_by(backbone)
    run = LearningRun(checkpoints)
    return learn_collaborative(plan, catalogues, settings, reading=reading, seed=seed, run=run)


def read_by(backbone: Path | None = None) -> Reading:
    return Reading(READING, None if backbone is None else str(backbone), "float32")


@pytest.mark.parametrize("weights", ["domain", "layer"])
@pytest.mark.parametrize(
    "method", ["task_arithmetic", {"name": "ties", "weigh": "after"}], ids=["arithmetic", "ties"]
)
def test_learning_lowers_the_objective_on_probes_that_did_not_learn(
    parts: list[Path], tiny_bert: Path, method: Any, weights: str
) -> None:
    result = learn(parts, tiny_bert, MANY, method=method, weights=weights, held_out=30)
    values = result.learned.held_out
    assert values[-1] < values[0]
    assert len(result.groups) == (1 if weights == "domain" else 3)


@pytest.mark.parametrize("weights", ["domain", "layer"])
def test_the_static_engine_replays_what_was_learned(
    parts: list[Path], tiny_bert: Path, tmp_path: Path, weights: Grouping
) -> None:
    """Scores of the merged folder are those of the model while it learned; and the folder's own
    recipe gives the same bits again."""
    result = learn(parts, tiny_bert, weights=weights)
    plan_recipe(result.recipe).run(tmp_path / "merged")
    job = plan_merge(parts, "task_arithmetic", None, base=tiny_bert)
    with PartModels(job, read_by()).student(weights) as student, torch.no_grad():
        student.set_weights(torch.tensor(result.learned.coefficients))
        wanted = [student.recommender.encode_items(one) for one in CATALOGUES]
    for one, vectors in zip(CATALOGUES, wanted, strict=True):
        assert np.allclose(scorer(tmp_path / "merged", one).item_vectors, vectors, atol=2e-5)
    again = plan_recipe(load_merge_recipe(tmp_path / "merged" / "weft.json"))
    again.run(tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (
        tmp_path / "merged" / WEIGHTS
    ).read_bytes()


def test_two_copies_of_one_model_learn_to_add_up_to_it(parts: list[Path], tiny_bert: Path) -> None:
    """Both teachers are that model, so the student is best where the weights sum to 1."""
    result = learn(
        [parts[0], parts[0]], tiny_bert, recommendation=0, refresh=5, steps=150, held_out=0
    )
    assert sum(row[0] for row in result.learned.coefficients) == pytest.approx(1, abs=0.1)


def test_a_part_that_is_the_base_moves_nothing(parts: list[Path], tiny_bert: Path) -> None:
    result = learn([parts[0], tiny_bert], tiny_bert, steps=5)
    assert result.learned.coefficients[1] == [pytest.approx(0.2, abs=1e-6)]  # a vector of zeros


def test_the_same_seed_learns_the_same_and_another_does_not(
    parts: list[Path], tiny_bert: Path
) -> None:
    first, again, other = (learn(parts, tiny_bert, seed=seed, steps=10) for seed in (1, 1, 2))
    assert first.learned.coefficients == again.learned.coefficients
    assert first.learned.coefficients != other.learned.coefficients


@pytest.mark.parametrize(
    "changes",
    [
        {"distillation": 0},
        {"recommendation": 0},
        {"recommendation": 0, "distillation": 0, "entropy": 1},
        {"distillation": 0, "labels": "merged"},
        {"mask_self": True},
        {"mask_self": True, "distillation": 0, "tau_rec": 0.05},
        {"refresh": 5},
        {"probes": {"per_domain": 6}},
        {"probes": {"per_domain": 6, "choose": "centroid"}},
        {"probes": {"length": 3}},
        {"method": "dare"},
    ],
    ids=str,
)
def test_every_objective_and_probe_moves_the_weights(
    parts: list[Path], tiny_bert: Path, changes: dict[str, Any]
) -> None:
    result = learn(parts, tiny_bert, **(changes | {"steps": 12}))
    values = np.array(result.learned.coefficients)
    assert np.isfinite(values).all()
    assert (np.abs(values - 0.2) > 1e-4).all()
    assert len(result.learned.curve) >= 12


def test_the_objective_is_the_papers(parts: list[Path], tiny_bert: Path) -> None:
    """L_Rec + 1000 L_KD by hand: vectors of all items by each model, one softmax a row."""
    job = plan_merge(parts, "task_arithmetic", None, base=tiny_bert)
    models = PartModels(job, read_by())
    settings = CollaborativeSettings(held_out=0, batch=48)
    domains = []
    for k, one in enumerate(CATALOGUES):
        teacher = models.teacher(k, one)
        probes = make_probes(teacher.item_vectors, settings.probes, 0)
        domains.append(models.view(k, teacher, one, probes))
    with models.student("domain") as student:
        learner = CollaborativeLearner(student, domains, settings, 0)
        learner.begin(torch.tensor([[0.2], [0.2]]))
        result = float(learner.loss(torch.tensor([[0.5], [0.1]]), 0))
    merged = {}
    for name, weights in (("first", [0.2, 0.2]), ("now", [0.5, 0.1])):
        folder = parts[0].parent / f"by hand {name}"
        merge(parts, "task_arithmetic", weights, base=tiny_bert, out=folder)
        merged[name] = [scorer(folder, one).item_vectors for one in CATALOGUES]
    total = []
    for k, one in enumerate(CATALOGUES):
        vectors = scorer(parts[k], one).item_vectors.astype(np.float64)
        a = vectors @ vectors.T
        b = merged["now"][k].astype(np.float64) @ merged["first"][k].astype(np.float64).T
        p, q = (np.exp(x / 0.05) / np.exp(x / 0.05).sum(1, keepdims=True) for x in (a, b))
        kd = 0.05**2 * (p * np.log(p / q)).sum(1)
        rec = np.log(np.exp(b).sum(1)) - b[np.arange(24), a.argmax(1)]
        total.append(rec + 1000 * kd)
    assert result == pytest.approx(float(np.mean(total)), rel=2e-4)


def test_masked_items_are_no_class_of_either_distribution() -> None:
    teacher, student = torch.rand(3, 5), torch.rand(3, 5, requires_grad=True)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[:, 2] = True
    masked = Logits(student.masked_fill(mask, -torch.inf), teacher.masked_fill(mask, -torch.inf))
    short = Logits(student[:, [0, 1, 3, 4]], teacher[:, [0, 1, 3, 4]])
    for objective in (Distillation(), Recommendation(0.05)):
        assert torch.allclose(objective(masked), objective(short))
    (gradient,) = torch.autograd.grad(Distillation()(masked).sum(), student)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 2] == 0).all()


# --- adapters


@pytest.mark.parametrize("weights", ["domain", "layer"])
def test_adapters_learn_and_replay_as_checkpoints_do(tiny_bert: Path, weights: Grouping) -> None:
    adapters = [adapter_of(tiny_bert, seed, scale=0.1) for seed in (1, 2)]
    changes = {"weights": weights, "held_out": 30, "recommendation": 0, "refresh": 5}
    result = learn(adapters, None, MANY, backbone=tiny_bert, **changes)
    values = result.learned.held_out
    assert values[-1] < values[0]
    merged = plan_recipe(result.recipe).run()
    assert isinstance(merged, Adapter)
    job = plan_merge(adapters, "task_arithmetic", None)
    with PartModels(job, read_by(tiny_bert)).student(weights) as student, torch.no_grad():
        student.set_weights(torch.tensor(result.learned.coefficients))
        wanted = student.recommender.encode_items(CATALOGUES[0])
    assert np.allclose(scorer(tiny_bert, CATALOGUES[0], merged).item_vectors, wanted, atol=2e-5)


# --- isolation


def test_there_is_no_way_to_pass_an_interaction() -> None:
    """What goes in are parts, catalogues and, for one choice of probes, counts of items."""
    taken = set(inspect.signature(learn_collaborative).parameters)
    assert taken == {"plan", "catalogues", "settings", "reading", "seed", "popularity", "run"}
    assert {one.name for one in fields(Reading)} == {
        "recommender", "backbone", "precision", "device", "cache",
    }  # fmt: skip
    assert set(Catalogue.__dataclass_fields__) == {"frame"}


# --- bad input


def test_a_catalogue_without_text_or_with_one_item_is_refused(
    parts: list[Path], tiny_bert: Path
) -> None:
    blank = catalogue(title=["", ""])
    with pytest.raises(WeftError, match=r"'part2' has 0 items with text, and ranking takes two"):
        learn(parts, tiny_bert, [CATALOGUES[0], blank])
    with pytest.raises(WeftError, match=r"'part2' has 1 item with text, and ranking takes two"):
        learn(parts, tiny_bert, [CATALOGUES[0], catalogue(0, 1)])
    with pytest.raises(WeftError, match=r"2 parts need 2 catalogues, one each"):
        learn(parts, tiny_bert, CATALOGUES[:1])


def test_items_without_text_are_left_out_with_a_note(parts: list[Path], tiny_bert: Path) -> None:
    titles = [*CATALOGUES[1].titles[:10], "", ""]
    result = learn(parts, tiny_bert, [CATALOGUES[0], catalogue(title=titles)], steps=5)
    assert result.notes == ("2 items of 'part2' have no text: left out",)
    short = learn(parts, tiny_bert, [CATALOGUES[0], catalogue(title=titles[:10])], steps=5)
    assert result.learned.coefficients == short.learned.coefficients


def test_a_model_that_gives_nan_is_named(parts: list[Path], tiny_bert: Path) -> None:
    rotten = np.full((24, 32), np.nan, np.float32)
    probes = make_probes(np.eye(24, 32, dtype=np.float32), ProbeSettings(), 0)
    with pytest.raises(WeftError, match="model of 'toys' gives items vectors of NaN"):
        TeacherView("toys", CATALOGUES[0], probes, rotten, rotten)


def test_a_checkpoint_of_nan_is_refused(parts: list[Path], tiny_bert: Path, tmp_path: Path) -> None:
    rotten = moved(tiny_bert, tmp_path / "rotten", 5)
    tensors = load_file(rotten / WEIGHTS)
    tensors["encoder.layer.0.output.dense.bias"][3] = float("nan")
    save_file(tensors, rotten / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(WeftError, match=r"rotten.*(NaN|nan)|(NaN|nan).*rotten"):
        learn([parts[0], rotten], tiny_bert)


def test_parts_of_another_architecture_or_tokenizer_are_refused(
    parts: list[Path], tiny_bert: Path, tmp_path: Path
) -> None:
    from tiny import save_encoder

    roberta = save_encoder("roberta", tmp_path / "roberta")
    with pytest.raises(WeftError, match="roberta"):
        learn([parts[0], roberta], tiny_bert)
    other = moved(tiny_bert, tmp_path / "other", 5)
    text = (other / "tokenizer.json").read_text("utf-8")
    assert '"mug"' in text
    (other / "tokenizer.json").write_text(text.replace('"mug"', '"jug"'), "utf-8")
    with pytest.raises(WeftError, match="tokenizer"):
        learn([parts[0], other], tiny_bert)


def test_weights_that_diverge_are_stopped_and_the_best_kept(
    parts: list[Path], tiny_bert: Path
) -> None:
    result = learn(parts, tiny_bert, steps=400, learning_rate=30.0)
    assert "best coefficients" in result.learned.stopped
    assert result.learned.stopped in result.notes
    assert result.learned.kept_step < 400
    assert np.isfinite(result.learned.coefficients).all()
    best = min(result.learned.held_out)
    last = next(
        v for s, _, v in result.learned.curve if s == result.learned.kept_step and v is not None
    )
    assert last == best


def test_settings_of_another_method_than_the_plan_are_refused(
    parts: list[Path], tiny_bert: Path
) -> None:
    plan = plan_merge(parts, {"name": "ties", "weigh": "after"}, None, base=tiny_bert)
    with pytest.raises(MismatchError, match=r"planned by ties and .* weights for task_arithmetic"):
        learn_collaborative(plan, CATALOGUES, CollaborativeSettings())


def test_settings_that_make_no_sense_are_refused() -> None:
    for changes, words in (
        ({"recommendation": 0, "distillation": 0}, "can't all be 0"),
        ({"method": "ties"}, "does not keep the parts apart"),
        ({"labels": "merged", "probes": {"length": 3}}, "probes of one item"),
        ({"probes": {"choose": "centroid"}}, "needs per_domain"),
    ):
        with pytest.raises(ValueError, match=words):
            CollaborativeSettings(**changes)


# --- a kill

PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from moved_models import READING, catalogue
from weft.learning.collaborative import learn_collaborative
from weft.learning.optimise import LearningRun
from weft.learning.part_models import Reading
from weft.learning.settings import CollaborativeSettings
from weft.merging.merge import plan_merge

learned = learn_collaborative(
    plan_merge({parts!r}, "task_arithmetic", None, base={base!r}),
    [catalogue(0, 24), catalogue(24, 24)],
    CollaborativeSettings(steps=90, learning_rate=0.02, held_out=8),
    reading=Reading(READING, precision="float32"),
    run=LearningRun(Path({scratch!r}), lambda step, steps, _: print(step, flush=True)),
).learned
print("end", learned.coefficients, flush=True)
"""


def test_killed_learning_goes_on_and_ends_the_same(
    parts: list[Path], tiny_bert: Path, tmp_path: Path
) -> None:
    tests = Path(__file__).parent
    values = {
        "paths": [str(tests), str(tests.parent)],
        "parts": [str(part) for part in parts],
        "base": str(tiny_bert),
    }

    def start(scratch: Path) -> subprocess.Popen[str]:
        program = PROGRAM.format(**values, scratch=str(scratch))
        return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)

    process = start(tmp_path / "killed")
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "40":
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed, _ = start(tmp_path / "killed").communicate()
    whole, _ = start(tmp_path / "whole").communicate()
    assert resumed.splitlines()[0] == "26"  # it was kept at step 25
    assert whole.splitlines()[0] == "1"
    assert resumed.splitlines()[-1] == whole.splitlines()[-1]


def test_a_checkpoint_of_other_catalogues_is_not_resumed(
    parts: list[Path], tiny_bert: Path, tmp_path: Path
) -> None:
    other = [catalogue(48, 24), catalogue(72, 24)]
    wanted = learn(parts, tiny_bert, other, steps=30)
    learn(parts, tiny_bert, steps=30, checkpoints=tmp_path)
    again = learn(parts, tiny_bert, other, steps=30, checkpoints=tmp_path)
    assert again.learned.coefficients == wanted.learned.coefficients


def test_adapters_have_the_weights_of_their_sum(tiny_bert: Path) -> None:
    adapters = [adapter_of(tiny_bert, seed) for seed in (1, 2)]
    with pytest.raises(WeftError, match="of adapters the weights of task_arithmetic"):
        learn(adapters, None, backbone=tiny_bert, method={"name": "ties", "weigh": "after"})
    with pytest.raises(WeftError, match="adapters needs their backbone"):
        learn(adapters, None)

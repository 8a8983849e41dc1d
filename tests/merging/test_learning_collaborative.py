"""Merging weights learned from catalogues: what they reach, replay, refuse and survive."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_made import READING, WEIGHTS, adapter_of, catalogue, moved, scorer
from safetensors.torch import load_file, save_file

from weft.adapters import Adapter
from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.learning.collaborative import CollaborativeSettings, Learner, Taught
from weft.learning.groups import make_groups
from weft.learning.objectives import Distillation, Logits, Recommendation
from weft.learning.probes import ProbeSettings, make_probes
from weft.learning.sources import Collaborated, Sources, learn_collaborative
from weft.merging import merge_adapters
from weft.merging.merge import merge, plan_merge, plan_recipe, run_merge
from weft.merging.recipe import load_merge_recipe
from weft.merging.weights import Weights, resolve_weights

CATALOGUES = [catalogue(0, 24), catalogue(24, 24)]
MANY = [catalogue(0, 150), catalogue(150, 150)]
QUICK = {"steps": 60, "learning_rate": 0.02, "held_out": 8}


@pytest.fixture(scope="module")
def parts(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    return [moved(tiny_bert, folder / f"part{seed}", seed) for seed in (1, 2)]


def learned(
    parts: list[Any], base: Path | None, catalogues: Any = None, seed: int = 0, **changes: Any
) -> Collaborated:
    own = {k: changes.pop(k) for k in ("backbone", "checkpoints", "popularity") if k in changes}
    settings = CollaborativeSettings(**(QUICK | changes))
    return learn_collaborative(
        parts, catalogues or CATALOGUES, READING, settings, base=base, seed=seed,
        precision="float32", **own,
    )  # fmt: skip


def held_out(found: Collaborated) -> list[float]:
    return [value for _, _, value in found.learned.curve if value is not None]


@pytest.mark.parametrize("weights", ["domain", "layer"])
@pytest.mark.parametrize(
    "method", ["task_arithmetic", {"name": "ties", "weigh": "after"}], ids=["arithmetic", "ties"]
)
def test_learning_lowers_the_objective_on_probes_that_did_not_learn(
    parts: list[Path], tiny_bert: Path, method: Any, weights: str
) -> None:
    found = learned(parts, tiny_bert, MANY, method=method, weights=weights, held_out=30)
    values = held_out(found)
    assert values[-1] < values[0]
    assert len(found.groups) == (1 if weights == "domain" else 3)


@pytest.mark.parametrize("weights", ["domain", "layer"])
def test_the_static_engine_replays_what_was_learned(
    parts: list[Path], tiny_bert: Path, tmp_path: Path, weights: str
) -> None:
    """Scores of the merged folder are those of the model while it learned; and the folder's own
    recipe gives the same bits again."""
    found = learned(parts, tiny_bert, weights=weights)
    merge(parts, "task_arithmetic", found.specs, base=tiny_bert, out=tmp_path / "merged")
    job = plan_merge(parts, "task_arithmetic", None, base=tiny_bert)
    sources = Sources(job, tiny_bert, None, READING, "float32", "cpu", None)
    settings = CollaborativeSettings(weights=weights)
    with sources.student(settings) as (student, place, _), torch.no_grad():
        place(torch.tensor(found.learned.coefficients))
        wanted = [student.encode_items(one) for one in CATALOGUES]
    for one, vectors in zip(CATALOGUES, wanted, strict=True):
        assert np.allclose(scorer(tmp_path / "merged", one).item_vectors, vectors, atol=2e-5)
    again = plan_recipe(load_merge_recipe(tmp_path / "merged" / "weft.json"))
    run_merge(again, tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (
        tmp_path / "merged" / WEIGHTS
    ).read_bytes()


def test_two_copies_of_one_model_learn_to_add_up_to_it(parts: list[Path], tiny_bert: Path) -> None:
    """Both teachers are that model, so the student is best where the weights sum to 1."""
    found = learned(
        [parts[0], parts[0]], tiny_bert, recommendation=0, refresh=5, steps=150, held_out=0
    )
    assert sum(row[0] for row in found.learned.coefficients) == pytest.approx(1, abs=0.1)


def test_a_part_that_is_the_base_moves_nothing(parts: list[Path], tiny_bert: Path) -> None:
    found = learned([parts[0], tiny_bert], tiny_bert, steps=5)
    assert found.learned.coefficients[1] == [pytest.approx(0.2, abs=1e-6)]  # a vector of zeros


def test_the_same_seed_learns_the_same_and_another_does_not(
    parts: list[Path], tiny_bert: Path
) -> None:
    first, again, other = (learned(parts, tiny_bert, seed=seed, steps=10) for seed in (1, 1, 2))
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
    found = learned(parts, tiny_bert, **(changes | {"steps": 12}))
    values = np.array(found.learned.coefficients)
    assert np.isfinite(values).all()
    assert (np.abs(values - 0.2) > 1e-4).all()
    assert len(found.learned.curve) >= 12


def test_the_objective_is_the_papers(parts: list[Path], tiny_bert: Path) -> None:
    """L_Rec + 1000 L_KD by hand: vectors of all items by each model, one softmax a row."""
    job = plan_merge(parts, "task_arithmetic", None, base=tiny_bert)
    sources = Sources(job, tiny_bert, None, READING, "float32", "cpu", None)
    settings = CollaborativeSettings(held_out=0, batch=48)
    domains = [sources.taught(k, one, settings, 0) for k, one in enumerate(CATALOGUES)]
    w = torch.tensor([[0.2], [0.2]])
    with sources.student(settings) as (student, place, _):
        learner = Learner(student, place, domains, settings, 0)
        learner._look(w, 0)
        found = float(learner.loss(torch.tensor([[0.5], [0.1]]), 0))
    merged = {}
    for name, weights in (("first", [0.2, 0.2]), ("now", [0.5, 0.1])):
        folder = parts[0].parent / f"by hand {name}"
        merge(parts, "task_arithmetic", weights, base=tiny_bert, out=folder)
        merged[name] = [scorer(folder, one).item_vectors for one in CATALOGUES]
    total = []
    for k, one in enumerate(CATALOGUES):
        own = scorer(parts[k], one).item_vectors.astype(np.float64)
        a = own @ own.T
        b = merged["now"][k].astype(np.float64) @ merged["first"][k].astype(np.float64).T
        p, q = (np.exp(x / 0.05) / np.exp(x / 0.05).sum(1, keepdims=True) for x in (a, b))
        kd = 0.05**2 * (p * np.log(p / q)).sum(1)
        rec = np.log(np.exp(b).sum(1)) - b[np.arange(24), a.argmax(1)]
        total.append(rec + 1000 * kd)
    assert found == pytest.approx(float(np.mean(total)), rel=2e-4)


def test_masked_items_are_no_class_of_either_distribution() -> None:
    teacher, student = torch.rand(3, 5), torch.rand(3, 5, requires_grad=True)
    own = torch.zeros(3, 5, dtype=torch.bool)
    own[:, 2] = True
    masked = Logits(student.masked_fill(own, -torch.inf), teacher.masked_fill(own, -torch.inf))
    short = Logits(student[:, [0, 1, 3, 4]], teacher[:, [0, 1, 3, 4]])
    for objective in (Distillation(), Recommendation(0.05)):
        assert torch.allclose(objective(masked), objective(short))
    (gradient,) = torch.autograd.grad(Distillation()(masked).sum(), student)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 2] == 0).all()


# --- adapters


@pytest.mark.parametrize("weights", ["domain", "layer"])
def test_adapters_learn_and_replay_as_checkpoints_do(tiny_bert: Path, weights: str) -> None:
    adapters = [adapter_of(tiny_bert, seed, scale=0.1) for seed in (1, 2)]
    how = {"weights": weights, "held_out": 30, "recommendation": 0, "refresh": 5}
    found = learned(adapters, None, MANY, backbone=str(tiny_bert), **how)
    values = held_out(found)
    assert values[-1] < values[0]
    merged = merge_adapters(adapters, "task_arithmetic", _resolved(found, adapters))
    job = plan_merge(adapters, "task_arithmetic", None)
    sources = Sources(job, None, str(tiny_bert), READING, "float32", "cpu", None)
    made = sources.student(CollaborativeSettings(weights=weights))
    with made as (student, place, _), torch.no_grad():
        place(torch.tensor(found.learned.coefficients))
        wanted = student.encode_items(CATALOGUES[0])
    assert np.allclose(scorer(tiny_bert, CATALOGUES[0], merged).item_vectors, wanted, atol=2e-5)


def _resolved(found: Collaborated, adapters: list[Adapter]) -> Weights:
    return resolve_weights(found.specs, list(adapters[0].factors), ("a", "b"))


# --- isolation


def test_no_interaction_can_be_given() -> None:
    """What goes in are parts, catalogues and, for one choice of probes, counts of items."""
    taken = set(inspect.signature(learn_collaborative).parameters)
    assert taken == {
        "parts", "catalogues", "recommender", "settings", "base", "backbone", "labels", "seed",
        "union", "one_backbone", "tokenizer", "popularity", "precision", "device", "cache", "checkpoints", "report",
    }  # fmt: skip
    assert set(Catalogue.__dataclass_fields__) == {"frame"}


# --- groups and probes


def test_layer_groups_are_blocks_and_the_rest_and_their_rules_find_the_same() -> None:
    names = [
        "embeddings.word.weight", "encoder.layer.0.a.weight", "encoder.layer.1.a.weight",
        "encoder.layer.10.a.weight", "pooler.dense.weight",
    ]  # fmt: skip
    groups = make_groups("layer", names)
    assert groups.labels == ("encoder.layer.0", "encoder.layer.1", "encoder.layer.10", "others")
    assert [groups.of[name] for name in names] == [3, 0, 1, 2, 3]
    specs = groups.specs([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    resolved = resolve_weights(specs, names, ("a", "b"))
    for name in names:
        place = groups.of[name]
        assert list(resolved(name)) == [place + 1.0, place + 5.0]


def test_probes_of_a_catalogue() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    every = make_probes(vectors, ProbeSettings(), 0)
    assert [one.tolist() for one in every.histories] == [[row] for row in range(40)]
    counts = np.arange(40)[::-1].copy()
    popular = make_probes(
        vectors, ProbeSettings(per_domain=3, choose="popular"), 0, popularity=counts
    )
    assert [one.tolist() for one in popular.histories] == [[0], [1], [2]]
    central = make_probes(vectors, ProbeSettings(per_domain=5, choose="centroid"), 0)
    assert 1 <= len(central) <= 5
    walks = make_probes(vectors, ProbeSettings(length=4, neighbours=1), 0)
    for walk in walks.histories:
        assert len(set(walk.tolist())) == 4
        scores = vectors[walk[0]] @ vectors.T
        scores[walk[0]] = -np.inf
        assert walk[1] == scores.argmax()  # of one neighbour there is no choice
    with pytest.raises(WeftError, match="needs each item's popularity"):
        make_probes(vectors, ProbeSettings(per_domain=3, choose="popular"), 0)


# --- bad input


def test_a_catalogue_without_text_or_with_one_item_is_refused(
    parts: list[Path], tiny_bert: Path
) -> None:
    blank = catalogue(title=["", ""])
    with pytest.raises(WeftError, match=r"'part2' has 0 items with text, and ranking takes two"):
        learned(parts, tiny_bert, [CATALOGUES[0], blank])
    with pytest.raises(WeftError, match=r"'part2' has 1 item with text, and ranking takes two"):
        learned(parts, tiny_bert, [CATALOGUES[0], catalogue(0, 1)])
    with pytest.raises(WeftError, match=r"2 parts need 2 catalogues, one each"):
        learned(parts, tiny_bert, CATALOGUES[:1])


def test_items_without_text_are_left_out_and_said(parts: list[Path], tiny_bert: Path) -> None:
    titles = [*CATALOGUES[1].titles[:10], "", ""]
    found = learned(parts, tiny_bert, [CATALOGUES[0], catalogue(title=titles)], steps=5)
    assert found.notes == ("2 items of 'part2' have no text: left out",)
    short = learned(parts, tiny_bert, [CATALOGUES[0], catalogue(title=titles[:10])], steps=5)
    assert found.learned.coefficients == short.learned.coefficients


def test_a_model_that_gives_nan_is_named(parts: list[Path], tiny_bert: Path) -> None:
    rotten = np.full((24, 32), np.nan, np.float32)
    probes = make_probes(np.eye(24, 32, dtype=np.float32), ProbeSettings(), 0)
    with pytest.raises(WeftError, match="model of 'toys' gives items vectors of NaN"):
        Taught("toys", CATALOGUES[0], probes, rotten, rotten)


def test_a_checkpoint_of_nan_is_refused(parts: list[Path], tiny_bert: Path, tmp_path: Path) -> None:
    rotten = moved(tiny_bert, tmp_path / "rotten", 5)
    tensors = load_file(rotten / WEIGHTS)
    tensors["encoder.layer.0.output.dense.bias"][3] = float("nan")
    save_file(tensors, rotten / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(WeftError, match=r"rotten.*(NaN|nan)|(NaN|nan).*rotten"):
        learned([parts[0], rotten], tiny_bert)


def test_parts_of_another_architecture_or_tokenizer_are_refused(
    parts: list[Path], tiny_bert: Path, tmp_path: Path
) -> None:
    from tiny import save_encoder

    roberta = save_encoder("roberta", tmp_path / "roberta")
    with pytest.raises(WeftError, match="roberta"):
        learned([parts[0], roberta], tiny_bert)
    other = moved(tiny_bert, tmp_path / "other", 5)
    text = (other / "tokenizer.json").read_text("utf-8")
    assert '"mug"' in text
    (other / "tokenizer.json").write_text(text.replace('"mug"', '"jug"'), "utf-8")
    with pytest.raises(WeftError, match="tokenizer"):
        learned([parts[0], other], tiny_bert)


def test_weights_that_diverge_are_stopped_and_the_best_kept(
    parts: list[Path], tiny_bert: Path
) -> None:
    found = learned(parts, tiny_bert, steps=400, learning_rate=30.0)
    assert "best coefficients" in found.learned.stopped
    assert found.learned.stopped in found.notes
    assert found.learned.kept_step < 400
    assert np.isfinite(found.learned.coefficients).all()
    best = min(held_out(found))
    kept = next(
        v for s, _, v in found.learned.curve if s == found.learned.kept_step and v is not None
    )
    assert kept == best


def test_settings_that_make_no_sense_are_refused() -> None:
    for changes, said in (
        ({"recommendation": 0, "distillation": 0}, "can't all be 0"),
        ({"method": "ties"}, "does not keep the parts apart"),
        ({"labels": "merged", "probes": {"length": 3}}, "probes of one item"),
        ({"probes": {"choose": "centroid"}}, "needs per_domain"),
    ):
        with pytest.raises(ValueError, match=said):
            CollaborativeSettings(**changes)


# --- a kill

PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from learning_made import READING, catalogue
from weft.learning.collaborative import CollaborativeSettings
from weft.learning.sources import learn_collaborative

def tell(step, steps, _):
    print(step, flush=True)

found = learn_collaborative(
    {parts!r}, [catalogue(0, 24), catalogue(24, 24)], READING,
    CollaborativeSettings(steps=90, learning_rate=0.02, held_out=8), base={base!r},
    precision="float32", checkpoints=Path({scratch!r}), report=tell,
)
print("end", found.learned.coefficients, flush=True)
"""


def test_killed_learning_goes_on_and_ends_the_same(
    parts: list[Path], tiny_bert: Path, tmp_path: Path
) -> None:
    tests = Path(__file__).parent
    how = {
        "paths": [str(tests), str(tests.parent)],
        "parts": [str(part) for part in parts],
        "base": str(tiny_bert),
    }

    def start(scratch: Path) -> subprocess.Popen[str]:
        program = PROGRAM.format(**how, scratch=str(scratch))
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


def test_what_was_kept_of_other_catalogues_is_not_taken_up(
    parts: list[Path], tiny_bert: Path, tmp_path: Path
) -> None:
    other = [catalogue(48, 24), catalogue(72, 24)]
    wanted = learned(parts, tiny_bert, other, steps=30)
    learned(parts, tiny_bert, steps=30, checkpoints=tmp_path)
    again = learned(parts, tiny_bert, other, steps=30, checkpoints=tmp_path)
    assert again.learned.coefficients == wanted.learned.coefficients


def test_adapters_have_the_weights_of_their_sum(tiny_bert: Path) -> None:
    adapters = [adapter_of(tiny_bert, seed) for seed in (1, 2)]
    with pytest.raises(WeftError, match="of adapters the weights of task_arithmetic"):
        learned(adapters, None, backbone=str(tiny_bert), method={"name": "ties", "weigh": "after"})
    with pytest.raises(WeftError, match="adapters needs their backbone"):
        learned(adapters, None)

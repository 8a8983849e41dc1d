"""Training that goes on from another branch: its adapter, or its checkpoint in the backbone's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from world import CROSS, do, recipe

from weft.errors import MismatchError, SettingError
from weft.settings import validate
from weft.systems.plan import BranchOptions, Plan
from weft.systems.stages.merging import MergeAdapters
from weft.systems.weaverec.recipe import WeaveRecRecipe

STILL = {"learning_rate": 1e-12, "epochs": 1}  # so that it ends where it began


def plan_of(backbone: Path, changes: dict[str, Any] | None = None) -> Plan:
    return Plan(validate(WeaveRecRecipe, recipe(backbone, **(changes or {}))), None, "cpu")


def options(plan: Plan, **changes: Any) -> dict[str, Any]:
    """Branches of the recipe, with changes."""
    return {"branches": plan.recipe.branches.model_copy(update=changes)}


@pytest.mark.parametrize("changes", [{}, CROSS], ids=["bi_encoder", "cross_encoder"])
def test_a_branch_goes_on_from_anothers_adapter(
    backbone: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    plan = plan_of(backbone, changes)
    first = plan.adapter_branch(["home"], 3)
    still = BranchOptions(**options(plan, **STILL), start=first)
    second = plan.adapter_branch(["toys"], 3, still)
    further = plan.adapter_branch(["home"], 3, BranchOptions(start=first))
    do([second, further], tmp_path)
    before, same, after = (one.adapter(tmp_path) for one in (first, second, further))
    for name, factors in before.factors.items():
        torch.testing.assert_close(same.factors[name].delta(), factors.delta())
    for name, tensor in before.saved.items():
        torch.testing.assert_close(same.saved[name], tensor)
    assert any(
        not torch.allclose(after.factors[name].b, factors.b)
        for name, factors in before.factors.items()
    )
    assert first.key != further.key and same.manifest["domains"] == ["toys"]


def test_a_branch_goes_on_from_a_merge(backbone: Path, tmp_path: Path) -> None:
    plan = plan_of(backbone)
    parts = (plan.adapter_branch(["home"], 3), plan.adapter_branch(["toys"], 3))
    merged = MergeAdapters(label="merge", parts=parts, weights=(0.25, 0.75), rank=2)
    still = BranchOptions(**options(plan, **STILL), start=merged)
    onward = plan.adapter_branch(["toys"], 3, still)
    do([onward], tmp_path)
    before, after = (one.adapter(tmp_path) for one in (merged, onward))
    for name, factors in before.factors.items():
        torch.testing.assert_close(after.factors[name].delta(), factors.delta())


def test_factors_of_another_rank_are_refused(backbone: Path, tmp_path: Path) -> None:
    plan = plan_of(backbone)
    lora = plan.recipe.branches.lora.model_copy(update={"rank": 1})
    first = plan.adapter_branch(["home"], 3, BranchOptions(**options(plan, lora=lora)))
    second = plan.adapter_branch(["home"], 3, BranchOptions(start=first))
    with pytest.raises(MismatchError, match="has rank 1 in the adapter to go on from, and rank 2"):
        do([second], tmp_path)


def test_checkpoints_and_adapters_go_on_from_a_checkpoint(backbone: Path, tmp_path: Path) -> None:
    plan = plan_of(backbone)
    everything = {"parameters": "all", "learning_rate": 3e-3, "epochs": 1}
    first = plan.checkpoint_branch(["home"], 3, BranchOptions(**options(plan, **everything)))
    still = options(plan, **everything | STILL)
    second = plan.checkpoint_branch(["toys"], 3, BranchOptions(**still, start=first))
    adapter = plan.adapter_branch(["toys"], 3, BranchOptions(start=first))
    onward = plan.adapter_branch(["home"], 3, BranchOptions(start=adapter))
    measured = plan.evaluation("toys", "adapted", onward)
    do([second, measured], tmp_path)
    before, after = (
        load_file(one.checkpoint(tmp_path) / "model.safetensors") for one in (first, second)
    )
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)
    backbones = {one.adapter(tmp_path).fingerprint for one in (adapter, onward)}
    plain = plan.adapter_branch(["toys"], 3)
    do([plain], tmp_path)
    assert len(backbones) == 1 and plain.adapter(tmp_path).fingerprint not in backbones
    assert len(measured.result(tmp_path).values("ndcg@5")) > 0  # measured on the checkpoint

    with pytest.raises(SettingError, match="can't be trained on from an adapter"):
        plan.checkpoint_branch(["toys"], 3, BranchOptions(start=adapter))

"""What merged adapters keep of PEFT's configuration, which dtype they have, and untrained parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_adapters import adapter
from safetensors.torch import load_file

from weft.adapters import Adapter, Factors, PeftHeader, load_adapter, save_adapter
from weft.errors import WeftError
from weft.merging import merge_adapters
from weft.merging.merge import merge


def headed(seed: int, **entries: object) -> Adapter:
    return replace(adapter(seed), peft=PeftHeader(modules_to_save=(), **entries))  # type: ignore[arg-type]


def test_one_task_is_kept_and_two_are_refused() -> None:
    causal, bare = {"task_type": "CAUSAL_LM"}, {"auto_mapping": {"base_model_class": "BertModel"}}
    assert (
        merge_adapters([headed(1, **causal), headed(2, **causal)]).header.task_type == "CAUSAL_LM"
    )
    assert merge_adapters([headed(1, **bare), headed(2, **causal)]).header.task_type == "CAUSAL_LM"
    plain = merge_adapters([headed(1, **bare), headed(2)]).header
    assert plain.task_type is None and plain.auto_mapping == {"base_model_class": "BertModel"}
    with pytest.raises(WeftError, match=r"task_type is CAUSAL_LM in part 1 and SEQ_CLS in part 2"):
        merge_adapters([headed(1, **causal), headed(2, task_type="SEQ_CLS")])
    other = {"auto_mapping": {"base_model_class": "RobertaModel"}}
    with pytest.raises(WeftError, match=r"base_model_class is BertModel .* RobertaModel in part 2"):
        merge_adapters([headed(1, **bare), headed(2, **other)])
    with pytest.raises(WeftError, match=r"revision is v1 in part 1 and v2 in part 2"):
        merge_adapters([headed(1, revision="v1"), headed(2, revision="v2")])


def test_an_adapter_of_wefts_own_training_says_its_backbones_task(tmp_path: Path) -> None:
    for task, expected in [({"task": "CAUSAL_LM"}, "CAUSAL_LM"), ({}, "FEATURE_EXTRACTION")]:
        merged = merge_adapters([adapter(1, **task), adapter(2, **task)])
        assert merged.header.task_type == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_are_written_in_the_dtype_that_is_asked_for(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for seed, path in enumerate(paths, start=1):
        save_adapter(adapter(seed, dtype=dtype), path, dtype=dtype)
        assert load_adapter(path).dtype is dtype
    name = str(dtype).removeprefix("torch.")
    merge(paths, "linear", [0.5, 0.5], dtype=name, out=tmp_path / "small")
    merge(paths, "linear", [0.5, 0.5], out=tmp_path / "full")
    small = load_file(tmp_path / "small" / "adapter_model.safetensors")
    full = load_file(tmp_path / "full" / "adapter_model.safetensors")
    assert {one.dtype for one in full.values()} == {torch.float32}
    assert all(torch.equal(small[key], one.to(dtype)) for key, one in full.items())
    in_memory = merge(paths, "linear", [0.5, 0.5], dtype=name)
    assert isinstance(in_memory, Adapter)
    assert in_memory.weights_hash == load_adapter(tmp_path / "small").weights_hash


def test_the_command_says_what_becomes_of_small_factors(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from weft.cli.main import app

    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    for seed, path in enumerate(paths, start=1):
        save_adapter(adapter(seed, dtype=torch.bfloat16), Path(path), dtype=torch.bfloat16)
    run = ["merge", *paths, "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, run)
    assert "the parts are bfloat16, the merge is float32: --dtype bfloat16 keeps" in done.stderr
    done = CliRunner().invoke(app, [*run[:-1], str(tmp_path / "small"), "--dtype", "bfloat16"])
    assert done.exit_code == 0 and "bfloat16" not in done.stderr
    assert load_adapter(tmp_path / "small").dtype is torch.bfloat16


def test_a_part_that_changes_nothing_is_refused_by_name(tmp_path: Path) -> None:
    trained = adapter(1)
    zero = {n: Factors(f.a, torch.zeros_like(f.b), f.scaling) for n, f in trained.factors.items()}
    silent = {n: Factors(f.a, f.b, 0.0) for n, f in trained.factors.items()}
    for number, factors in enumerate((zero, silent)):
        untrained = replace(trained, factors=factors)
        save_adapter(untrained, tmp_path / f"untrained-{number}")
        for part in (untrained, tmp_path / f"untrained-{number}"):
            with pytest.raises(WeftError, match=r"toys changes nothing: its factors are zero"):
                merge([trained, part], "linear", labels=["books", "toys"])
        merge([trained, untrained], "linear", [1.0, 0.0])  # takes no part
        saving = replace(untrained, saved={"norm.weight": torch.ones(3)})
        merge([replace(trained, saved={"norm.weight": torch.zeros(3)}), saving], "linear")

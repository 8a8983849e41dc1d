"""An adapter folder that an earlier version wrote loads to the last bit, and is written the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from weft.adapters import load_adapter, save_adapter

OLD = Path(__file__).parent / "adapter_of_0_1"


def numbers(start: int, *shape: int) -> Tensor:
    """What the folder was written with."""
    return (
        torch.arange(torch.Size(shape).numel()).reshape(shape).float() * 7 + start
    ) % 11 / 8 - 0.5


@pytest.mark.parametrize("lazy", [False, True])
def test_it_loads_to_the_last_bit(lazy: bool) -> None:
    adapter = load_adapter(OLD, lazy=lazy)
    query, value = (f"encoder.layer.0.attention.{name}" for name in ("query", "value"))
    assert list(adapter.factors) == [query, value, "encoder.layer.1.attention.query"]
    assert torch.equal(adapter.factors[query].a, numbers(1, 2, 6))
    assert torch.equal(adapter.factors[value].b, numbers(4, 4, 3))
    assert [shape.scaling for shape in adapter.shapes.values()] == [2.0, 0.1, 1 / 3]
    assert torch.equal(adapter.saved["scorer.bias"], numbers(8, 1))
    tokens = adapter.tokens["embeddings.word_embeddings"]
    assert tokens.indices == (3, 9)
    assert torch.equal(tokens.rows, numbers(9, 2, 6))
    assert adapter.manifest["domains"] == ["toys", "games"]
    assert adapter.weights_hash == json.loads((OLD / "weft.json").read_text())["weights_hash"]


def test_it_is_written_the_same(tmp_path: Path) -> None:
    save_adapter(load_adapter(OLD), tmp_path / "again")
    for file in OLD.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name

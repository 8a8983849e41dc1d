"""Which coefficient each tensor gets, and that a recipe's rules say the same."""

from __future__ import annotations

from weft.learning.groups import make_groups
from weft.merging.weights import resolve_weights


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

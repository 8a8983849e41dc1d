"""RecFormer: what it is told of each token, its attention, and folders of published names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import save_tokenizer
from torch import Tensor

from weft.backbones import load_backbone
from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.recommenders.kinds import make_recommender, new_recommender
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings
from weft.text import TextSettings

READING = BiEncoderSettings(
    text=TextSettings(fields=["title", "brand?"], keys=True, field_tokens=8, tokens=None),
    history_items=4,
    history_tokens=96,
)
ITEMS = Catalogue(
    pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["red mug", "blue table", "green chair", "amber lamp"],
            "brand": ["no", "", "red", "no"],
        }
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 2 layers, its file as published ones are: names behind `longformer.`."""
    from safetensors.torch import load_file, save_file

    from weft.backbones.recformer import RecformerConfig, RecformerModel

    place = tmp_path_factory.mktemp("backbones") / "recformer"
    place.mkdir()
    config = RecformerConfig(
        vocab_size=save_tokenizer(place),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=200,
        attention_window=[8, 8],
        pad_token_id=0,
        bos_token_id=2,
        max_item_embeddings=6,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    RecformerModel(config).save_pretrained(place)
    tensors = load_file(place / "model.safetensors")
    renamed = {f"longformer.{name}": value for name, value in tensors.items()}
    save_file(renamed, place / "model.safetensors", metadata={"format": "pt"})
    return place


def scorer(folder: Path, **changes: object) -> BiEncoder:
    settings = READING.model_copy(update=changes)
    made = make_recommender(str(folder), settings, ITEMS, precision="float32")
    assert isinstance(made, BiEncoder)
    return made


def test_tokens_are_told_apart_by_kind_and_item_the_most_recent_first(folder: Path) -> None:
    made = scorer(folder)
    tokens = made.tokens(ITEMS)
    inputs = made.assemble_histories(tokens, [np.array([0, 1])])
    read = made.backbone.tokenizer.convert_ids_to_tokens(inputs.ids.tolist())
    assert read[:1] == ["[CLS]"]
    assert "".join(read[1:]).replace("##", "") == "titlebluetable" + "titleredmug" + "brandno"
    assert inputs.items is not None
    assert inputs.keys is not None
    key = len(tokens.of(1)) - 2  # letters of "title"
    wanted = [0] + [1] * (key + 2) + [2] * (len(inputs.ids) - key - 3)
    assert inputs.items.tolist() == wanted
    assert inputs.keys.tolist()[: key + 3] == [False] + [True] * key + [False, False]


def test_a_history_of_one_item_is_read_as_the_item(folder: Path) -> None:
    made = scorer(folder)
    users = made.encode(made.assemble_histories(made.tokens(ITEMS), [np.array([2])]))
    assert np.allclose(users[0], made.item_vectors[2], atol=1e-6)


def naive(folder: Path, ids: Tensor, types: Tensor, items: Tensor) -> Tensor:
    """The first token's state by full attention matrices under Longformer's rules."""
    model = load_backbone(str(folder), precision="float32").model
    embed, count = model.embeddings, len(ids)
    positions = torch.arange(1, count + 1)
    hidden = embed.LayerNorm(
        embed.word_embeddings(ids)
        + embed.position_embeddings(positions)
        + embed.token_type_embeddings(types)
        + embed.item_position_embeddings(items)
    )
    near = (positions[:, None] - positions[None, :]).abs() <= 4
    near[:, 0] = True  # all see the first token
    for block in model.encoder.layer:
        own = block.attention.self

        def heads(values: Tensor) -> Tensor:
            return values.view(count, 4, 8).transpose(0, 1)

        q, k, v = (heads(getattr(own, name)(hidden)) for name in ("query", "key", "value"))
        scores = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(~near, -torch.inf)
        out = torch.softmax(scores, -1) @ v
        q, k, v = (
            heads(getattr(own, f"{name}_global")(hidden)) for name in ("query", "key", "value")
        )
        first = torch.softmax(q[:, :1] @ k.transpose(1, 2) / 8**0.5, -1) @ v  # it sees all
        out = torch.cat([first, out[:, 1:]], dim=1).transpose(0, 1).reshape(count, 32)
        hidden = block.attention.output(out[None], hidden[None])[0]
        hidden = block.output(block.intermediate(hidden[None]), hidden[None])[0]
    return hidden[0]


def test_vectors_are_those_of_full_matrices_whatever_stands_in_the_batch(folder: Path) -> None:
    made = scorer(folder)
    histories = [np.array([0, 1, 2, 3]), np.array([3])]
    inputs = made.assemble_histories(made.tokens(ITEMS), histories)
    found = made.encode(inputs)
    for row in range(2):
        start, end = inputs.offsets[row : row + 2]
        assert inputs.items is not None
        assert inputs.keys is not None
        items = torch.from_numpy(inputs.items[start:end]).long()
        keys = torch.from_numpy(inputs.keys[start:end])
        types = torch.where(items == 0, 0, torch.where(keys, 1, 2))
        with torch.no_grad():
            wanted = naive(folder, torch.from_numpy(inputs.of(row)).long(), types, items)
        wanted = torch.nn.functional.normalize(wanted, dim=0)
        assert np.allclose(found[row], wanted.numpy(), atol=1e-5)


def test_every_embedding_counts(folder: Path) -> None:
    """Fields' names and items' places change a vector, not only its words."""
    made = scorer(folder)
    inputs = made.assemble_histories(made.tokens(ITEMS), [np.array([0, 1])])
    with torch.no_grad():
        before = made.embed(inputs, np.array([0]))
        for name in ("token_type_embeddings", "item_position_embeddings"):
            table = made.model.get_submodule(f"embeddings.{name}")
            kept = table.weight[2].clone()
            table.weight[2] += torch.linspace(-1, 1, 32)
            assert not torch.allclose(made.embed(inputs, np.array([0])), before, atol=1e-3)
            table.weight[2] = kept


def test_it_trains_and_its_copy_is_loaded_again(folder: Path, tmp_path: Path) -> None:
    from tiny import last_of, make_shop

    from weft.backbones.files import write_copy
    from weft.training import TrainSettings, train

    shop = make_shop()
    made = new_recommender(str(folder), READING, shop.items, precision="float32")
    assert isinstance(made, BiEncoder)
    before = made.item_vectors
    settings = TrainSettings(epochs=2, batch=16, learning_rate=1e-3, log_every=1)
    outcome = train(made, [last_of(shop)], settings, seed=0)
    losses = [loss for _, loss, _ in outcome.curve if loss is not None]
    assert losses[-1] < losses[0]
    after = made.item_vectors
    assert not np.allclose(before, after, atol=1e-3)
    (tmp_path / "copy").mkdir()
    write_copy(folder, made.model, tmp_path / "copy")
    again = make_recommender(str(tmp_path / "copy"), READING, shop.items, precision="float32")
    assert isinstance(again, BiEncoder)
    assert np.allclose(again.item_vectors, after, atol=1e-6)


def test_more_items_than_positions_are_refused(folder: Path) -> None:
    with pytest.raises(WeftError, match=r"history_items is 6, and the backbone .* knows 5 item"):
        scorer(folder, history_items=6)


def test_pickled_weights_are_not_opened(tmp_path: Path, folder: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(WeftError, match="a pickle file can run code and is never read"):
        load_backbone(str(tmp_path / "pickled"))


def test_merging_weights_are_learned_and_replayed_as_of_any_encoder(
    folder: Path, tmp_path: Path
) -> None:
    from moved_models import moved

    from weft.learning.collaborative import learn_collaborative
    from weft.learning.part_models import PartModels, Reading
    from weft.learning.settings import CollaborativeSettings
    from weft.merging.merge import merge, plan_merge

    parts = [moved(folder, tmp_path / f"part{seed}", seed) for seed in (1, 2)]
    settings = CollaborativeSettings(steps=6, learning_rate=0.05, held_out=0, weights="layer")
    reading = Reading(READING, precision="float32")
    plan = plan_merge(parts, "task_arithmetic", None, base=folder)
    result = learn_collaborative(plan, [ITEMS, ITEMS], settings, reading=reading)
    assert len(result.groups) == 3
    coefficients = result.learned.coefficients
    assert all(abs(value - 0.2) > 1e-3 for row in coefficients for value in row)
    merge(parts, "task_arithmetic", result.weights, base=folder, out=tmp_path / "merged")
    with PartModels(plan, reading).student("layer") as student, torch.no_grad():
        student.set_weights(torch.tensor(coefficients))
        wanted = student.recommender.encode_items(ITEMS)
    assert np.allclose(scorer(tmp_path / "merged").item_vectors, wanted, atol=2e-5)

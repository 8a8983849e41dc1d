"""Training every parameter of a backbone, and the checkpoint that comes of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import last_of, make_shop, save_encoder

from weft.backbones import load_backbone
from weft.backbones.files import write_copy
from weft.errors import WeftError
from weft.recommenders.equipped import WholeBackbone
from weft.recommenders.kinds import make_recommender, new_recommender, recommender_settings
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings
from weft.training import TrainSettings, loop, train

READING = BiEncoderSettings(history_tokens=48)
SHORT = TrainSettings(epochs=3, batch=16, learning_rate=1e-3, log_every=1)


def whole(folder: Path) -> BiEncoder:
    made = new_recommender(str(folder), READING, make_shop().items, precision="float32")
    assert isinstance(made, BiEncoder)
    return made


def test_every_parameter_moves_and_the_loss_falls(tiny_encoder: Path) -> None:
    made = whole(tiny_encoder)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    trained = train(made, [last_of(make_shop())], SHORT, seed=1)
    losses = [loss for _, loss, _ in trained.curve if loss is not None]
    assert losses[-1] < losses[0]
    still = {name for name, p in made.model.named_parameters() if torch.equal(p, before[name])}
    assert all("pooler" in name or "token_type" in name for name in still)


@pytest.mark.parametrize("fused", [False, True])
def test_vectors_follow_the_weights_of_either_optimizer(
    tiny_bert: Path, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused step changes weights behind autograd's back; kept vectors must notice."""
    monkeypatch.setattr(loop, "FUSED_FROM", 0 if fused else 10**12)
    made = whole(tiny_bert)
    seen = []

    def validate() -> float:
        seen.append(made.item_vectors.copy())
        return 0.0

    settings = SHORT.model_copy(update={"validate_every": 2})
    train(made, [last_of(make_shop())], settings, seed=1, validate=validate)
    assert len(seen) > 2
    for one, other in itertools.pairwise(seen):
        assert not np.allclose(one, other, atol=1e-5)
    fresh = made.encode_items(made.catalogue)
    assert np.allclose(made.item_vectors, fresh, atol=1e-6)


def test_a_checkpoint_is_the_source_with_other_weights_and_scores_alike(
    tiny_bert: Path, tmp_path: Path
) -> None:
    made = whole(tiny_bert)
    train(made, [last_of(make_shop())], SHORT, seed=1)
    (tmp_path / "copy").mkdir()
    write_copy(tiny_bert, made.model, tmp_path / "copy")
    source, copy = (load_file(f / "model.safetensors") for f in (tiny_bert, tmp_path / "copy"))
    assert {n: v.shape for n, v in source.items()} == {n: v.shape for n, v in copy.items()}
    again = make_recommender(
        str(tmp_path / "copy"), READING, make_shop().items, precision="float32"
    )
    assert isinstance(again, BiEncoder)
    assert np.allclose(again.item_vectors, made.item_vectors, atol=1e-6)


def test_products_in_bfloat16_keep_float32_weights(tiny_bert: Path) -> None:
    made = new_recommender(str(tiny_bert), READING, make_shop().items, precision="bfloat16")
    assert isinstance(made, BiEncoder)
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    exact = whole(tiny_bert)
    rows = last_of(make_shop())
    assert float(made.loss(rows).detach()) == pytest.approx(
        float(exact.loss(rows).detach()), rel=0.05
    )
    train(made, [rows], SHORT, seed=1)


def test_what_cannot_be_trained_in_full_is_refused(tiny_bert: Path) -> None:
    loaded = load_backbone(str(tiny_bert), precision="bfloat16")
    with pytest.raises(WeftError, match=r"is bfloat16; training all parameters needs float32"):
        BiEncoder(WholeBackbone(loaded), READING)
    with pytest.raises(WeftError, match="of a bi_encoder, not a cross_encoder"):
        new_recommender(str(tiny_bert), recommender_settings({"kind": "cross_encoder"}))


def test_a_file_without_a_trained_parameter_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    made = whole(tiny_bert)
    other = save_encoder("bert", tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    lost = tensors.pop("encoder.layer.1.output.dense.bias")
    assert lost is not None
    from safetensors.torch import save_file

    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "copy").mkdir()
    with pytest.raises(WeftError, match=r"no tensor for .* 'encoder.layer.1.output.dense.bias'"):
        write_copy(other, made.model, tmp_path / "copy")

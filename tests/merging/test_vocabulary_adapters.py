"""Adapters that save embeddings whole: rows of different tokens are not added up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from vocabulary_cases import fast_tokenizer

from weft.errors import WeftError, WeftNotice
from weft.merging.merge import merge


def adapter(folder: Path, added: Sequence[str] | None, seed: int) -> Path:
    """A PEFT adapter that saves the embedding whole, with the tokenizer beside it."""
    random = torch.Generator().manual_seed(seed)
    stem = "base_model.model.model"
    saved = {
        f"{stem}.layers.0.q.lora_A.weight": torch.randn(2, 4, generator=random),
        f"{stem}.layers.0.q.lora_B.weight": torch.randn(3, 2, generator=random),
        f"{stem}.embed_tokens.weight": torch.randn(12, 4, generator=random),
    }
    folder.mkdir()
    save_file(saved, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "m",
              "target_modules": ["q"], "modules_to_save": ["embed_tokens"]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if added is not None:
        (folder / "tokenizer.json").write_text(json.dumps(fast_tokenizer(added)))
    return folder


def test_embeddings_that_adapters_save_whole_are_compared_too(tmp_path: Path) -> None:
    one = adapter(tmp_path / "one", ("<im_start>", "<im_end>"), 1)
    other = adapter(tmp_path / "other", ("<im_end>", "<im_start>"), 2)
    with pytest.raises(WeftError) as error:
        merge([one, other], out=tmp_path / "out")
    assert str(error.value) == (
        "one and other have rows of embeddings, and their tokenizers differ: token '<im_end>' is "
        "row 11 in one and row 10 in other; fold each into a checkpoint (weft fold) and merge these "
        "with --tokenizer base or union, or say that rows mean the same in all (--tokenizer rows)"
    )
    merge([one, other], weights=[0.5, 0.5], out=tmp_path / "out", tokenizer="rows")
    with pytest.raises(WeftError, match="tokenizer is for checkpoints: fold each"):
        merge([one, other], out=tmp_path / "out2", tokenizer="union")
    same = adapter(tmp_path / "same", ("<im_start>", "<im_end>"), 3)
    merge([one, same], weights=[0.5, 0.5], out=tmp_path / "out3")
    bare = adapter(tmp_path / "bare", None, 4)
    with pytest.warns(WeftNotice, match="bare has rows of embeddings and no tokenizer file"):
        merge([one, bare], weights=[0.5, 0.5], out=tmp_path / "out4")

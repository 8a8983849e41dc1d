"""A BERT encoder and its tokenizer for use, without importing transformers: asking a recommender then
starts in half the time.

The same products in the same order as transformers' BertModel with weft's attention gives the same
bits. Whatever is not known to be the same is left to transformers: `load_light` gives None then.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from weft.artifacts.atomic import read_json
from weft.backbones.cpu import short_attention
from weft.backbones.files import CONFIG
from weft.errors import WeftError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_ROLES = ("unk", "sep", "pad", "cls", "mask", "bos", "eos")
# Entries of a configuration that change nothing of what is computed for use.
_NEEDED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
}
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


class Encoded(NamedTuple):
    """What the encoder gives: [n, tokens, d]."""

    last_hidden_state: Tensor


# Parameters come from a file at once: drawing them first would cost time, and imports.
class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        pass


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        pass


class _Norm(nn.LayerNorm):
    def reset_parameters(self) -> None:
        pass


class _Embeddings(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.word_embeddings = _Embedding(c.vocab_size, c.hidden_size, padding_idx=c.pad_token_id)
        self.position_embeddings = _Embedding(c.max_position_embeddings, c.hidden_size)
        self.token_type_embeddings = _Embedding(c.type_vocab_size, c.hidden_size)
        self.LayerNorm = _Norm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        kinds = self.token_type_embeddings(torch.zeros_like(ids))
        places = self.position_embeddings(torch.arange(ids.shape[1], device=ids.device)[None])
        out: Tensor = self.LayerNorm(self.word_embeddings(ids) + kinds + places)
        return out


class _SelfAttention(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.width = c.hidden_size // c.num_attention_heads
        for name in ("query", "key", "value"):
            self.add_module(name, _Linear(c.hidden_size, c.hidden_size))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        shape = (*hidden.shape[:-1], -1, self.width)
        q, k, v = (
            self.get_submodule(name)(hidden).view(shape).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        out, _ = short_attention(self, q, k, v, mask, scaling=self.width**-0.5)
        return out.reshape(*hidden.shape[:-1], -1).contiguous()


class _Output(nn.Module):
    def __init__(self, inside: int, c: SimpleNamespace) -> None:
        super().__init__()
        self.dense = _Linear(inside, c.hidden_size)
        self.LayerNorm = _Norm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(hidden) + residual)
        return out


class _Layer(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": _SelfAttention(c), "output": _Output(c.hidden_size, c)}
        )
        dense = _Linear(c.hidden_size, c.intermediate_size)
        self.intermediate = nn.ModuleDict({"dense": dense})
        self.output = _Output(c.intermediate_size, c)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        attended = self.attention["output"](self.attention["self"](hidden, mask), hidden)
        inside = nn.functional.gelu(self.intermediate["dense"](attended))
        out: Tensor = self.output(inside, attended)
        return out


class LightBert(nn.Module):
    """BertModel with a pooler that is never used; its modules have transformers' names, so that adapters
    fit."""

    base_model_prefix = "bert"

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.pooler = nn.ModuleDict({"dense": _Linear(config.hidden_size, config.hidden_size)})

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Hidden states [n, tokens, d] for ids and mask [n, tokens] int64."""
        hidden = self.embeddings(input_ids)
        mask = None
        if not attention_mask.all():
            seen = attention_mask.bool()[:, None, None, :]
            nothing = torch.zeros((), dtype=hidden.dtype, device=hidden.device)
            mask = torch.where(seen, nothing, torch.finfo(hidden.dtype).min)
            mask = mask.expand(-1, 1, hidden.shape[1], -1)
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            hidden = layer(hidden, mask)
        return Encoded(hidden)


class LightTokenizer:
    """What weft asks of a tokenizer, over the `tokenizers` backend alone."""

    def __init__(self, backend: Tokenizer, tokens: dict[str, str]) -> None:
        self.backend_tokenizer = backend
        self.ids = {role: backend.token_to_id(token) for role, token in tokens.items()}

    def __getattr__(self, name: str) -> int | None:
        role = name.removesuffix("_token_id")
        if role == name or role not in _ROLES:
            raise AttributeError(name)
        return self.ids.get(role)

    @property
    def all_special_ids(self) -> list[int]:
        return [one for one in dict.fromkeys(self.ids.values()) if one is not None]

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        added: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return added


def load_light(folder: Path, dtype: torch.dtype) -> tuple[LightBert, LightTokenizer] | None:
    """The model, for use, and tokenizer of a BERT's folder; None for what only transformers knows."""
    try:
        config, tokenizer = _config(folder), _tokenizer(folder)
        if config is None or tokenizer is None:
            return None
        with torch.device("meta"):
            model = LightBert(config)
        tensors = _tensors(folder, set(model.state_dict()), dtype)
        if tensors is None:
            return None
        model.load_state_dict(tensors, assign=True)
    except (WeftError, SafetensorError, OSError, RuntimeError, TypeError, ValueError, KeyError):
        return None  # transformers reports what is wrong, or can read it
    return model.requires_grad_(True).eval(), tokenizer


def _config(folder: Path) -> SimpleNamespace | None:
    values = read_json(folder / CONFIG)
    if any(values.get(name, needed) != needed for name, needed in _NEEDED.items()):
        return None
    if (
        values.get("model_type") != "bert"
        or "quantization_config" in values
        or "auto_map" in values
    ):
        return None
    sizes = {name: values[name] for name in _SIZES}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        return None
    more = {"layer_norm_eps": values["layer_norm_eps"], "pad_token_id": values["pad_token_id"]}
    return SimpleNamespace(model_type="bert", **sizes, **more)


def _tensors(folder: Path, names: set[str], dtype: torch.dtype) -> dict[str, Tensor] | None:
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                plain = name.removeprefix("bert.")
                if plain in names:
                    if (
                        plain in tensors
                        or not (tensor := file.get_tensor(name)).is_floating_point()
                    ):
                        return None
                    tensors[plain] = tensor.to(dtype)
    for name in names - set(tensors):  # a folder may lack the pooler
        if name.startswith("pooler."):
            width = tensors["embeddings.word_embeddings.weight"].shape[1]
            shape = (width, width) if name.endswith("weight") else (width,)
            tensors[name] = torch.zeros(shape, dtype=dtype)
    return tensors if set(tensors) == names else None


def _tokenizer(folder: Path) -> LightTokenizer | None:
    """A WordPiece tokenizer of BERT's, where its two files agree."""
    config = read_json(folder / TOKENIZER_CONFIG)
    written = read_json(folder / TOKENIZER)
    kind = config.get("tokenizer_class")
    if kind not in (
        "BertTokenizer",
        "BertTokenizerFast",
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
    ):
        return None
    if any(config.get(name) for name in ("additional_special_tokens", "extra_special_tokens")):
        return None
    if config.get("add_prefix_space") is not None or "auto_map" in config:
        return None
    if kind.startswith("Bert") and not _as_bert(config, written):
        return None
    tokens = {role: config.get(f"{role}_token") for role in _ROLES}
    named = {r: t["content"] if isinstance(t, dict) else t for r, t in tokens.items() if t}
    tokenizer = LightTokenizer(Tokenizer.from_file(str(folder / TOKENIZER)), named)
    known = {one["id"] for one in written["added_tokens"] if one["special"]}
    if None in tokenizer.ids.values() or set(tokenizer.ids.values()) != known:
        return None
    return tokenizer


def _as_bert(config: dict[str, Any], written: dict[str, Any]) -> bool:
    """Whether tokenizer.json is what transformers' BertTokenizer makes of its settings."""
    model = {key: value for key, value in written["model"].items() if key != "vocab"}
    return (
        written["normalizer"]
        == {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": config.get("do_lower_case", True),
        }
        and written["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and model
        == {
            "type": "WordPiece",
            "unk_token": config.get("unk_token", "[UNK]"),
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        }
        and written["post_processor"]["type"] == "TemplateProcessing"
        and all(config.get(f"{role}_token") for role in ("unk", "sep", "pad", "cls", "mask"))
    )

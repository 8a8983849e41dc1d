"""The shape of a small causal language model of a published architecture, to be trained from scratch."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator

from weft.settings import StrictModel

Architecture = Literal["qwen2", "qwen3", "llama"]


class Shape(StrictModel):
    """Sizes of a Qwen2, Qwen3 or Llama model with tied input and output embeddings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Architecture = "qwen2"
    hidden: int = Field(default=320, ge=8, description="width of the residual stream")
    layers: int = Field(default=8, ge=1)
    heads: int = Field(default=5, ge=1)
    kv_heads: int | None = Field(default=None, ge=1, description="key and value heads; none: heads")
    intermediate: int = Field(default=864, ge=8, description="width of the gated MLP")
    vocabulary: int = Field(default=8192, ge=300, description="tokens, the special ones included")
    window: int = Field(default=2048, ge=16, description="longest input in tokens")

    @model_validator(mode="after")
    def _fits(self) -> Shape:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden {self.hidden} must be an even multiple of heads {self.heads}")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


def causal_config(shape: Shape, **tokens: int | None) -> Any:
    """The transformers configuration; `tokens` are ids such as `eos_token_id`."""
    import transformers as t

    kind = {"qwen2": t.Qwen2Config, "qwen3": t.Qwen3Config, "llama": t.LlamaConfig}
    return kind[shape.architecture](
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads or shape.heads,
        head_dim=shape.hidden // shape.heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.window,
        tie_word_embeddings=True,
        **tokens,
    )


def new_causal_model(shape: Shape, seed: int, **tokens: int | None) -> Any:
    """A transformers causal language model of this shape, float32, random from `seed`.

    Projections that write to the residual stream start smaller by √(2·layers), so that the
    stream's variance does not grow with depth (GPT-2, Radford et al., 2019).
    """
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        model = build(causal_config(shape, **tokens), dtype=torch.float32)
    finally:
        torch.random.set_rng_state(state)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_((2 * shape.layers) ** -0.5)
    return model

"""RecFormer (Li et al., KDD 2023): a Longformer that also sees each token's kind and item.

Its embeddings add four: word, position, token type (start, field name, value, padding) and the
place of the token's item in the sequence, the most recent first. The first token attends to all
others and all to it; every other one to a window.

A folder holds `config.json` with `"model_type": "recformer"`, the tokenizer, and the weights under
their published names (`longformer.…`) as safetensors. Published files are pickles, which weft does
not open; docs/mergerec.md says how to convert one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, LongformerConfig, LongformerModel
from transformers.modeling_outputs import BaseModelOutput

from weft.text.inputs import PADDING

KIND = "recformer"


class RecformerConfig(LongformerConfig):  # type: ignore[no-untyped-call]
    """A Longformer's configuration, with token types and item positions; the last item position
    is padding's, the first the start token's."""

    model_type = KIND
    token_type_size: int = 4
    max_item_embeddings: int = 51
    attention_window: list[int] | int = 64


class RecformerEmbeddings(nn.Module):
    """Word + position + token type + item position, normalised."""

    def __init__(self, config: RecformerConfig) -> None:
        super().__init__()
        width, pad = config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=pad)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, width, padding_idx=pad
        )
        self.token_type_embeddings = nn.Embedding(config.token_type_size, width)
        self.item_position_embeddings = nn.Embedding(config.max_item_embeddings, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.padding = pad

    def forward(self, ids: Tensor, types: Tensor, items: Tensor) -> Tensor:
        """[n, L] ids, token types and item positions -> [n, L, d]."""
        there = ids.ne(self.padding or 0).long()
        positions = torch.cumsum(there, dim=1) * there + (self.padding or 0)
        total = (
            self.word_embeddings(ids)
            + self.position_embeddings(positions)
            + self.token_type_embeddings(types)
            + self.item_position_embeddings(items)
        )
        embedded: Tensor = self.dropout(self.LayerNorm(total))
        return embedded


class RecformerModel(LongformerModel):
    """The encoder; weights have the names of the published files."""

    config_class = RecformerConfig
    config: RecformerConfig

    def __init__(self, config: RecformerConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config, add_pooling_layer)  # type: ignore[no-untyped-call]
        self.embeddings = RecformerEmbeddings(config)  # type: ignore[assignment]
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        item_position_ids: Tensor,
    ) -> BaseModelOutput:
        """All [n, L]; the mask is 1 on tokens and 0 on padding, which is on the right."""
        length = input_ids.shape[1]
        window = self.config.attention_window
        widest = window if isinstance(window, int) else max(window)
        more = -length % widest

        def padded(values: Tensor, value: int) -> Tensor:
            return nn.functional.pad(values, (0, more), value=value)

        mask = padded(attention_mask, 0).clone()
        mask[:, 0] = 2  # of Longformer: attends everywhere
        hidden = self.embeddings(
            padded(input_ids, self.config.pad_token_id or 0),
            padded(token_type_ids, PADDING),
            padded(item_position_ids, self.config.max_item_embeddings - 1),
        )
        lowest = torch.finfo(hidden.dtype).min
        signs = torch.zeros(mask.shape, dtype=hidden.dtype, device=mask.device)
        signs = signs.masked_fill(mask == 0, lowest).masked_fill(mask == 2, -lowest)
        output = self.encoder(hidden, attention_mask=signs, padding_len=more)
        return BaseModelOutput(last_hidden_state=output.last_hidden_state)


def register() -> None:
    """Let transformers' auto classes find it."""
    AutoConfig.register(KIND, RecformerConfig, exist_ok=True)
    AutoModel.register(RecformerConfig, RecformerModel, exist_ok=True)

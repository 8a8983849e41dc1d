"""A byte-level BPE tokenizer of one's own, with the special tokens and chat template of ChatML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weft.errors import SettingError
from weft.text.chat import CHATML

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A transformers fast tokenizer with at most `vocabulary` tokens, the special ones included.

    Byte-level BPE (Radford et al., 2019): every string has tokens and comes back from them. Equal
    texts in equal order give equal tokenizers. Fewer tokens come out where the texts hold too
    little to merge.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + len(SPECIAL):
        raise SettingError(
            f"a byte-level vocabulary needs at least {len(alphabet) + len(SPECIAL)} tokens, "
            f"not {vocabulary}"
        )
    backend = Tokenizer(models.BPE())
    # Words with the space before them, single digits, runs of other signs: GPT-4's and Qwen2's cut.
    words = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(alphabet),
        min_frequency=2,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer

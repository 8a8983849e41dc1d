"""Embeddings of models with different tokenizers: refused, or aligned row by row by token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_merges import merge_into
from safetensors.torch import load_file, save_file
from torch import Tensor
from vocabulary_cases import WORDS, fast_tokenizer, model, tokens, write_model

from weft.errors import WeftError, WeftNotice
from weft.merging.algebra import weights as formula
from weft.merging.checkpoints.checkpoint import open_checkpoint
from weft.merging.merge import merge
from weft.merging.methods import make_method
from weft.merging.plan import plan_recipe
from weft.merging.recipe_file import load_merge_recipe
from weft.merging.vocabulary.match import match_vocabularies
from weft.merging.vocabulary.rules import TokenizerRules

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ADDED: dict[str, Sequence[str]] = {
    "a": ("<im_start>", "<im_end>"),
    "b": ("<pad>", "<im_start>", "<im_end>"),
    "c": ("<im_end>", "<x>"),
    "base": (),
}
ROWS = {"a": 12, "b": 13, "c": 16, "base": 10}  # c has rows for no token
SEEDS = {"a": 1, "b": 2, "c": 3, "base": 0}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {
        name: write_model(
            tmp_path / name, model(SEEDS[name], rows), ADDED[name], vocab_size=rows, model_of=name
        )
        for name, rows in ROWS.items()
    }


def row(name: str, tensor: str, token: str) -> Tensor | None:
    place = tokens(ADDED[name]).get(token)
    return None if place is None else model(SEEDS[name], ROWS[name])[tensor][place].double()


def expected(
    tensor: str,
    token: str,
    weights: Mapping[str, float],
    base: str | None = None,
    rules: Mapping[str, Tensor] | None = None,
    forced: Sequence[str] = (),
) -> Tensor:
    """What mergekit documents, token by token: a model that lacks a token gets the rule's row, the
    row of the only model that has it, the base's, or the mean of those that have it."""
    models = [*weights, *([base] if base else [])]
    rows = {name: row(name, tensor, token) for name in models}
    having = [one for one in rows.values() if one is not None]
    default = torch.zeros(4, dtype=torch.float64)
    if rules and token in rules:
        default = rules[token]
    elif base and rows[base] is not None and len(having) > 1:
        default = rows[base]
    elif having:
        default = torch.stack(having).mean(0)
    filled = {
        name: default if one is None or token in forced else one for name, one in rows.items()
    }
    if base is None:
        return sum((w * filled[name] for name, w in weights.items()), torch.zeros(4).double())
    tasks = [w * (filled[name] - filled[base]) for name, w in weights.items()]
    return filled[base] + sum(tasks, torch.zeros(4).double())


def check(out: Path, order: Sequence[str], rows: int, wanted: Any) -> dict[str, Tensor]:
    """Every token's row is the wanted one; vocab_size and the tokenizer say the same."""
    merged = load_file(out / "model.safetensors")
    for tensor in (EMBEDDING, HEAD):
        assert merged[tensor].shape == (rows, 4)
        for place, token in enumerate(order):
            got = merged[tensor][place].double()
            torch.testing.assert_close(got, wanted(tensor, token), atol=1e-6, rtol=0)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == rows
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"))
    assert tokenizer.get_vocab() == {token: place for place, token in enumerate(order)}
    return merged


LINEAR = {"a": 0.5, "b": 0.3, "c": 0.2}


def test_rows_of_different_tokens_are_not_added_up(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Shapes are equal, but <im_end> is another row: as with padding that differs in length."""
    other = write_model(tmp_path / "d", model(5, 12), ("<im_end>", "<im_start>"), vocab_size=12)
    with pytest.raises(WeftError) as error:
        merge([folders["a"], other], out=tmp_path / "out")
    assert str(error.value) == (
        "the tokenizers of a and d differ: token '<im_end>' is row 11 in a and row 10 in d; align "
        "rows by token (--tokenizer base or union), or say that rows mean the same in all "
        "(--tokenizer rows)"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(WeftError, match="tokenizers of a and d differ"):
        formula(folders["a"]) + formula(other)


def test_a_token_in_a_row_that_is_padding_elsewhere_is_a_difference(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", model(1, 16), ("<x>",), vocab_size=16)
    other = write_model(tmp_path / "other", model(2, 16), (), vocab_size=16)
    with pytest.raises(WeftError, match="token '<x>' is row 10 in one and no row in other"):
        merge([one, other], out=tmp_path / "out")


def test_tokens_beyond_the_last_row_do_not_count(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", model(1, 10), ("<x>",), vocab_size=10)
    other = write_model(tmp_path / "other", model(2, 10), ("<y>",), vocab_size=10)
    merge([one, other], weights=[0.5, 0.5], out=tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")[EMBEDDING]
    torch.testing.assert_close(merged, (model(1, 10)[EMBEDDING] + model(2, 10)[EMBEDDING]) / 2)


def test_the_base_is_compared_too(folders: dict[str, Path], tmp_path: Path) -> None:
    base = write_model(tmp_path / "origin", model(9, 12), ("<im_end>", "<im_start>"))
    with pytest.raises(WeftError, match="tokenizers of a and base differ: token '<im_end>'"):
        merge([folders["a"]], "task_arithmetic", base=base, out=tmp_path / "out")


def test_rows_states_that_rows_mean_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    other = write_model(tmp_path / "d", model(5, 12), ("<im_end>", "<im_start>"), vocab_size=12)
    out = tmp_path / "out"
    merge([folders["a"], other], weights=[0.5, 0.5], tokenizer="rows", out=out)
    merged = load_file(out / "model.safetensors")[EMBEDDING]
    torch.testing.assert_close(merged, (model(1, 12)[EMBEDDING] + model(5, 12)[EMBEDDING]) / 2)


def test_union_has_every_token(folders: dict[str, Path], tmp_path: Path) -> None:
    parts, out = [folders[name] for name in LINEAR], tmp_path / "out"
    merge(parts, weights=list(LINEAR.values()), tokenizer="union", out=out)
    order = [*WORDS, "<im_start>", "<im_end>", "<pad>", "<x>"]
    check(out, order, 14, lambda tensor, token: expected(tensor, token, LINEAR))
    assert json.loads((out / "config.json").read_text())["model_of"] == "a"
    again = tmp_path / "again"
    plan_recipe(load_merge_recipe(out / "weft.json")).run(again)
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_base_keeps_the_tokens_of_the_base(folders: dict[str, Path], tmp_path: Path) -> None:
    parts, out = [folders[name] for name in LINEAR], tmp_path / "out"
    tasks = list(LINEAR.values())
    merge(parts, "task_arithmetic", tasks, base=folders["base"], tokenizer="base", out=out)
    check(out, WORDS, 10, lambda tensor, token: expected(tensor, token, LINEAR, "base"))
    assert json.loads((out / "config.json").read_text())["model_of"] == "base"


def test_a_part_named_by_label_or_path(folders: dict[str, Path], tmp_path: Path) -> None:
    parts = [folders[name] for name in LINEAR]
    for k, source in enumerate(("c", str(folders["c"]))):
        out = tmp_path / f"out{k}"
        merge(parts, weights=list(LINEAR.values()), tokenizer=source, out=out)
        order = [*WORDS, "<im_end>", "<x>"]
        check(out, order, 12, lambda tensor, token: expected(tensor, token, LINEAR))


def test_a_part_of_weight_0_may_bring_its_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    """As in mergekit; where no vocabulary is asked for, such a part is not looked at."""
    weights = {"a": 1.0, "b": 0.0}
    parts = [folders[name] for name in weights]
    orders = {"union": [*WORDS, *ADDED["a"], "<pad>"], "b": [*WORDS, *ADDED["b"]]}
    for source, order in orders.items():
        merge(parts, weights=[1.0, 0.0], tokenizer=source, out=tmp_path / f"out-{source}")
        out = tmp_path / f"out-{source}"
        check(out, order, 13, lambda tensor, token: expected(tensor, token, weights))
    merge(parts, weights=[1.0, 0.0], out=tmp_path / "alone")
    order = [*WORDS, *ADDED["a"]]
    check(tmp_path / "alone", order, 12, lambda tensor, token: expected(tensor, token, weights))


def test_rules_for_single_tokens_and_padding(folders: dict[str, Path], tmp_path: Path) -> None:
    """`force`, a row of another token, zeros, and rows that are only there to fill up."""
    text = f"""
        merge_method: task_arithmetic
        base_model: {folders["base"]}
        models:
          - {{model: {folders["a"]}, parameters: {{weight: 0.5}}}}
          - {{model: {folders["b"]}, parameters: {{weight: 0.3}}}}
        tokenizer:
          source: union
          pad_to_multiple_of: 10
          tokens:
            <im_end>: {{source: {folders["b"]}, force: true}}
            <new>: {{source: {{kind: model_token, model: {folders["a"]}, token: w3}}}}
            <row>: {{source: {{kind: model_token, model: {folders["a"]}, token_id: 2}}}}
            <zero>: {{source: {{kind: zero}}}}
    """
    (tmp_path / "file.yaml").write_text(text)
    out = tmp_path / "out"
    plan_recipe(load_merge_recipe(tmp_path / "file.yaml")).run(out)
    order = [*WORDS, "<im_start>", "<im_end>", "<pad>", "<new>", "<row>", "<zero>"]
    weights = {"a": 0.5, "b": 0.3}

    def wanted(tensor: str, token: str) -> Tensor:
        rules = {
            "<im_end>": row("b", tensor, "<im_end>"),
            "<new>": row("a", tensor, "w3"),
            "<row>": model(1, 12)[tensor][2].double(),
            "<zero>": torch.zeros(4, dtype=torch.float64),
        }
        known = {name: one for name, one in rules.items() if one is not None}
        return expected(tensor, token, weights, "base", known, ["<im_end>"])

    merged = check_padded(out, order, 20, wanted)
    mean = torch.stack([wanted(EMBEDDING, token) for token in order]).mean(0)
    torch.testing.assert_close(merged[-1].double(), mean, atol=1e-6, rtol=0)


def check_padded(out: Path, order: Sequence[str], rows: int, wanted: Any) -> Tensor:
    merged = load_file(out / "model.safetensors")[EMBEDDING]
    assert len(merged) == rows
    for place, token in enumerate(order):
        got = merged[place].double()
        torch.testing.assert_close(got, wanted(EMBEDDING, token), atol=1e-6, rtol=0)
    return merged


def test_a_method_with_signs_and_thresholds_sees_aligned_rows(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Any method, at any cut of the work: as if the models had been aligned beforehand."""
    names = ("a", "b", "c")
    order = [*WORDS, "<im_start>", "<im_end>", "<pad>", "<x>"]

    def aligned(name: str) -> dict[str, Tensor]:
        whole = model(SEEDS[name], ROWS[name])
        single = {name: 1.0}
        others = dict.fromkeys((*single, *(n for n in names if n != name)), 0.0) | single
        for tensor in (EMBEDDING, HEAD):
            rows = [expected(tensor, token, others, None) for token in order]
            whole[tensor] = torch.stack(rows).float()
        return whole

    want = merge([aligned(name) for name in names], "karcher", [0.5, 0.3, 0.2], labels=names)
    assert isinstance(want, dict)
    for threads in (1, 3):
        out = tmp_path / f"out{threads}"
        merge_into(
            [open_checkpoint(folders[name]) for name in names],
            out,
            make_method("karcher"),
            lambda _: [0.5, 0.3, 0.2],
            tokenizer=TokenizerRules(source="union"),
            threads=threads,
        )
        got = load_file(out / "model.safetensors")
        for tensor in (EMBEDDING, HEAD):
            torch.testing.assert_close(got[tensor], want[tensor], atol=1e-6, rtol=0)


def test_what_can_not_be_aligned_is_said(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare", model(7, 12))
    parts = [folders["a"], bare]
    cases: list[tuple[Any, Any, str]] = [
        (parts, "base", "tokenizer: bare has no tokenizer file, so its rows can't be aligned"),
        ([folders["a"], folders["b"]], "z", "tokenizer: 'z' is none of a, b"),
        (
            [folders["a"], folders["b"]],
            {"source": "rows", "pad_to_multiple_of": 8},
            "'rows' leaves",
        ),
        (
            [folders["a"], folders["b"]],
            {"tokens": {"<new>": {"source": "a"}}},
            "tokenizer.tokens: a has no token '<new>', which '<new>' is to get",
        ),
        ([model(1, 12), model(2, 12)], "base", "has no tokenizer file"),
    ]
    for number, (given, tokenizer, words) in enumerate(cases):
        out = tmp_path / f"out{number}"
        with pytest.raises(WeftError) as error:
            merge(given, tokenizer=tokenizer, out=out)
        assert words in str(error.value)
        assert not out.exists()


def test_a_union_needs_a_file_to_which_tokens_can_be_added(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", model(1, 10))
    (one / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    other = write_model(tmp_path / "other", model(2, 11), ("<x>",))
    with pytest.raises(WeftError, match=r"one has no tokenizer.json, only vocab.txt, .*'<x>'"):
        merge([one, other], tokenizer="union", out=tmp_path / "out")
    merge([one, other], tokenizer="base", out=tmp_path / "out")
    assert len(load_file(tmp_path / "out" / "model.safetensors")[EMBEDDING]) == 10
    assert (tmp_path / "out" / "vocab.txt").exists()


def test_vocabularies_of_different_size_name_the_remedy(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    one = write_model(tmp_path / "one", model(1, 12), ADDED["a"], vocab_size=12)
    other = write_model(tmp_path / "other", model(2, 16), ADDED["a"], vocab_size=16)
    with pytest.raises(WeftError) as error:
        merge([one, other], out=tmp_path / "out")
    assert str(error.value) == (
        "one and other have vocabularies of different size: tensor 'lm_head.weight' has the shapes "
        "[12, 4] and [16, 4]; align rows by token (--tokenizer base or union)"
    )
    merge([one, other], weights=[0.5, 0.5], tokenizer="base", out=tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")[EMBEDDING]
    mean = (model(1, 12)[EMBEDDING] + model(2, 16)[EMBEDDING][:12]) / 2
    torch.testing.assert_close(merged, mean)


def test_models_without_a_tokenizer_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare", model(7, 12))
    with pytest.warns(WeftNotice, match="^bare has no tokenizer file, so .* as in a$"):
        merge([folders["a"], bare], out=tmp_path / "out")
    files = [folders["a"] / "model.safetensors", bare / "model.safetensors"]
    with pytest.warns(WeftNotice, match="has no tokenizer file, so"):
        merge(files, out=tmp_path / "out2")
    (folders["a"] / "model.safetensors").rename(tmp_path / "x.safetensors")
    (bare / "model.safetensors").rename(tmp_path / "y.safetensors")
    with pytest.warns(WeftNotice, match="none of x.safetensors and y.safetensors has a tokenizer"):
        merge([tmp_path / "x.safetensors", tmp_path / "y.safetensors"], out=tmp_path / "out3")
    assert fast_tokenizer(("<x>",))["added_tokens"][0]["id"] == 10


def test_any_run_of_elements_is_that_of_the_whole(folders: dict[str, Path]) -> None:
    """However a tensor is cut, inside rows too; numbers of another dtype are not rounded."""
    half = {name: tensor.bfloat16() for name, tensor in model(2, 13).items()}
    save_file(half, folders["b"] / "model.safetensors")
    opened = [open_checkpoint(folders[name]) for name in ("a", "b", "c")]
    rules = TokenizerRules(source="union", pad_to_multiple_of=9)
    parts, base = match_vocabularies(opened, open_checkpoint(folders["base"]), rules)
    assert base is not None
    for source in (*parts, base):
        spec = source.specs[EMBEDDING]
        assert (spec.shape, spec.dtype) == ((18, 4), torch.float32)
        whole = source.read(EMBEDDING, 0, spec.size)
        for start in range(0, spec.size, 5):
            for count in (0, 1, 3, 7, spec.size - start):
                end = min(start + count, spec.size)
                got = source.read(EMBEDDING, start, end - start)
                assert torch.equal(got, whole[start:end])
        assert torch.allclose(whole.view(18, 4)[-1], whole.view(18, 4)[:14].mean(0), atol=1e-6)


def test_the_mean_of_checkpoints_is_an_aligned_base_too(tmp_path: Path) -> None:
    added = ("<x>",)
    paths = [write_model(tmp_path / f"m{k}", model(k, 11), added) for k in range(2)]
    part = write_model(tmp_path / "part", model(5, 12), ("<y>", "<x>"))
    out = tmp_path / "out"
    merge([part], "task_arithmetic", [0.5], base=paths, tokenizer="base", out=out)
    mean = (model(0, 11)[EMBEDDING] + model(1, 11)[EMBEDDING]) / 2
    own = model(5, 12)[EMBEDDING][[*range(10), 11]]
    got = load_file(out / "model.safetensors")[EMBEDDING]
    torch.testing.assert_close(got, mean + 0.5 * (own - mean))


def test_paths_of_a_file_in_another_folder(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe's paths are beside it, also those that name whose tokenizer is meant."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "r.yaml").write_text(
        "parts: [{path: a, weight: 0.5}, {path: c, weight: 0.5}]\n"
        "tokenizer: {source: c, tokens: {w1: {source: a, force: true}}}\n"
    )
    plan_recipe(load_merge_recipe(tmp_path / "r.yaml")).run(tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")[EMBEDDING]
    one, other = model(1, 12)[EMBEDDING], model(3, 16)[EMBEDDING]
    torch.testing.assert_close(got[3], one[3])
    torch.testing.assert_close(got[4], (one[4] + other[4]) / 2)
    assert len(got) == 12

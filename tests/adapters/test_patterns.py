"""Patterns of a configuration match as in `re`, in bounded time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config_fields import factors, write

from weft.adapters import load_adapter
from weft.adapters.patterns import Pattern, PatternTable, Steps
from weft.errors import WeftError

ATOMS = ["a", "b", ".", r"\.", "[ab]", "[^a]", r"\d", r"\w", r"\W", "(?=a)", "(?!b)", "(?<=a)",
         "(?<!b.)", r"\b", r"\B", "^", "$", "(?:a|b)", "(a|)", "[a-c1]", r"[\d_]", r"[^\s.]"]  # fmt: skip
REPEATS = ["", "", "", "*", "+", "?", "{0,2}", "{2}", "*?", "+?", "??"]
EXPRESSIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.builds("".join, st.lists(inner, min_size=1, max_size=4)),
        st.builds("(?:{}){}".format, inner, st.sampled_from(REPEATS)),
        st.builds("({}|{})".format, inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=250, deadline=None)
@given(EXPRESSIONS, st.text("ab.1_c", min_size=1, max_size=7))
def test_a_pattern_matches_as_in_re(expression: str, text: str) -> None:
    try:
        expected = re.fullmatch(expression, text) is not None
    except re.error:
        return
    assert Pattern(expression, expression, Steps()).matches(text) is expected


NAMES = [
    f"{a}layers.{i}.{n}" for a in ("", "model.") for i in (0, 1, 2) for n in ("q", "mlp.q_proj")
]
KEYS = ["q", ".", "q_proj", r"layers\.1\..*", "layers.2.mlp.q_proj", "^model.layers.0.q", r"^layers\.0\.q",
        "mlp.q.proj", "(q|k)_proj", "^q", r"model\.layers\.\d\.q", "mlp", "^.*q", r"layers\.1\.q"]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(KEYS), unique=True), st.sampled_from(NAMES))
def test_the_first_pattern_that_matches_counts_as_in_peft(keys: list[str], module: str) -> None:
    from peft.utils.other import get_pattern_key

    table = {key: row for row, key in enumerate(keys)}
    expected = table.get(get_pattern_key(keys, module))
    assert PatternTable(table, Steps()).value(module) == expected


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*.*.*.*)*x", "(a?){40}a{40}b"])
def test_patterns_that_backtrack_for_ever_in_re_are_matched(pattern: str) -> None:
    steps = Steps()
    assert not Pattern(pattern, pattern, steps).matches("a" * 60 + "!")
    assert 0 < Steps().left - steps.left < 1_000_000


HOSTILE: dict[str, tuple[str, Any, str]] = {
    "many": ("alpha_pattern", {f"m{k}": 1 for k in range(60_000)}, "60000 patterns; at most 50000"),
    "nested": ("alpha_pattern", {"(" * 5_000 + "a" + ")" * 5_000: 1}, "has 10001 characters; at most"),
    "nested less": ("alpha_pattern", {"(" * 500 + "a" + ")" * 500: 1}, "has 500 parentheses in each"),
    "long": ("target_modules", "a?" * 50_000, "has 100000 characters; at most 4000"),
    "repeated": ("rank_pattern", {"((((a{99}){99}){99}){99})": 1}, "needs more than 10000 states"),
    "repeated nothing": ("rank_pattern", {"(){4000000000}": 1}, "needs more than 10000 states"),
    "reference": ("target_modules", r"(a)\1.*", "uses groupref, which weft does not match"),
    "control": ("alpha_pattern", {"a\n\x1b[2J": 1}, "entry 'alpha_pattern' holds control characters"),
    "names": ("modules_to_save", ["m"] * 2_000, "modules_to_save has 2000 entries"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_patterns_are_one_sentence(name: str, tmp_path: Path) -> None:
    entry, value, words = HOSTILE[name]
    folder = write(tmp_path / "adapter", factors(), **{entry: value})
    with pytest.raises(WeftError, match=words) as error:
        load_adapter(folder)
    assert len(str(error.value)) < 500 and "adapter_config.json" in str(error.value)


def test_all_patterns_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.adapters.patterns.MOST_STEPS", 2_000)
    monkeypatch.setattr(Steps.__init__, "__defaults__", (2_000,))
    patterns = {f"(x|y)*{k}": 1 for k in range(50)}
    folder = write(tmp_path / "adapter", factors(), alpha_pattern=patterns)
    with pytest.raises(WeftError, match="take more than 2000 steps to match"):
        load_adapter(folder)


def test_patterns_that_hang_re_do_not_hang_a_merge(tmp_path: Path) -> None:
    module = "layers.0." + "a" * 40
    entries = {"target_modules": ["a" * 40], "alpha_pattern": {"(a+)+b": 3, "(a|aa)+": 6}}
    folder = write(tmp_path / "adapter", factors(module), **entries)
    assert load_adapter(folder).shapes[module].scaling == 3.0
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 4

"""Regular expressions of a configuration, matched without backtracking.

A configuration may come from anywhere, and Python's matcher takes exponential time on some
expressions. Here an expression becomes a nondeterministic automaton whose sets of states are
followed through the text (Thompson, 1968): the answer is the one of `re`, in a number of steps
that is bounded by states times characters. Back references, conditions, atomic groups and
possessive repetition have no such automaton and are refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from weft.errors import DataError

MOST_PATTERNS = 50_000  # in one table
MOST_CHARACTERS = 4_000  # of an expression
MOST_DEPTH = 40  # parentheses in parentheses
MOST_STATES = 10_000  # of an automaton
MOST_STEPS = 30_000_000  # for all modules of an adapter: some 15 seconds

_parser: Any = importlib.import_module("re._parser")  # the library's own reading of an expression
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda one: one.isalnum() or one == "_",
}
_NAME = re.compile(r"\^?(?:[\w.-]|\\[^\w\s])+", re.ASCII)

Accepts = Callable[[str], bool]  # a character
Holds = Callable[[str, int], bool]  # text, position


@dataclass
class Steps:
    """What matching may cost in all, for one adapter."""

    left: int = MOST_STEPS

    def pay(self, count: int, pattern: str) -> None:
        """Count so many steps; a `DataError` that quotes the pattern once they are used up."""
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"its patterns take more than {MOST_STEPS} steps to match; the last was "
                f"'{_shown(pattern)}'"
            )


@dataclass
class _State:
    """A character to take, a condition to hold, or neither; where it goes on."""

    after: list[int]
    accepts: Accepts | None = None
    holds: Holds | None = None


@dataclass(eq=False)
class Pattern:
    """One expression that a whole text must match. Errors of it are `DataError`s that quote it."""

    expression: str  # as `re.fullmatch` would take it
    text: str  # as the configuration has it
    steps: Steps
    _states: list[_State] = field(default_factory=list)

    def matches(self, text: str) -> bool:
        """Whether the expression matches the whole text."""
        return self._runs(self._start, text, 0, len(text))

    @cached_property
    def _start(self) -> int:
        check_pattern(self.text)
        try:
            tree = _parser.parse(self.expression)
        except (re.error, OverflowError) as error:
            raise DataError(f"'{_shown(self.text)}' is no regular expression ({error})") from None
        if tree.state.flags & ~re.UNICODE:
            self._refuse("flags")
        return self._sequence(tree, self._add(_State([])))

    def check(self) -> None:
        """A `DataError` for what is no expression or can't be matched in bounded time."""
        _ = self._start

    def _add(self, state: _State) -> int:
        self._states.append(state)
        if len(self._states) > MOST_STATES:
            raise DataError(
                f"the pattern '{_shown(self.text)}' needs more than {MOST_STATES} states"
            )
        return len(self._states) - 1

    def _refuse(self, construct: str) -> None:
        raise DataError(
            f"the pattern '{_shown(self.text)}' uses {construct}, which weft does not match"
        )

    def _sequence(self, tree: Iterable[tuple[Any, Any]], after: int) -> int:
        """The state in which the sequence starts that ends in the state `after`."""
        for code, value in reversed(list(tree)):
            after = self._piece(str(code), value, after)
        return after

    def _piece(self, code: str, value: Any, after: int) -> int:
        if code in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self._add(_State([after], accepts=_accepts(code, value)))
        if code == "BRANCH":
            return self._add(_State([self._sequence(one, after) for one in value[1]]))
        if code == "SUBPATTERN":
            _, added, removed, inner = value
            if added or removed:
                self._refuse("flags")
            return self._sequence(inner, after)
        if code in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = value
            return self._repeated(least, most, inner, after)
        if code == "AT":
            return self._add(_State([after], holds=self._position(str(value))))
        if code in ("ASSERT", "ASSERT_NOT"):
            direction, inner = value
            looks = self._look(direction, inner, code == "ASSERT")
            return self._add(_State([after], holds=looks))
        self._refuse(code.lower().replace("_", " "))
        return after

    def _repeated(self, least: int, most: int, inner: Any, after: int) -> int:
        start = after
        if most == _parser.MAXREPEAT:
            start = self._add(_State([after]))
            self._states[start].after.insert(0, self._sequence(inner, start))
        else:
            for _ in range(most - least):
                start = self._add(_State([self._sequence(inner, start), after]))
        for _ in range(least):
            # A state of its own even for an empty piece: it counts against the bound.
            start = self._add(_State([self._sequence(inner, start)]))
        return start

    def _position(self, name: str) -> Holds:
        if name in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return lambda text, at: at == 0
        if name in ("AT_END", "AT_END_STRING"):  # names of modules have no line ends
            return lambda text, at: at == len(text)
        if name == "AT_BOUNDARY":
            return _at_boundary
        if name == "AT_NON_BOUNDARY":
            return lambda text, at: not _at_boundary(text, at)
        self._refuse(name.lower().replace("_", " "))
        return _at_boundary

    def _look(self, direction: int, inner: Any, wanted: bool) -> Holds:
        start = self._sequence(inner, self._add(_State([])))
        width = inner.getwidth()[0]

        def holds(text: str, at: int) -> bool:
            if direction > 0:
                return self._runs(start, text, at, None) == wanted
            matches = at >= width and self._runs(start, text, at - width, at)
            return matches == wanted

        return holds

    def _runs(self, start: int, text: str, at: int, stop: int | None) -> bool:
        """Whether a final state is reached, at `stop` or, without it, anywhere from `at` on."""
        states = self._states
        current = self._closed([start], text, at)
        while current:
            final = any(self._is_final(one) for one in current)
            if final and stop in (None, at):
                return True
            if at >= (len(text) if stop is None else stop):
                return False
            taken = [
                state.after[0]
                for state in map(states.__getitem__, current)
                if state.accepts is not None and state.accepts(text[at])
            ]
            at += 1
            current = self._closed(taken, text, at)
        return False

    def _is_final(self, state: int) -> bool:
        return not self._states[state].after

    def _closed(self, reached: Sequence[int], text: str, at: int) -> list[int]:
        """The states that take a character, or end, that can be reached without taking one."""
        seen, left, ends = set(reached), list(reached), []
        while left:
            one = left.pop()
            state = self._states[one]
            if state.accepts is not None or not state.after:
                ends.append(one)
                continue
            if state.holds is not None and not state.holds(text, at):
                continue
            fresh = [after for after in state.after if after not in seen]
            seen.update(fresh)
            left += fresh
        self.steps.pay(len(seen) + 1, self.text)
        return ends


@dataclass(frozen=True)
class _Name:
    """A pattern that is a name: its characters, with None for a dot that matches any; `whole`: from the start."""

    row: int
    characters: tuple[str | None, ...]
    whole: bool

    def ends(self, module: str) -> bool:
        """Whether the module's name ends with it; the lengths are known to fit."""
        pairs = zip(reversed(self.characters), reversed(module), strict=False)
        return all(one is None or one == other for one, other in pairs)


class PatternTable:
    """Pattern for the end of a module's name -> value; of those that match, the first counts.

    PEFT matches `(.*\\.)?(pattern)$`. Patterns that are names without a dot that could stand for
    any character are looked up, those with one are held against the names of their length.
    """

    def __init__(self, patterns: Mapping[str, Any], steps: Steps) -> None:
        if len(patterns) > MOST_PATTERNS:
            raise DataError(f"{len(patterns)} patterns; at most {MOST_PATTERNS} are read")
        self._steps = steps
        self._values = list(patterns.values())
        self._whole: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        self._named: dict[int, list[_Name]] = {}
        self._others: list[tuple[int, Pattern]] = []
        for row, text in enumerate(patterns):
            if not _NAME.fullmatch(text):
                self._others.append((row, Pattern(rf"(.*\.)?({text})$", text, steps)))
                continue
            pieces = re.findall(r"\\?.", text.removeprefix("^"))
            name = tuple(None if one == "." else one[-1] for one in pieces)
            if None in name:
                self._named.setdefault(len(name), []).append(_Name(row, name, text[0] == "^"))
            else:
                table = self._whole if text[0] == "^" else self._ends
                table.setdefault("".join(one or "" for one in name), row)
        for _, pattern in self._others:
            pattern.check()

    def value(self, module: str) -> Any | None:
        """The value of the first pattern that matches the module's name; None where none does."""
        words = module.split(".")
        ends = (self._ends.get(".".join(words[at:])) for at in range(len(words)))
        known = [row for row in (self._whole.get(module), *ends) if row is not None]
        best = min([*known, *self._named_rows(module)], default=len(self._values))
        for row, pattern in self._others:
            if row > best:
                break
            if pattern.matches(module):
                best = row
                break
        return self._values[best] if best < len(self._values) else None

    def _named_rows(self, module: str) -> Iterator[int]:
        starts = [0, *(at + 1 for at, one in enumerate(module) if one == ".")]
        for start in starts:
            names = self._named.get(len(module) - start, [])
            for name in names:
                if (start == 0 or not name.whole) and name.ends(module):
                    yield name.row
                    break  # later ones have later rows
            if names:
                self._steps.pay(len(names), "".join(one or "." for one in names[0].characters))


def check_pattern(text: str) -> None:
    """A `DataError` for a pattern too long or with too many parentheses in each other."""
    if len(text) > MOST_CHARACTERS:
        raise DataError(
            f"the pattern '{_shown(text)}' has {len(text)} characters; at most "
            f"{MOST_CHARACTERS} are read"
        )
    depth = deepest = 0
    for one in re.sub(r"\\.", "", text, flags=re.S):
        depth += (one == "(") - (one == ")")
        deepest = max(deepest, depth)
    if deepest > MOST_DEPTH:
        raise DataError(
            f"the pattern '{_shown(text)}' has {deepest} parentheses in each other; at most "
            f"{MOST_DEPTH} are read"
        )


def _shown(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _at_boundary(text: str, at: int) -> bool:
    word = _CATEGORIES["CATEGORY_WORD"]
    before = at > 0 and word(text[at - 1])
    return before != (at < len(text) and word(text[at]))


def _accepts(code: str, value: Any) -> Accepts:
    if code == "LITERAL":
        return lambda one: ord(one) == value
    if code == "NOT_LITERAL":
        return lambda one: ord(one) != value
    if code == "ANY":
        return lambda one: one != "\n"
    tests = [_member(str(kind), inner) for kind, inner in value if str(kind) != "NEGATE"]
    negated = len(tests) < len(value)
    return lambda one: any(test(one) for test in tests) != negated


def _member(kind: str, value: Any) -> Accepts:
    """One entry of a set in brackets."""
    if kind == "LITERAL":
        return lambda one: ord(one) == value
    if kind == "RANGE":
        return lambda one: value[0] <= ord(one) <= value[1]
    name = str(value)
    test = _CATEGORIES[name.replace("_NOT_", "_")]
    return (lambda one: not test(one)) if "_NOT_" in name else test

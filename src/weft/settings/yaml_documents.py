"""YAML from outside, where every YAML reads the same.

Aliases and merge keys are followed up to a bounded size; tags are refused. So are words and numbers
that YAML 1.1 and 1.2 read differently (`no`, `1:30`, `012`), with what to write in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
)
from yaml.nodes import MappingNode, ScalarNode

from weft.artifacts.documents import (
    MOST_DEPTH,
    Source,
    finite_number,
    read_text,
    whole_number,
)
from weft.errors import DataError

MOST_YAML = 1 << 20  # bytes; PyYAML takes about ten seconds for as much
_TAG = "tag:yaml.org,2002:"
MOST_NODES = 100_000  # with every alias written out

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORD = re.compile(r"(?:yes|no|on|off)", re.IGNORECASE)
_CLOCK = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_OTHER_BASE = re.compile(r"[-+]?0[0-9_]+|[-+]?0[ob][0-9a-fA-F_]+")


def read_yaml(path: Path) -> Any:
    """Read a YAML file of one document."""
    return parse_yaml(read_text(path, MOST_YAML, "YAML"), path)


def parse_yaml(text: str, source: Source) -> Any:
    """One YAML document; what is wrong with it is one `DataError`."""
    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader))
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        if "expected a single document" in str(error):
            raise DataError(
                f"{source} holds several YAML documents; give each its own file"
            ) from None
        problem = " ".join(str(error).split())
        raise DataError(f"{source} is not valid YAML: {problem}") from None
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None


def _check_events(events: Iterator[Event]) -> None:
    """Bound depth and size before any node is made; the parser itself does not recurse."""
    sizes: dict[str, int] = {}  # nodes behind each anchor, aliases written out
    open_: list[tuple[str | None, int]] = []  # anchor and nodes before it, of what is not closed
    nodes = 0
    for event in events:
        if isinstance(event, AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise ValueError(_at(event, f"*{event.anchor} holds itself"))
            nodes += sizes.get(str(event.anchor), 1)
        elif isinstance(event, NodeEvent):
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise ValueError(_at(event, f"tags are not read ({ascii(tag)[:40]})"))
            nodes += 1
            if isinstance(event, CollectionStartEvent):
                open_.append((event.anchor, nodes - 1))
                if len(open_) > MOST_DEPTH:
                    raise ValueError(_at(event, f"it nests deeper than {MOST_DEPTH} levels"))
            elif isinstance(event, ScalarEvent) and event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = nodes - before
        if nodes > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES} values, aliases written out")


def _at(place: Any, words: str) -> str:
    return f"line {place.start_mark.line + 1}: {words}"


class _Loader(yaml.SafeLoader):
    """Plain words and numbers by the core schema of YAML 1.2, doubtful ones refused."""

    def resolve(self, kind: type, value: str | None, implicit: Any) -> str:
        if kind is ScalarNode and implicit[0] and value is not None:
            return _TAG + _kind(value)
        return str(super().resolve(kind, value, (False, False)))  # type: ignore[no-untyped-call]

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        keys: set[object] = set()
        for key_node, _ in node.value:  # before merge keys bring in more, which own keys override
            if not isinstance(key_node, ScalarNode):
                raise ValueError(_at(key_node, "a key must be a word or a number"))
            merging = key_node.tag == _TAG + "merge"
            key = "<<" if merging else self.construct_object(key_node, deep=True)
            if key in keys:
                raise ValueError(_at(key_node, f"it names {ascii(key)[:80]} twice"))
            keys.add(key)
        return node


def _kind(value: str) -> str:
    """The kind of a plain scalar."""
    if _NULL.fullmatch(value):
        return "null"
    if _BOOL.fullmatch(value):
        return "bool"
    if value == "<<":
        return "merge"
    if _INT.fullmatch(value) or _HEX.fullmatch(value):
        return "int"
    if _WORD.fullmatch(value) or _CLOCK.fullmatch(value) or _OTHER_BASE.fullmatch(value):
        return "doubtful"
    return "float" if _FLOAT.fullmatch(value) else "str"


def _integer(loader: yaml.SafeLoader, node: ScalarNode) -> int:
    text = node.value.replace("_", "")
    try:
        if text.startswith("0x"):
            whole_number(text.replace("0x", "0").translate(_DIGITS))
            return int(text, 16)
        return whole_number(text)
    except ValueError as error:
        raise ValueError(_at(node, str(error))) from None


def _float(loader: yaml.SafeLoader, node: ScalarNode) -> float:
    text = node.value.replace("_", "")
    try:
        return finite_number(text.replace(".", "", 1) if text[-1:].isalpha() else text)
    except ValueError:
        raise ValueError(_at(node, f"{node.value[:40]} is no finite number")) from None


def _doubtful(loader: yaml.SafeLoader, node: ScalarNode) -> None:
    value = node.value[:40]
    if _WORD.fullmatch(value):
        truth = "true" if value.lower() in ("yes", "on") else "false"
        words = f'{value} may be a word or a truth value; write "{value}" in quotes, or {truth}'
    else:
        words = (
            f'{value} is a number to some readers only; write "{value}" in quotes if it is a word'
        )
    raise ValueError(_at(node, words))


_DIGITS = str.maketrans(dict.fromkeys("abcdefABCDEF", "9"))
for _name, _make in {"int": _integer, "float": _float, "doubtful": _doubtful}.items():
    _Loader.add_constructor(_TAG + _name, _make)

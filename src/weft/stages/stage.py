"""Stages: pieces of a run, each keyed by the hash of its inputs and of the stages that it rests on.

A finished stage is a folder named by its key, so the same run again finds it and does nothing.
A killed one leaves nothing but its scratch folder, from which the next attempt may go on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel

from weft.artifacts.hashing import hash_json

FORMAT = 3  # raised when the keys of all stages change: older folders are refused, not missed
STAGES, SCRATCH, SHARED = "stages", "scratch", "shared"

OUTSIDE_KEY: Mapping[str, Any] = MappingProxyType({"outside_key": True})
"""The metadata of a field that decides no outcome (a path, a label, where logs go):
`path: Path = field(metadata=OUTSIDE_KEY)`."""

Report = Callable[[float, float, str], None]
"""Called with the work done, the work in all, and the unit."""


@dataclass(frozen=True)
class Workspace:
    """Where a stage at work reads and writes.

    Its parents are finished: their own methods read what they left under `run`. What the stage
    leaves goes into `out`. `scratch` stays over a kill and goes when the stage is done.
    """

    run: Path
    out: Path
    scratch: Path
    report: Report

    def folder(self, parent: Stage) -> Path:
        """What a finished parent left."""
        return parent.folder(self.run)

    def shared(self, name: str) -> Path:
        """A folder that the stages of a run share for what is dear to compute; nothing may depend
        on its being filled. It goes when the run ends."""
        return self.run / SCRATCH / SHARED / name


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage(ABC):
    """One piece of work, as a frozen dataclass: its fields are its inputs.

    Fields are plain values, pydantic models, and *parents*: stages, or tuples of stages. All of
    them decide the outcome and so the key, but those with the metadata `OUTSIDE_KEY`, and those
    that a pydantic model names in its class variable `ASIDE`. A stage crosses to another process
    by pickle, so its class is one of a module.

        @dataclass(frozen=True, kw_only=True, eq=False)
        class CountWords(Stage):
            version: ClassVar[int] = 2  # raised when the same inputs give something else
            texts: tuple[FetchText, ...]
            least: int = 1

            def run(self, workspace: Workspace) -> None:
                texts = [one.text(workspace.run) for one in self.texts]
                (workspace.out / "count").write_text(str(count(texts, self.least)))

            def count(self, run: Path) -> int:  # what it leaves: nobody else knows its files
                return int((self.folder(run) / "count").read_text())
    """

    version: ClassVar[int] = 1

    label: str = field(default="", metadata=OUTSIDE_KEY)
    """For people."""

    def __post_init__(self) -> None:
        if "__dataclass_params__" not in type(self).__dict__:
            raise TypeError(f"{type(self).__name__} lacks its @dataclass decorator")
        if not self.label:
            object.__setattr__(self, "label", self.describe())

    @abstractmethod
    def run(self, workspace: Workspace) -> None:
        """Do the work: write what the stage leaves into `workspace.out`."""

    def describe(self) -> str:
        """The label, unless one is passed."""
        return type(self).__name__

    @cached_property
    def parents(self) -> Mapping[str, Stage]:
        """The stages that this one rests on, by field: `domain`, `parts.0`, `parts.1`, …"""
        parents: dict[str, Stage] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Stage):
                parents[one.name] = value
            elif isinstance(value, tuple):
                stages = [item for item in value if isinstance(item, Stage)]
                if stages and len(stages) < len(value):
                    raise TypeError(f"{type(self).__name__}.{one.name} mixes stages and values")
                parents |= {f"{one.name}.{place}": item for place, item in enumerate(stages)}
        return parents

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides the outcome."""
        inputs = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if _decides(f)}
        return hash_json([FORMAT, qualified_name(type(self)), self.version, inputs])

    @property
    def folder_name(self) -> str:
        return f"{type(self).__name__}-{self.key[:16]}"

    def folder(self, run: Path) -> Path:
        """Where it is, once finished."""
        return run / STAGES / self.folder_name

    @property
    def uses_gpu(self) -> bool:
        """Whether it computes on a GPU: executors bound how many do at once."""
        return False

    @property
    def inputs(self) -> dict[str, Any]:
        """All fields but the parents and the label, as JSON: for the record of a finished stage."""
        rest = {one.split(".")[0] for one in self.parents} | {"label"}
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in rest}

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}  # and nothing cached


def qualified_name(stage: type[Stage]) -> str:
    """A class by its module and name."""
    return f"{stage.__module__}.{stage.__qualname__}"


def _decides(one: Field[Any]) -> bool:
    return not one.metadata.get("outside_key", False)


def _plain(value: Any) -> Any:
    """A field's value as JSON, without what decides no outcome."""
    match value:
        case Stage():
            return {"stage": value.key}
        case BaseModel():
            aside: frozenset[str] = getattr(value, "ASIDE", frozenset())
            names = [name for name in type(value).model_fields if name not in aside]
            return {name: _plain(getattr(value, name)) for name in names}
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"a stage's field can't hold a {type(value).__name__}")

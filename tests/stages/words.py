"""Small stages that write words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from weft.errors import WeftError
from weft.stages.stage import OUTSIDE_KEY, Stage, Workspace


@dataclass(frozen=True, kw_only=True, eq=False)
class Write(Stage):
    """A word behind those of the stage before."""

    word: str
    before: Write | None = None
    where: Path = field(default=Path(), metadata=OUTSIDE_KEY)

    def describe(self) -> str:
        return self.word

    def run(self, workspace: Workspace) -> None:
        before = "" if self.before is None else self.before.text(workspace.run)
        (workspace.out / "deep").mkdir()
        (workspace.out / "deep" / "text").write_text(before + self.word)
        (workspace.out / "empty").write_text("")

    def text(self, run: Path) -> str:
        return (self.folder(run) / "deep" / "text").read_text()


def chain(*words: str) -> Write:
    stage = Write(word=words[0])
    for word in words[1:]:
        stage = Write(word=word, before=stage)
    return stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Join(Stage):
    """The words of several."""

    parts: tuple[Write, ...]

    def run(self, workspace: Workspace) -> None:
        text = " ".join(one.text(workspace.run) for one in self.parts)
        (workspace.out / "text").write_text(text)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stumble(Stage):
    """Fails the first time; the second time goes on from what the first one left."""

    version: ClassVar[int] = 2

    def run(self, workspace: Workspace) -> None:
        note = workspace.scratch / "note"
        if not note.exists():
            note.write_text("half")
            (workspace.out / "text").write_text("half-written")
            raise WeftError("stumbled")
        (workspace.out / "text").write_text(note.read_text() + " and whole")


@dataclass(frozen=True, kw_only=True, eq=False)
class Chatter(Stage):
    """Says far more than a pipe holds."""

    def run(self, workspace: Workspace) -> None:
        for step in range(200_000):
            workspace.report(step, step, "words")

"""Folders that several processes write at once, are killed over, or replace while others read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from weft.artifacts import renames
from weft.artifacts.atomic import new_directory, new_file, write_json
from weft.artifacts.leftovers import remove_leftovers
from weft.artifacts.staging import staged
from weft.errors import WeftError

PROGRAM = """
import sys
from pathlib import Path
from weft.artifacts.atomic import new_directory, new_file
from weft.artifacts.staging import staged
from weft.errors import WeftError

kind, path, text = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
make = {
    "new": lambda: new_directory(path),
    "replace": lambda: new_directory(path, replace=True),
    "file": lambda: new_file(path),
    "staged": lambda: staged(path, text * 16),
}[kind]
try:
    with make() as made:
        (made if kind == "file" else made / "a").write_text(text)
        print("inside", flush=True)
        sys.stdin.readline()
except WeftError as error:
    sys.exit(str(error))
"""


@contextmanager
def process(kind: str, path: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """One that has written its folder and waits for a line before it publishes it."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind, str(path), text],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as one:  # fmt: skip
        assert one.stdout is not None and one.stdout.readline() == "inside\n"
        yield one
        one.kill()


def go_on(*processes: subprocess.Popen[str]) -> dict[int, str]:
    """Return code -> what was said, of processes that publish at once."""
    for one in processes:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    found = [(one.communicate()[1].strip(), one.returncode) for one in processes]
    return {code: words for words, code in found}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["new", "staged"])
@pytest.mark.parametrize("empty", [False, True])
def test_of_two_processes_one_publishes_and_the_other_is_refused(
    tmp_path: Path, kind: str, empty: bool
) -> None:
    path = tmp_path / "out"
    if empty:
        path.mkdir()
    with process(kind, path, "a") as one, process(kind, path, "b") as other:
        found = go_on(one, other)
    assert found == {0: "", 1: f"{path} exists already; name another folder or remove it"}
    assert (path / "a").read_text() == ("a" if one.returncode == 0 else "b")
    assert names(tmp_path) == ["out"] and names(path) == ["a"]


def test_of_two_that_replace_the_later_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "a").write_text("old")
    with process("replace", path, "a") as one, process("replace", path, "b") as other:
        assert go_on(one) == {0: ""}
        words = f"{path} was replaced by another process meanwhile, and is left as it is"
        assert go_on(other) == {1: words}
    assert (path / "a").read_text() == "a" and names(tmp_path) == ["out"]


@pytest.mark.parametrize("lacking", [False, True], ids=["renameat2", "plain"])
@pytest.mark.parametrize("replace", [False, True])
def test_what_appears_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool, lacking: bool
) -> None:
    if lacking:
        monkeypatch.setattr(renames, "_rename", lambda *_: None)
    path = tmp_path / "out"
    with pytest.raises(WeftError, match="exists already"), new_directory(path, replace=replace):
        path.mkdir()
        (path / "theirs").write_text("1")
    assert names(tmp_path) == ["out"] and names(path) == ["theirs"]
    with pytest.raises(WeftError, match="exists already"), staged(tmp_path / "two", "0" * 16):
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "theirs").write_text("1")
    assert names(tmp_path / "two") == ["theirs"]
    with pytest.raises(WeftError, match="exists already"), new_directory(tmp_path / "three"):
        (tmp_path / "three").write_text("a file")
    assert (tmp_path / "three").read_text() == "a file"
    with (
        pytest.raises(WeftError, match="was replaced by another process"),
        new_directory(path, replace=True) as folder,
    ):
        (folder / "ours").write_text("1")
        path.rename(tmp_path / "aside")
        path.mkdir()
        (path / "newer").write_text("1")
    assert names(path) == ["newer"] and names(tmp_path) == ["aside", "out", "three", "two"]


@pytest.mark.parametrize("lacking", [False, True], ids=["renameat2", "plain"])
def test_folders_are_replaced_and_links_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    if lacking:
        monkeypatch.setattr(renames, "_rename", lambda *_: None)
    for place in ("there", "empty"):
        (tmp_path / place).mkdir()
    (tmp_path / "there" / "old").write_text("1")
    (tmp_path / "link").symlink_to("there")
    for path in (tmp_path / "link", tmp_path / "empty"):
        with new_directory(path, replace=True) as folder:
            (folder / "new").write_text("1")
        assert names(path) == ["new"]
    assert names(tmp_path) == ["empty", "link", "there"] and (tmp_path / "link").is_symlink()
    assert names(tmp_path / "there") == ["new"]


@pytest.mark.skipif(sys.platform != "linux", reason="folders change places on Linux alone")
def test_a_folder_that_is_replaced_is_never_absent(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with new_directory(path) as folder:
        (folder / "a").write_text("0")
    if not renames.exchange(path, path):
        pytest.skip("this file system can't exchange folders")
    stop, absent = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            if not (path / "a").exists():
                absent.append(1)

    thread = threading.Thread(target=watch)
    thread.start()
    for number in range(30):
        with new_directory(path, replace=True) as folder:
            (folder / "a").write_text(str(number))
    stop.set()
    thread.join()
    assert not absent and (path / "a").read_text() == "29" and names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["new", "file"])
def test_what_a_killed_process_left_is_removed_and_a_living_one_s_is_not(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "out"
    with process(kind, path, "theirs") as one:
        remove_leftovers(tmp_path)
        write_json(tmp_path / "other", {})
        assert len([name for name in names(tmp_path) if name.endswith(".part")]) == 1
        one.send_signal(signal.SIGKILL)
        one.wait()
        write_json(tmp_path / "other", {})  # of another name: not its business
        assert len(names(tmp_path)) == 2
        with new_file(path) as made:
            made.write_text("ours")
    assert names(tmp_path) == ["other", "out"] and path.read_text() == "ours"


def test_a_folder_moved_aside_for_one_that_never_came_is_back(tmp_path: Path) -> None:
    for place in (".out.abcdefgh.part", ".out.abcdefgh.part.old"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a").write_text(place)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == ".out.abcdefgh.part.old"


def test_all_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, synced = tmp_path / "out", os.fsync, list[tuple[str, bool]]()

    def fsync(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with new_directory(path) as folder:
        (folder / "deep").mkdir()
        for file in ("a", "deep/b"):
            (folder / file).write_text("1")
        write_json(folder / "c.json", {})
        assert not synced  # waiting once is enough
        inside = {str(folder / one) for one in ("a", "deep/b", "deep", "c.json", ".")}
    before = {name for name, there in synced if not there}
    assert before == {os.path.normpath(name) for name in inside} and len(synced) == 6
    assert synced[-1] == (str(tmp_path), True)

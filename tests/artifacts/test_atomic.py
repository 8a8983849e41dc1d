"""Files and folders are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.artifacts.atomic import new_directory, new_file, read_json, write_json
from weft.errors import WeftError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_directory_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one"
    with new_directory(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists() and folder.parent == path.parent
    assert (path / "a").read_text() == "1" and names(path.parent) == ["one"]
    with pytest.raises(WeftError, match="exists already"), new_directory(path):
        pytest.fail("entered")


def test_a_failed_directory_leaves_nothing_and_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "one"
    for replace in (False, True):
        with pytest.raises(ZeroDivisionError), new_directory(path, replace=replace) as folder:
            (folder / "a").write_text("new")
            raise ZeroDivisionError
        assert names(tmp_path) == (["one"] if replace else [])
        path.mkdir(exist_ok=True)
        (path / "a").write_text("old")
    assert (path / "a").read_text() == "old"
    with new_directory(path, replace=True) as folder:
        (folder / "b").write_text("new")
    assert names(path) == ["b"] and names(tmp_path) == ["one"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with new_file(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), new_file(path) as temporary:
        temporary.write_text("half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["file"]
    with new_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["file"]


def test_json_comes_back_and_a_bad_one_is_one_sentence(tmp_path: Path) -> None:
    value = {"name": "café", "numbers": [1, 0.1], "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(WeftError, match=r"b\.json does not exist"):
        read_json(tmp_path / "b.json")
    for content in (b"{", b"\xff\xfe"):
        (tmp_path / "c.json").write_bytes(content)
        with pytest.raises(WeftError, match=r"c\.json is not valid JSON"):
            read_json(tmp_path / "c.json")

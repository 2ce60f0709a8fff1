"""The private folder: everything in it goes, and nothing beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skilllab.programs.folder import empty


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_everything_inside_goes(tmp_path: Path) -> None:
    """Files, hidden ones, pipes and folders at any depth go, also those without rights; the folder itself stays."""
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    for name in ("file", ".hidden", "a/file", "a/b/c/file"):
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "a" / "pipe")
    (tmp_path / "a" / "b").chmod(0)
    empty(str(tmp_path))
    assert names(tmp_path) == set()


def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    """No link is followed: not to a file, not to a folder, and one that leads nowhere goes like any other."""
    private, outside = tmp_path / "private", tmp_path / "outside"
    private.mkdir()
    outside.mkdir(mode=0o500)
    (tmp_path / "file").write_text("x")
    for name, target in (("folder", outside), ("file", tmp_path / "file"), ("nowhere", tmp_path / "absent")):
        (private / name).symlink_to(target)
    os.link(tmp_path / "file", private / "second")
    empty(str(private))
    assert names(private) == set()
    assert names(tmp_path) == {"private", "outside", "file"}
    assert (tmp_path / "file").read_text() == "x"
    assert outside.stat().st_mode & 0o777 == 0o500


def test_what_is_mounted_stays(tmp_path: Path) -> None:
    """Of another file system nothing is touched."""
    (tmp_path / "mounted").mkdir()
    (tmp_path / "file").write_text("x")
    empty(str(tmp_path), device=tmp_path.stat().st_dev + 1)
    assert names(tmp_path) == {"mounted", "file"}


def test_what_cannot_be_removed_keeps_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses to remove one file, all others go, and nothing is raised."""
    unlink = os.unlink

    def refuses(path: str) -> None:
        if path.endswith("stays"):
            raise PermissionError
        unlink(path)

    (tmp_path / "inner").mkdir()
    for name in ("a", "stays", "z", "inner/a", "inner/stays", "inner/z"):
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(os, "unlink", refuses)
    empty(str(tmp_path))
    assert names(tmp_path) == {"stays", "inner"}
    assert names(tmp_path / "inner") == {"stays"}


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """A folder that a skill has removed is as good as empty."""
    empty(str(tmp_path / "absent"))

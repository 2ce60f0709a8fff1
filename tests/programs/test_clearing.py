"""Clearing: what nobody owns any more goes, whatever it holds, and what others own stays."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from skilllab.programs.cgroups import PREFIX, Place
from skilllab.programs.clearing import clear

MINE = f"{PREFIX}{os.getpid()}-mine-"


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is the folder of temporary files while the test lasts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait(10)
    return process.pid


def test_folders_without_an_owner_go(top: Path, gone: int) -> None:
    """Folders of processes that have ended, and one's own, go with what is in them; all others stay."""
    stale = {f"{PREFIX}{gone}-ab-0", f"{MINE}0"}
    kept = {f"{PREFIX}{os.getpid()}-other-0", f"{PREFIX}{os.getppid()}-ab-0", f"other-{gone}-0"}
    for name in stale | kept:
        (top / name / "inner").mkdir(parents=True)
        (top / name / "inner" / "file").write_text("x")
    clear({}, MINE)
    assert {path.name for path in top.iterdir()} == kept
    assert all((top / name / "inner" / "file").exists() for name in kept)


def test_groups_without_an_owner_go_too(top: Path, gone: int) -> None:
    """Of control groups the same go as of folders."""
    groups = top / "groups"
    for name in (f"{PREFIX}{gone}-ab-0", f"{MINE}0", f"{PREFIX}{os.getpid()}-other-0"):
        (groups / name).mkdir(parents=True)
    clear({"pids": Place(str(groups), "2")}, MINE)
    assert [path.name for path in groups.iterdir()] == [f"{PREFIX}{os.getpid()}-other-0"]


def test_what_another_user_made_stays(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that all may write into, a name alone is no proof: what somebody else made is left alone."""
    (top / f"{MINE}0").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: top.stat().st_uid + 1)
    clear({}, MINE)
    assert (top / f"{MINE}0").exists()


def test_two_may_clear_at_once(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another one has removed meanwhile is passed over, and the rest goes."""
    (top / f"{MINE}1").mkdir()
    monkeypatch.setattr(os, "listdir", lambda _: [f"{MINE}0", f"{MINE}1"])
    clear({}, MINE)
    assert not (top / f"{MINE}1").exists()


def test_a_link_is_not_followed(top: Path) -> None:
    """A link with a stale name, which anybody may have made, leads to no removal elsewhere."""
    (top / "outside").mkdir()
    (top / "outside" / "file").write_text("x")
    (top / f"{MINE}0").symlink_to(top / "outside")
    clear({}, MINE)
    assert (top / "outside" / "file").exists()

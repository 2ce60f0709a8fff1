"""Rooms: the command that starts a warm parent, what stands around it, and what it is told of this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from skilllab.engine.workers.machine import NAMESPACES
from skilllab.engine.workers.rooms import (
    COMMANDS,
    FOLDER,
    PACKAGE,
    PYTHON,
    Room,
    checked_texts,
    current_path,
    library_path,
)
from skilllab.errors import InvalidValueError

MIB = 2**20
BWRAP = "/usr/bin/bwrap"
THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
USUAL = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "HOME": FOLDER,
    "TMPDIR": FOLDER,
    "PYTHONDONTWRITEBYTECODE": "1",
}


def shut(**options: Any) -> Room:
    return Room(**{"isolation": "bubblewrap", "own_folder": True, "disk": 64 * MIB, **options})


def plain(**options: Any) -> Room:
    return Room(**{"isolation": "process", "own_folder": True, "disk": 64 * MIB, **options})


def mounts(room: Room) -> list[tuple[str, ...]]:
    """The options of bubblewrap that change its file system, in order, each with its arguments."""
    argv = room.opening(BWRAP)["argv"]
    taking = {"--ro-bind": 2, "--ro-bind-try": 2, "--symlink": 2, "--proc": 1, "--dev": 1, "--tmpfs": 1, "--size": 1}
    taking |= {"--remount-ro": 1, "--chdir": 1}
    found, at = [], 0
    while at < len(argv):
        count = taking.get(argv[at], -1)
        if count >= 0:
            found.append(tuple(argv[at : at + 1 + count]))
        at += 1 + max(0, count)
    return found


def bound(room: Room) -> list[str]:
    """The paths that are mounted after the private folder."""
    after = mounts(room)[mounts(room).index(("--tmpfs", FOLDER)) + 1 :]
    assert all(each[1] == each[2] for each in after if each[0] == "--ro-bind")
    return [each[1] for each in after if each[0] == "--ro-bind"]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of this process that are nobody else's business."""
    variables = {"SECRET_TOKEN": "s3cr3t", "PYTHONPATH": "/evil", "LD_PRELOAD": "", "OMP_NUM_THREADS": "8"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


# what is mounted


def test_a_sandbox_begins_with_its_namespaces_and_no_rights() -> None:
    """The command is bubblewrap with all its namespaces and no capability, and ends with the interpreter itself."""
    argv = shut().opening(BWRAP)["argv"]
    assert argv[: 1 + len(NAMESPACES)] == [BWRAP, *NAMESPACES]
    assert argv[argv.index("--cap-drop") + 1] == "ALL"
    assert {"--unshare-all", "--die-with-parent"} <= set(argv)
    assert argv[-5:-1] == [os.path.realpath(sys.executable), "-I", "-S", "-c"]
    assert argv[-1].endswith("from skilllab.programs.warm import main; main()")
    assert argv[-7:-5] == ["--remount-ro", "/"]


def test_the_order_of_mounts() -> None:
    """System, /proc and /dev come first and are made read-only, then the private folder, then paths, and the root last."""
    found = mounts(shut(cwd="/etc"))
    order = [
        ("--ro-bind", "/usr", "/usr"),
        ("--ro-bind-try", "/etc/passwd", "/etc/passwd"),
        ("--proc", "/proc"),
        ("--remount-ro", "/proc"),
        ("--dev", "/dev"),
        ("--tmpfs", "/dev/shm"),
        ("--remount-ro", "/dev"),
        ("--tmpfs", FOLDER),
        ("--ro-bind", "/etc", "/etc"),
        ("--chdir", "/etc"),
        ("--remount-ro", "/"),
    ]
    places = [found.index(each) for each in order]
    assert places == sorted(places)
    assert found[-1] == ("--remount-ro", "/")
    assert found.index(("--remount-ro", "/proc")) == found.index(("--proc", "/proc")) + 1


def test_nothing_is_mounted_writable_but_the_private_folders() -> None:
    """No bind mount is writable, and of the file systems of its own only the folder and the shared memory can be written."""
    argv = shut(paths=("/etc",)).opening(BWRAP)["argv"]
    assert not {"--bind", "--bind-try", "--dev-bind", "--dev-bind-try", "--share-net"} & set(argv)
    made = [each[1] for each in mounts(shut()) if each[0] in ("--tmpfs", "--proc", "--dev")]
    shut_again = [each[1] for each in mounts(shut()) if each[0] == "--remount-ro"]
    assert set(made) - set(shut_again) == {FOLDER, "/dev/shm"}


@pytest.mark.parametrize(("disk", "shared"), [(2, 1), (2**16, 2**15), (2**17, 2**16), (64 * MIB, 2**16)])
def test_the_folders_are_together_as_large_as_the_disk(disk: int, shared: int) -> None:
    """The private folder and the shared memory together hold as many bytes as allowed, each with a size of its own."""
    found = mounts(shut(disk=disk))
    sized = {found[at + 1]: int(each[1]) for at, each in enumerate(found) if each[0] == "--size"}
    assert sized == {("--tmpfs", "/dev/shm"): shared, ("--tmpfs", FOLDER): disk - shared}


def test_links_of_the_system_stay_links() -> None:
    """Where /bin is a link to /usr/bin it is one in the sandbox, and what is not there is left out."""
    found = {each[-1]: each for each in mounts(shut())}
    for path in ("/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32"):
        if os.path.islink(path):
            assert found[path] == ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            assert found[path] == ("--ro-bind", path, path)
        else:
            assert path not in found


def test_paths_are_mounted_after_the_private_folder(tmp_path: Path) -> None:
    """A path below the temporary folder stays visible: it is mounted when the folder is there already."""
    inside = tmp_path / "data"
    inside.mkdir()
    assert str(inside) in bound(shut(paths=(str(inside),)))


def test_paths_inside_of_others_are_left_out(tmp_path: Path) -> None:
    """Each path is mounted once, outer ones only; a longer name is not inside of a shorter one."""
    for name in ("a/b/c", "ab", "z"):
        (tmp_path / name).mkdir(parents=True)
    asked = ("a/b/c", "ab", "a", "a", "a/../a/b", "z/")
    found = bound(shut(paths=tuple(f"{tmp_path}/{name}" for name in asked)))
    assert [path for path in found if path.startswith(str(tmp_path))] == [
        str(tmp_path / "a"),
        str(tmp_path / "z"),
        str(tmp_path / "ab"),
    ]
    assert not any(path.startswith("/usr/") for path in bound(shut(paths=("/usr/share", "/usr"))))


@pytest.mark.parametrize("path", ["/", "/tmp", "/tmp/", "/proc", "/dev", "/etc/../dev"])
def test_no_path_covers_what_a_sandbox_has_of_its_own(path: str) -> None:
    """The private folder, /proc and /dev are the sandbox's own, whatever paths it may read: such a path is refused or no mount."""
    try:
        found = bound(shut(paths=(path,)))
    except InvalidValueError:
        return
    for own in (FOLDER, "/proc", "/dev"):
        assert not any(own == each or own.startswith(f"{each.rstrip('/')}/") for each in found)


def test_paths_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    """What is gone is not mounted; whether it had to be there is asked elsewhere."""
    assert str(tmp_path / "gone") not in bound(shut(paths=(str(tmp_path / "gone"),)))


def test_the_interpreter_and_the_package_can_be_read() -> None:
    """Whatever a sandbox is for, the interpreter, its virtual environment and this package are inside."""
    reachable = ("/usr", *bound(shut()))
    for path in (sys.base_prefix, sys.prefix, os.path.realpath(sys.executable), str(PACKAGE)):
        assert any(path == outer or path.startswith(f"{outer}/") for outer in reachable)


def test_where_a_sandbox_begins(tmp_path: Path) -> None:
    """It begins in its private folder, or in the folder that was asked for, which it can read."""
    assert ("--chdir", FOLDER) in mounts(shut())
    room = shut(cwd=str(tmp_path))
    assert ("--chdir", str(tmp_path)) in mounts(room)
    assert str(tmp_path) in bound(room)


# what the supervisor is told


@pytest.mark.parametrize(
    ("room", "cwd", "folder", "inner"),
    [
        (shut(), "/", False, FOLDER),
        (shut(cwd="/etc"), "/", False, FOLDER),
        (plain(), None, True, None),
        (plain(cwd="/etc"), "/etc", True, None),
        (plain(own_folder=False, cwd="/etc"), "/etc", False, None),
        (plain(own_folder=False), os.getcwd(), False, None),
    ],
)
def test_folders(room: Room, cwd: str | None, folder: bool, inner: str | None) -> None:
    """The supervisor makes a folder where there is none in the sandbox, and starts the process where it belongs."""
    opening = room.opening(BWRAP)
    assert (opening["cwd"], opening["folder"], opening["settings"]["folder"]) == (cwd, folder, inner)


def test_a_process_is_the_interpreter_alone() -> None:
    """Without bubblewrap the command is what a sandbox has inside."""
    for own_folder in (True, False):
        argv = plain(own_folder=own_folder).opening(None)["argv"]
        assert argv == shut().opening(BWRAP)["argv"][-5:]


def test_where_modules_are_found() -> None:
    """This package comes first, then the room's own path, each once; what to import is passed on in order."""
    here = str(PACKAGE.parent)
    settings = plain(path=("/one", here, "/one", "/other"), preload=(PYTHON, "json")).opening(None)["settings"]
    assert settings["path"] == [here, "/one", "/other"]
    assert settings["preload"] == (PYTHON, "json")
    assert (PACKAGE / "programs" / "__init__.py").exists()


@pytest.mark.parametrize("name", [COMMANDS, PYTHON])
def test_what_runs_a_kind_is_a_module(name: str) -> None:
    """The first module of a room is one of the programs."""
    assert (PACKAGE.parent / f"{name.replace('.', '/')}.py").exists()


# the environment


@pytest.mark.parametrize("make", [shut, plain])
def test_a_private_environment_has_nothing_of_this_process(foreign: dict[str, str], make: Any) -> None:
    """Whatever stands around it, a private room has the usual variables, one thread for each library, and its own."""
    assert make().opening(BWRAP)["env"] == {**USUAL, **THREADS}
    room = make(env=(("PATH", "/opt/bin"), ("OMP_NUM_THREADS", "2"), ("MORE", "x")))
    assert room.opening(BWRAP)["env"] == {**USUAL, **THREADS, "PATH": "/opt/bin", "OMP_NUM_THREADS": "2", "MORE": "x"}


def test_a_process_without_a_folder_is_as_this_process(foreign: dict[str, str]) -> None:
    """A function's process has this one's variables; threads are bounded where nobody says otherwise."""
    env = plain(own_folder=False, env=(("SECRET_TOKEN", "other"),)).opening(None)["env"]
    assert {**os.environ, **THREADS, **foreign, "SECRET_TOKEN": "other"} == env


# rooms and paths as values


def test_equal_rooms_are_one() -> None:
    """Rooms are compared by what they are made of."""
    assert shut(paths=("/a",)) == shut(paths=("/a",))
    assert len({shut(), shut(), plain(), shut(disk=5)}) == 3


@pytest.mark.parametrize("texts", ["/etc", ("/etc", 5), [b"/etc"]])
def test_what_is_no_list_of_texts_is_refused(texts: Any) -> None:
    """One text where a list is meant, and anything but texts in it, is an error that shows it."""
    with pytest.raises(InvalidValueError, match="must be a list of texts"):
        checked_texts("paths", texts)


def test_paths_must_be_absolute_and_modules_need_not() -> None:
    """A relative path would mean another folder in a worker; names of modules are no paths."""
    with pytest.raises(InvalidValueError, match="'data' must be absolute"):
        checked_texts("paths", ["/etc", "data"])
    assert checked_texts("paths", ["/etc"]) == ("/etc",)
    assert checked_texts("preload", ["json"]) == ("json",)


def test_library_path_holds_the_libraries() -> None:
    """The standard library comes first and then what is installed, without this folder and without what is not there."""
    path = library_path()
    assert len(set(path)) == len(path)
    assert os.path.dirname(os.__file__) in path
    assert os.path.dirname(os.path.dirname(pytest.__file__)) in path
    assert all(map(os.path.isabs, path))
    assert path.index(os.path.dirname(os.__file__)) < path.index(os.path.dirname(os.path.dirname(pytest.__file__)))


def test_current_path_has_names_for_relative_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What stands for the current folder is its name, for a worker may begin elsewhere; doubles count once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/one", "relative", "/one/", str(tmp_path)])
    assert current_path() == (str(tmp_path), "/one", str(tmp_path / "relative"))

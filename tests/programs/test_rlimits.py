"""Limits that the system holds: each tried in a process of its own, which gives up what it may."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable

import pytest

LIFT = """
    import json, os, resource, subprocess
    from skilllab.programs import rlimits, worker
    KINDS = {
        "address_space": resource.RLIMIT_AS,
        "file_size": resource.RLIMIT_FSIZE,
        "open_files": resource.RLIMIT_NOFILE,
        "processes": resource.RLIMIT_NPROC,
    }
    def lift(kind):
        soft, hard = resource.getrlimit(kind)
        for bounds in ((hard + 1, hard + 1), (resource.RLIM_INFINITY, resource.RLIM_INFINITY), (soft, hard + 1)):
            try:
                resource.setrlimit(kind, bounds)
            except (ValueError, OSError):
                continue
            return "lifted"
        return "held"
"""
VALUES = {"address_space": 1 << 32, "file_size": 4096, "open_files": 50, "processes": 5000}


@pytest.mark.parametrize("name", VALUES)
def test_a_hard_limit_cannot_be_lifted(run_alone: Callable[..., str], name: str) -> None:
    """A limit is set soft and hard, and once the right to lift is given up not even root can raise it again."""
    source = (
        LIFT
        + """
    name, value = sys.argv[1], int(sys.argv[2])
    rlimits.hold({name: value})
    bounds = resource.getrlimit(KINDS[name])
    rlimits.give_up_lifting()
    print(json.dumps([bounds, lift(KINDS[name]), resource.getrlimit(KINDS[name])]))
    """
    )
    value = VALUES[name]
    assert json.loads(run_alone(source, name, str(value))) == [[value, value], "held", [value, value]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has the right to lift limits")
def test_root_could_lift_before(run_alone: Callable[..., str]) -> None:
    """Until the right is given up root lifts hard limits, so that giving it up is what holds them."""
    source = (
        LIFT
        + """
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        resource.setrlimit(resource.RLIMIT_NOFILE, (61, 61))
    except (ValueError, OSError):
        print("this root may not either")
    else:
        rlimits.hold({"file_size": 4096})
        print(lift(resource.RLIMIT_FSIZE))
    """
    )
    assert run_alone(source) in ("lifted", "this root may not either")


def test_programs_cannot_lift_either(run_alone: Callable[..., str]) -> None:
    """What is started afterwards has the same limits, and can raise none of them."""
    source = (
        LIFT
        + """
    rlimits.hold({"open_files": 50, "file_size": 4096})
    rlimits.give_up_lifting()
    script = "ulimit -n; ulimit -f; ulimit -c; ulimit -n 51 2>&- || ulimit -f 9 2>&- || ulimit -c 1 2>&- || echo held"
    print(subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout.split())
    """
    )
    assert run_alone(source) == "['50', '8', '0', 'held']"  # file sizes in blocks of 512 bytes


def test_no_rights_are_left_to_gain(run_alone: Callable[..., str]) -> None:
    """No program can give new rights, and the right to lift limits is in no set that this process or a program has."""
    source = """
        import subprocess
        from skilllab.programs import rlimits
        rlimits.give_up_lifting()
        rlimits.give_up_lifting()
        rows = open("/proc/self/status").read() + subprocess.run(
            ["cat", "/proc/self/status"], capture_output=True, text=True).stdout
        for row in rows.splitlines():
            name, _, value = row.partition(":")
            if name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                print(int(value, 16) >> 24 & 1, end="")
            elif name == "NoNewPrivs":
                print(value.strip(), end="")
    """
    assert run_alone(source) == "00001" * 2


def test_nothing_asked_changes_nothing_but_core_dumps(run_alone: Callable[..., str]) -> None:
    """What is missing or None stays as it is; a core dump is never written, for it may be as large as the memory."""
    source = (
        LIFT
        + """
    before = {name: resource.getrlimit(kind) for name, kind in KINDS.items()}
    rlimits.hold({})
    rlimits.hold({"open_files": None, "something_else": 5})
    print({name: resource.getrlimit(kind) for name, kind in KINDS.items()} == before)
    print(resource.getrlimit(resource.RLIMIT_CORE))
    """
    )
    assert run_alone(source).split("\n") == ["True", "(0, 0)"]


def test_a_limit_above_what_there_is_is_lowered_to_that(run_alone: Callable[..., str]) -> None:
    """Who may have less than was asked for keeps the less, and a lower limit replaces a higher one."""
    source = (
        LIFT
        + """
    rlimits.hold({"open_files": 50})
    rlimits.give_up_lifting()
    rlimits.hold({"open_files": 500})
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
    rlimits.hold({"open_files": 40})
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
    """
    )
    assert run_alone(source).split("\n") == ["(50, 50)", "(40, 40)"]


@pytest.mark.parametrize("more", [1, 3, 10])
def test_so_many_files_can_be_opened(run_alone: Callable[..., str], more: int) -> None:
    """Whatever was open before, with gaps, exactly as many descriptors as allowed can be opened on top, then EMFILE."""
    source = (
        LIFT
        + """
    import errno
    from skilllab.programs.kinds import Script
    more = int(sys.argv[1])
    os.dup2(0, 7), os.dup2(0, 9), os.dup2(0, 200)
    taken = Script({"skill": "s"}, b"").descriptors()
    rlimits.hold({"open_files": worker._bound(taken, more)})
    opened = []
    try:
        while len(opened) < 100:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print(len(opened), errno.errorcode[error.errno], {0, 1, 2, 7, 9, 200} <= taken, taken.isdisjoint(opened))
    """
    )
    assert run_alone(source, str(more)) == f"{more} EMFILE True True"


@pytest.mark.parametrize(
    ("limits", "work", "told"),
    [
        ({"file_size": 4096}, "open(sys.argv[2], 'wb', 0).write(bytes(4096)) == 4096", "True"),
        ({"file_size": 4096}, "[open(sys.argv[2], 'wb', 0).write(bytes(n)) for n in (4000, 9000)]", "[4000, 4096]"),
        ({"file_size": 4096}, "os.truncate(sys.argv[2], 4097)", "OSError EFBIG"),
        ({"address_space": 1 << 28}, "bytearray(1 << 29)", "MemoryError"),
        ({"address_space": 1 << 28}, "len(bytearray(1 << 20))", "1048576"),
    ],
)
def test_what_is_beyond_a_limit_fails(
    run_alone: Callable[..., str], tmp_path: object, limits: dict[str, int], work: str, told: str
) -> None:
    """Python is told of a limit by the error that goes with it, and runs on."""
    source = (
        LIFT
        + f"""
    import errno
    open(sys.argv[2], "wb").close()
    rlimits.hold(json.loads(sys.argv[1]))
    try:
        print({work})
    except (OSError, MemoryError) as error:
        print(type(error).__name__, errno.errorcode.get(getattr(error, "errno", 0), ""))
    """
    )
    assert run_alone(source, json.dumps(limits), f"{tmp_path}/file") == told


def test_an_orphan_ends_with_its_parent(run_alone: Callable[..., str]) -> None:
    """A process that asked for it is killed when its parent ends."""
    source = """
        import os, signal
        from skilllab.programs import rlimits
        rlimits.adopt_orphans()
        told, tell = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                rlimits.end_with_parent()
                os.write(tell, b"%d" % os.getpid())
                signal.pause()
            os.read(told, 1), os._exit(0)
        statuses = {os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)}
        print(statuses == {0, -signal.SIGKILL})
    """
    assert run_alone(source) == "True"


@pytest.mark.parametrize("hidden", [True, False])
def test_memory_can_be_hidden(start_alone: Callable[..., subprocess.Popen[str]], hidden: bool) -> None:
    """A process that hides its memory belongs to root as others see it, and to its user again when it does not."""
    source = """
        import os
        from skilllab.programs import rlimits
        rlimits.hide_memory(True)
        rlimits.hide_memory(sys.argv[1] == "True")
        import ctypes
        print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
        os.read(0, 1)
    """
    process = start_alone(source, str(hidden))
    assert process.stdout.readline() == f"{int(not hidden)}\n"  # type: ignore[union-attr]
    expected = 0 if hidden else os.geteuid()
    assert os.stat(f"/proc/{process.pid}/environ").st_uid == expected


def test_what_the_system_refuses_raises(run_alone: Callable[..., str]) -> None:
    """Where the system does not know an option, its error is raised, with the option."""
    source = """
        from skilllab.programs import rlimits
        try:
            rlimits._prctl(99999, 1)
        except OSError as error:
            print(error)
    """
    assert run_alone(source) == "[Errno 22] prctl(99999, 1) failed"

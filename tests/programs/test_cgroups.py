"""Control groups: what is read and written, in folders made up for it, and in real groups where this machine lets them be made."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skilllab.programs import cgroups
from skilllab.programs.cgroups import PREFIX, Cgroup, Place, candidates, clear_stale, writable

MIB = 1 << 20
GROUP = f"{PREFIX}1-test"


def made(folder: Path, **files: str) -> Path:
    """A folder with files of a group: `__` in a name is a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def version_1(tmp_path: Path) -> Cgroup:
    """A group of either controller in a hierarchy of its own, with the bound of memory and swap."""
    made(
        tmp_path / "memory" / GROUP,
        memory__usage_in_bytes="1048576\n",
        memory__limit_in_bytes="",
        memory__memsw__limit_in_bytes="",
        memory__max_usage_in_bytes="3145728\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        cgroup__procs="12\n13\n",
    )
    made(
        tmp_path / "pids" / GROUP,
        pids__current="4\n",
        pids__max="max\n",
        pids__events="max 5\n",
        cgroup__procs="13\n14\n",
    )
    return Cgroup({name: Place(str(tmp_path / name), "1") for name in ("memory", "pids")}, GROUP)


@pytest.fixture
def version_2(tmp_path: Path) -> Cgroup:
    """One group for both controllers."""
    made(
        tmp_path / GROUP,
        memory__current="2097152\n",
        memory__max="max\n",
        memory__swap__max="max\n",
        memory__peak="4194304\n",
        memory__events="low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 7\n",
        pids__current="2\n",
        pids__max="max\n",
        pids__events="max 6\npids 8\n",
        cgroup__procs="21\n",
    )
    return Cgroup({name: Place(str(tmp_path), "2") for name in ("memory", "pids")}, GROUP)


def counted(cgroup: Cgroup) -> dict[str, float]:
    """What the group has counted so far: kills for want of memory, refusals of tasks."""
    counters = cgroup.counters()
    numbers = {controller: counter.read() for controller, counter in counters.items()}
    for counter in counters.values():
        counter.close()
    return numbers


def read(cgroup: Cgroup, name: str) -> str:
    return (Path(cgroup.folders[name.partition(".")[0]]) / name).read_text()


def test_a_group_is_made_and_removed_once_for_each_folder(tmp_path: Path) -> None:
    """Controllers in one folder have one group, others one each; a group that is gone already is removed as well."""
    one, other = tmp_path / "one", tmp_path / "other"
    for places, folders in (
        ({"memory": Place(str(one), "2"), "pids": Place(str(one), "2")}, [one]),
        ({"memory": Place(str(one), "1"), "pids": Place(str(other), "1")}, [one, other]),
    ):
        one.mkdir(exist_ok=True)
        other.mkdir(exist_ok=True)
        group = Cgroup(places, GROUP)
        group.create()
        assert [folder for folder in (one, other) if (folder / GROUP).is_dir()] == folders
        with pytest.raises(FileExistsError):
            group.create()
        assert group.remove()
        assert group.remove()
        assert not any((folder / GROUP).exists() for folder in (one, other))


def test_a_group_with_something_in_it_cannot_be_removed(version_1: Cgroup) -> None:
    """Removing tells that it was not possible, and raises nothing."""
    assert version_1.remove() is False


def test_joining_writes_into_each_folder_once(version_1: Cgroup, version_2: Cgroup) -> None:
    """A process enters every hierarchy, and the one folder of version 2."""
    version_1.join(77)
    version_2.join(78)
    assert [(Path(folder) / "cgroup.procs").read_text() for folder in version_1.folders.values()] == ["77", "77"]
    assert (Path(version_2.folders["pids"]) / "cgroup.procs").read_text() == "78"


def test_the_processes_of_all_folders(version_1: Cgroup, version_2: Cgroup) -> None:
    """The processes of a group are those in any of its folders; where there is no folder there are none."""
    assert version_1.processes() == {12, 13, 14}
    assert version_2.processes() == {21}
    assert Cgroup({"pids": Place("/nowhere", "2")}, GROUP).processes() == set()


def test_memory_version_1(version_1: Cgroup) -> None:
    """Memory, and memory with swap, may be what is used now and so much more; the peak begins anew."""
    assert version_1.hold_memory(MIB) == MIB
    assert read(version_1, "memory.limit_in_bytes") == read(version_1, "memory.memsw.limit_in_bytes") == str(2 * MIB)
    assert read(version_1, "memory.max_usage_in_bytes") == "0"


def test_memory_version_1_without_a_bound(version_1: Cgroup) -> None:
    """None takes both bounds away and leaves the peak."""
    assert version_1.hold_memory(None) == MIB
    assert read(version_1, "memory.limit_in_bytes") == read(version_1, "memory.memsw.limit_in_bytes") == "-1"
    assert version_1.peak() == 3 * MIB


def test_memory_version_2(version_2: Cgroup) -> None:
    """Memory may be what is used now and so much more, and nothing is swapped out to get round that."""
    assert version_2.hold_memory(MIB) == 2 * MIB
    assert (read(version_2, "memory.max"), read(version_2, "memory.swap.max")) == (str(3 * MIB), "0")
    assert version_2.peak() == 4 * MIB
    version_2.hold_memory(None)
    assert (read(version_2, "memory.max"), read(version_2, "memory.swap.max")) == ("max", "max")


@pytest.mark.parametrize("more", [MIB, None])
def test_memory_where_swap_is_not_counted(version_1: Cgroup, version_2: Cgroup, more: int | None) -> None:
    """A system without the bound for swap gets none: no file is made up for it."""
    for cgroup, name in ((version_1, "memory.memsw.limit_in_bytes"), (version_2, "memory.swap.max")):
        swap = Path(cgroup.folders["memory"]) / name
        swap.unlink()
        cgroup.hold_memory(more)
        assert not swap.exists()


def test_kills_are_counted_by_the_process(version_1: Cgroup, version_2: Cgroup) -> None:
    """Of what a system tells about running out of memory, the number of killed processes counts."""
    assert (counted(version_1)["memory"], counted(version_2)["memory"]) == (3, 1)


def test_cpu_time(tmp_path: Path) -> None:
    """A group's clock is in seconds: of nanoseconds in version 1, of microseconds in version 2."""
    made(tmp_path / "1" / GROUP, cpuacct__usage="2500000000\n")
    made(tmp_path / "2" / GROUP, cpu__stat="usage_usec 1500000\nuser_usec 7\n")
    for version, seconds in (("1", 2.5), ("2", 1.5)):
        clock = Cgroup({"cpu": Place(str(tmp_path / version), version)}, GROUP).clock()
        assert clock is not None
        assert clock.read() == pytest.approx(seconds)
        clock.close()
    assert Cgroup({"pids": Place(str(tmp_path), "2")}, GROUP).clock() is None


def test_a_peak_that_is_not_told_is_none(version_2: Cgroup) -> None:
    """Systems before Linux 5.19 have no peak in version 2."""
    (Path(version_2.folders["memory"]) / "memory.peak").unlink()
    assert version_2.peak() is None


def test_tasks(version_1: Cgroup, version_2: Cgroup) -> None:
    """There may be so many tasks more than now, any number, or none more at all; refusals are counted."""
    for cgroup, now in ((version_1, 4), (version_2, 2)):
        cgroup.hold_tasks(3)
        assert read(cgroup, "pids.max") == str(now + 3)
        cgroup.hold_tasks(None)
        assert read(cgroup, "pids.max") == "max"
        cgroup.refuse_tasks()
        assert read(cgroup, "pids.max") == "0"
    assert (counted(version_1)["pids"], counted(version_2)["pids"]) == (5, 6)


def test_counters_are_those_of_the_controllers_that_are_there(version_2: Cgroup, tmp_path: Path) -> None:
    """A group that holds one thing counts that only, and a counter goes on with the file as it is then."""
    only = Cgroup({"pids": Place(str(tmp_path), "2")}, GROUP)
    assert counted(only) == {"pids": 6}
    counter = only.counters()["pids"]
    made(tmp_path / GROUP, pids__events="max 60\n")
    assert counter.read() == 60
    counter.close()


def test_tasks_cannot_be_refused_without_a_group_for_them(tmp_path: Path) -> None:
    """Where only memory is held, refusing tasks does nothing."""
    Cgroup({"memory": Place(str(tmp_path), "1")}, GROUP).refuse_tasks()
    assert list(tmp_path.iterdir()) == []


# where groups might be made


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], dict[str, list[Place]]]:
    """A function that tells the candidates of a process with this mountinfo and these groups."""

    def told(mountinfo: str, own: str) -> dict[str, list[Place]]:
        real = cgroups._read
        files = {("/proc/self", "mountinfo"): mountinfo, ("/proc/self", "cgroup"): own}
        monkeypatch.setattr(
            cgroups,
            "_read",
            lambda folder, name: files[folder, name] if (folder, name) in files else real(folder, name),
        )
        return candidates()

    return told


V1 = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:10 master:3 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
"""


@pytest.mark.parametrize(
    ("root", "own", "inside"),
    [
        ("/", "/", ""),
        ("/", "/user/me", "/user/me"),
        ("/docker/1", "/docker/1", ""),
        ("/docker/1", "/docker/1/me", "/me"),
    ],
)
def test_candidates_of_version_1(
    system: Callable[[str, str], dict[str, list[Place]]], root: str, own: str, inside: str
) -> None:
    """Each controller has its mount, and below it the process's own group, seen from the root of the mount."""
    found = system(V1.format(root=root), f"9:memory:{own}\n8:pids:/\n3:cpu,cpuacct:/x\n1:name=systemd:/y\n0::/\n")
    assert found == {
        "memory": [Place(f"/sys/fs/cgroup/memory{inside}", "1")],
        "pids": [Place("/sys/fs/cgroup/pids", "1")],
        "cpu": [Place("/sys/fs/cgroup/cpu,cpuacct/x", "1")],
    }


def test_a_group_outside_of_the_mount_is_none(system: Callable[[str, str], dict[str, list[Place]]]) -> None:
    """Where the process's own group is not below the mount, the top of the mount is what there is."""
    for own in ("/elsewhere", "/docker/10"):
        found = system(V1.format(root="/docker/1"), f"9:memory:{own}\n8:pids:/\n")
        assert found["memory"] == [Place("/sys/fs/cgroup/memory", "1")]


def test_controllers_that_are_mounted_together(system: Callable[[str, str], dict[str, list[Place]]]) -> None:
    """Two controllers of one mount have the same folder."""
    mount = "35 31 0:32 / /cg/both rw - cgroup cgroup rw,pids,memory\n"
    place = [Place("/cg/both/me", "1")]
    assert system(mount, "4:memory,pids:/me\n") == {"memory": place, "pids": place, "cpu": []}


@pytest.mark.parametrize("options", ["rw,cpuacct", "rw,cpu,cpuacct"])
def test_the_clock_of_version_1(system: Callable[[str, str], dict[str, list[Place]]], options: str) -> None:
    """In version 1 a controller named cpuacct counts CPU time; the one named cpu only shares it out."""
    mounts = f"35 31 0:32 / /cg/clock rw - cgroup cgroup {options}\n36 31 0:33 / /cg/shares rw - cgroup cgroup rw,cpu\n"
    assert system(mounts, "4:cpuacct,cpu:/me\n")["cpu"] == [Place("/cg/clock/me", "1")]


def test_no_control_groups_at_all(system: Callable[[str, str], dict[str, list[Place]]]) -> None:
    """Where nothing is mounted there is nothing to try."""
    assert system("22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n", "") == {
        "memory": [],
        "pids": [],
        "cpu": [],
    }


def test_candidates_of_version_2(system: Callable[[str, str], dict[str, list[Place]]], tmp_path: Path) -> None:
    """From the process's own group outwards to the mount, each folder counts whose children get the controller.

    All of them have a clock.
    """
    inner = made(tmp_path / "slice" / "me", cgroup__subtree_control="\n")
    made(inner.parent, cgroup__subtree_control="pids\n")
    made(tmp_path, cgroup__subtree_control="cpu memory pids\n")
    found = system(f"41 31 0:38 / {tmp_path} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n", "0::/slice/me\n")
    top, middle = Place(str(tmp_path), "2"), Place(str(inner.parent), "2")
    assert found == {"memory": [top], "pids": [middle, top], "cpu": [Place(str(inner), "2"), middle, top]}


def test_this_machine_is_read() -> None:
    """The candidates of this process are absolute folders of either version."""
    found = candidates()
    assert set(found) == {"memory", "pids", "cpu"}
    for place in (place for places in found.values() for place in places):
        assert os.path.isdir(place.folder)
        assert place.version in ("1", "2")


def test_the_first_place_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the candidates the nearest that lets a group be made, entered and bounded; a controller without one is left out."""
    one, other, third = Place("/one", "1"), Place("/other", "1"), Place("/third", "1")
    monkeypatch.setattr(cgroups, "candidates", lambda: {"memory": [one, other, third], "pids": [one]})
    monkeypatch.setattr(cgroups, "_works", lambda controller, place, name: place != one)
    assert writable(GROUP) == {"memory": other}


def test_controllers_of_one_hierarchy_share_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """In version 2 a process is in one group only, so that both controllers must be held there, or only one is."""
    inner, outer = Place("/top/inner", "2"), Place("/top", "2")
    monkeypatch.setattr(cgroups, "candidates", lambda: {"memory": [inner, outer], "pids": [outer]})
    monkeypatch.setattr(cgroups, "_works", lambda *_: True)
    assert len(set(writable(GROUP).values())) == 1


def test_a_folder_that_is_no_group_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a folder can be made that bounds nothing, no group is offered, and the folder is not left behind."""
    monkeypatch.setattr(cgroups, "candidates", lambda: {"memory": [Place(str(tmp_path), "2")], "pids": []})
    assert writable(GROUP) == {}
    monkeypatch.setattr(cgroups, "candidates", lambda: {"memory": [Place(str(tmp_path / "gone"), "1")], "pids": []})
    assert writable(GROUP) == {}


# what was left behind


def test_stale_groups_are_those_of_the_gone_and_ones_own(tmp_path: Path) -> None:
    """Groups whose owner runs stay, and so does everything with another name."""
    gone = ended()
    mine = f"{PREFIX}{os.getpid()}-token-"
    stale = {f"{PREFIX}{gone}-ab-0", f"{PREFIX}{gone}", f"{mine}0"}
    kept = {f"{PREFIX}{os.getpid()}-other-0", f"{PREFIX}1-ab-0", f"{PREFIX}x-0", f"other-{gone}-0", str(gone)}
    for name in stale | kept:
        (tmp_path / name).mkdir()
    clear_stale({"memory": Place(str(tmp_path), "2"), "pids": Place(str(tmp_path), "2")}, mine)
    assert {path.name for path in tmp_path.iterdir()} == kept


def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait(10)
    return process.pid


# real groups


@pytest.fixture(scope="module")
def places() -> dict[str, Place]:
    return writable(f"{PREFIX}{os.getpid()}-tests")


@pytest.fixture
def real(places: dict[str, Place], request: pytest.FixtureRequest) -> Iterator[Cgroup]:
    """A real group, with whatever controllers there are; whoever is in it is ended after the test."""
    if request.param not in places:
        pytest.skip(f"no {request.param} control group can be made here")
    group = Cgroup(places, f"{PREFIX}{os.getpid()}-tests-{request.node.name[:20]}")
    group.create()
    yield group
    for pid in group.processes():
        os.kill(pid, signal.SIGKILL)
    for _ in range(1000):
        if group.remove():
            return
        os.sched_yield()
    assert group.remove()


WAIT = """
    import os
    os.read(0, 1)
"""


@pytest.mark.parametrize("real", ["memory"], indirect=True)
def test_memory_is_held(real: Cgroup, start_alone: Callable[..., subprocess.Popen[str]]) -> None:
    """A process that takes more than its group may have is killed, which is counted, and the peak stays within the bound."""
    hog = start_alone(WAIT + "    kept = bytearray(64 << 20)\n")
    real.join(hog.pid)
    assert real.processes() == {hog.pid}
    resting = real.hold_memory(8 * MIB)
    assert counted(real)["memory"] == 0
    hog.communicate("x", timeout=10)
    assert hog.returncode == -signal.SIGKILL
    assert counted(real)["memory"] == 1
    peak = real.peak()
    assert peak is None or peak <= resting + 8 * MIB


@pytest.mark.parametrize("real", ["memory"], indirect=True)
def test_a_bound_on_memory_may_be_changed(real: Cgroup, start_alone: Callable[..., subprocess.Popen[str]]) -> None:
    """Raised, lowered or taken away, the last bound is what holds."""
    for more in (8 * MIB, 64 * MIB, 8 * MIB, None, 8 * MIB, 128 * MIB):
        real.hold_memory(more)
    eater = start_alone(WAIT + "    kept = bytearray(64 << 20)\n")
    real.join(eater.pid)
    eater.communicate("x", timeout=10)
    assert (eater.returncode, counted(real)["memory"]) == (0, 0)


@pytest.mark.parametrize("real", ["cpu"], indirect=True)
def test_cpu_time_of_the_forgotten_counts(real: Cgroup, start_alone: Callable[..., subprocess.Popen[str]]) -> None:
    """A group counts what children spent also when nobody waited for them."""
    source = """
        import os, signal, time
        os.read(0, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if os.fork() == 0:
            while time.process_time() < 0.05: pass
            os._exit(0)
        try:
            os.wait()
        except ChildProcessError:
            print(time.process_time() + sum(os.times()[2:4]))
    """
    parent = start_alone(source)
    clock = real.clock()
    assert clock is not None
    real.join(parent.pid)
    before = clock.read()
    told, _ = parent.communicate("x", timeout=10)
    assert float(told) < 0.05 <= clock.read() - before
    clock.close()


@pytest.mark.parametrize("real", ["pids"], indirect=True)
def test_tasks_are_held(real: Cgroup, start_alone: Callable[..., subprocess.Popen[str]]) -> None:
    """So many more can be forked and no more; none at all once they are refused; each refusal is counted."""
    source = """
        import os
        held, hold = os.pipe()
        for line in sys.stdin:
            children = 0
            try:
                while children < 20:
                    if os.fork() == 0:
                        os.close(hold)
                        os.read(held, 1)
                        os._exit(0)
                    children += 1
            except BlockingIOError:
                print(children, flush=True)
    """
    forker = start_alone(source)

    def forked() -> int:
        print(file=forker.stdin, flush=True)
        return int(forker.stdout.readline())  # type: ignore[union-attr]

    real.join(forker.pid)
    real.hold_tasks(3)
    assert (forked(), counted(real)["pids"]) == (3, 1)
    assert len(real.processes()) == 4
    real.hold_tasks(2)
    assert (forked(), counted(real)["pids"]) == (2, 2)
    real.hold_tasks(20)
    real.refuse_tasks()
    assert (forked(), counted(real)["pids"]) == (0, 3)


@pytest.mark.parametrize("controller", ["memory", "pids"])
def test_what_a_dead_owner_left_is_cleared(
    places: dict[str, Place], controller: str, start_alone: Callable[..., subprocess.Popen[str]]
) -> None:
    """A process in a group whose owner is gone is ended, and the group is taken away."""
    if controller not in places:
        pytest.skip(f"no {controller} control group can be made here")
    place = {controller: places[controller]}
    group = Cgroup(place, f"{PREFIX}{ended()}-left-0")
    group.create()
    left = start_alone(WAIT)
    group.join(left.pid)
    clear_stale(place, f"{PREFIX}{os.getpid()}-tests-")
    assert left.wait(10) == -signal.SIGKILL
    clear_stale(place, f"{PREFIX}{os.getpid()}-tests-")  # now that nobody is in it any more
    assert not os.path.exists(group.folders[controller])

"""Escapes: what a script in bubblewrap tries, and is refused, as root as well as an ordinary user."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from skilllab import script_skill

from .conftest import Lab

TRY = """
import ctypes, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def write(path, data=b"1"):
    number = os.open(path, os.O_WRONLY)
    try:
        os.write(number, data)
    finally:
        os.close(number)

def run(params):
    try:
        return ["done", repr(eval(params["what"], {**globals(), "params": params}))]
    except BaseException as error:
        return ["refused", f"{type(error).__name__}: {error}"]
"""
REFUSED = {
    "a file outside the named paths": "open(params['secret']).read()",
    "the folder it lies in": "os.listdir(params['home'])",
    "the root of the system": "open('/etc/shadow').read()",
    "a device of the system": "open('/dev/mem', 'rb')",
    "writing to the system": "open('/usr/bin/mine', 'w')",
    "writing to the root": "open('/mine', 'w')",
    "writing to the devices": "open('/dev/mine', 'w')",
    "writing to a named path": "open(params['named'] + '/mine', 'w')",
    "settings of the kernel": "write('/proc/sys/vm/drop_caches')",
    "the name of the machine": "write('/proc/sys/kernel/hostname', b'mine')",
    "its place in the queue of the dying": "write('/proc/self/oom_score_adj', b'-1000')",
    "the environment of its warm parent": "open('/proc/1/environ').read()",
    "the memory of its warm parent": "open('/proc/1/mem', 'rb')",
    "tracing its warm parent": "checked(libc.ptrace(16, 1, 0, 0))",
    "mounting": "checked(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
    "unmounting": "checked(libc.umount(b'/proc'))",
    "another user namespace": "checked(libc.unshare(0x10000000))",
    "another process namespace": "checked(libc.unshare(0x20000000))",
    "another network namespace": "checked(libc.unshare(0x40000000))",
    "another root": "os.chroot('/tmp')",
    "another user": "os.setuid(os.getuid() + 1)",
    "a server of the machine": "socket.create_connection(('127.0.0.1', params['port']), 2)",
    "a host of the network": "socket.create_connection(('192.0.2.1', 9), 2)",
    "a name of the network": "socket.getaddrinfo('localhost.example', 80)",
    "raw packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "a socket in the file system": "socket.socket(socket.AF_UNIX).connect(params['socket'])",
    "an abstract socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + params['abstract'])",
    "a higher priority": "os.nice(-5)",
    "the clock": "__import__('time').clock_settime(0, 0.0)",
}
SHUT_IN = {
    "the parent's environment": ("sorted(os.environ)", "SKILLLAB_SECRET", False),
    "the descriptors of others": ("len(os.listdir('/proc/self/fd'))", "5", None),  # standard, its socket, the listing
    "other processes": ("[name for name in os.listdir('/proc') if name.isdigit()]", "['1', '2']", None),
    "killing its warm parent": (
        "[os.kill(1, signal.SIGKILL), os.kill(1, signal.SIGTERM), 'still here']",
        "still here",
        True,
    ),
    "rights": ("[row for row in open('/proc/self/status') if row.startswith('CapEff')]", "0000000000000000", True),
    "the machine's name": ("os.uname().nodename", "'sandbox'", None),
}


@pytest.fixture(scope="module")
def tried(make_lab: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """A function that has the sandbox try an expression; returns whether it was refused, and what came of it."""
    home = tmp_path_factory.mktemp("home")
    (home / "secret").write_text("secret")
    named = tmp_path_factory.mktemp("named")
    (named / "known").write_text("known")
    os.environ["SKILLLAB_SECRET"] = "secret"
    lab = make_lab("bubblewrap", paths=(str(named),))
    lab.register(script_skill(id="tries", source=TRY))
    server = socket.create_server(("127.0.0.1", 0))
    at_path, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    at_path.bind(str(home / "socket"))
    abstract.bind(f"\0skilllab-test-{os.getpid()}")
    for each in (server, at_path, abstract):
        each.listen()

    def run(what: str) -> list[str]:
        params = {
            "what": what,
            "secret": str(home / "secret"),
            "home": str(home),
            "named": str(named),
            "port": server.getsockname()[1],
            "socket": str(home / "socket"),
            "abstract": f"skilllab-test-{os.getpid()}",
        }
        result = lab.execute("tries", params)
        assert result.error is None
        answer: list[str] = result.output
        return answer

    yield run  # type: ignore[misc]  # a fixture may yield
    del os.environ["SKILLLAB_SECRET"]
    for each in (server, at_path, abstract):
        each.close()


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(tried: Callable[[str], list[str]], what: str) -> None:
    """What reaches out of the sandbox is refused."""
    outcome, told = tried(REFUSED[what])
    assert outcome == "refused", told
    assert "SyntaxError" not in told
    assert "NameError" not in told


@pytest.mark.parametrize("what", SHUT_IN)
def test_it_sees_itself_only(tried: Callable[[str], list[str]], what: str) -> None:
    """A sandbox sees nothing but itself."""
    expression, text, there = SHUT_IN[what]
    outcome, told = tried(expression)
    assert outcome == "done", told
    assert told == text if there is None else (text in told) is there


def test_what_it_may(tried: Callable[[str], list[str]]) -> None:
    """Named paths can be read, the private folder can be written, and semaphores can be made."""
    assert tried("open(params['named'] + '/known').read()") == ["done", "'known'"]
    assert tried("[open('/tmp/own', 'w').write('x'), os.listdir('/tmp')[-1:]]")[0] == "done"
    assert tried("__import__('multiprocessing').Lock()")[0] == "done"
    assert tried("__import__('multiprocessing').Semaphore(2).acquire()") == ["done", "True"]

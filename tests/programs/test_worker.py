"""The worker: it answers one call after another, and says which limit may be behind an error."""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from skilllab.programs import wire, worker
from skilllab.programs.wire import CALL, CHUNK, DONE, FAILED, LOAD, NEXT, READY, STOP, STREAM, Frame
from skilllab.programs.worker import Server, UnsendableError

MOST = 100


class Handler:
    """Answers with what `answers` gives; a stream yields each of its texts, and an error is raised in its place."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.bodies: list[bytes] = []
        self.closed = False

    def call(self, body: bytes) -> bytes:
        self.bodies.append(body)
        return self._given(self.answers[0])

    def stream(self, body: bytes) -> Iterator[bytes]:
        self.bodies.append(body)
        try:
            yield from map(self._given, self.answers)
        finally:
            self.closed = True

    def failure(self, error: BaseException | None, told: dict[str, Any]) -> bytes:
        return json.dumps([None if error is None else type(error).__name__, told]).encode()

    def _given(self, answer: Any) -> bytes:
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The worker's end of its socket and the engine's."""
    ours, theirs = wire.pair("stream")
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def asked(ends: tuple[socket.socket, socket.socket]) -> Callable[..., list[tuple[Frame, bytes]]]:
    """A function that has a handler answer a call, or a stream, and returns all frames that it sent; `said` is asked for chunks."""

    def ask(handler: Handler, kind: int = CALL, body: bytes = b"body", said: tuple[int, ...] = ()) -> Any:
        for each in said:
            wire.send_frame(ends[1], each, 3)
        Server(ends[0], handler, MOST).answer(Frame(kind, 3, len(body)), body)
        ends[0].shutdown(socket.SHUT_WR)
        frames = []
        try:
            while True:
                frame, answer = wire.receive_frame(ends[1])
                assert frame.number == 3
                assert frame.size == len(answer)
                frames.append((frame.kind, answer))
        except EOFError:
            return frames

    return ask


def told(frames: list[tuple[int, bytes]]) -> Any:
    """What the only frame tells of a failure."""
    [(kind, body)] = frames
    assert kind == FAILED
    return json.loads(body)


def test_a_call_is_answered(asked: Callable[..., Any]) -> None:
    """The handler gets the body of the call, and its answer goes back with the call's number."""
    handler = Handler(b"answer")
    assert asked(handler) == [(DONE, b"answer")]
    assert handler.bodies == [b"body"]


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(2), KeyboardInterrupt(), GeneratorExit()])
def test_no_error_ends_the_worker(asked: Callable[..., Any], error: BaseException) -> None:
    """Whatever a skill raises is told as its failure: the type, the text and the way to it."""
    name, said = told(asked(Handler(error)))
    assert name == said["type"] == type(error).__name__
    assert said["message"] == str(error)
    assert said["limit"] is None
    assert said["trace"].rstrip().endswith(f"{name}: {error}".rstrip(": "))
    assert "in _given" in said["trace"]


def test_what_cannot_be_sent_is_told_as_it_says(asked: Callable[..., Any]) -> None:
    """A handler that cannot send an output tells that in place of an error."""
    said = {"type": "TypeError", "message": "no JSON", "limit": None, "trace": ""}
    assert told(asked(Handler(UnsendableError(said)))) == [None, said]


def test_an_output_has_a_largest_size(asked: Callable[..., Any]) -> None:
    """An output as large as allowed is sent."""
    assert asked(Handler(b"x" * MOST)) == [(DONE, b"x" * MOST)]


def test_an_output_that_is_too_large(asked: Callable[..., Any]) -> None:
    """One byte more than allowed is not sent: the limit is told, and how large the output was."""
    name, said = told(asked(Handler(b"x" * (MOST + 1))))
    assert name is None
    assert (said["limit"], said["used"]) == ("max_output", MOST + 1)


def test_a_stream_goes_on_when_asked(asked: Callable[..., Any]) -> None:
    """Each chunk is followed by a question, and the last one by the end."""
    handler = Handler(b"a", b"", b"c")
    assert asked(handler, STREAM, said=(NEXT, NEXT, NEXT)) == [(CHUNK, b"a"), (CHUNK, b""), (CHUNK, b"c"), (DONE, b"")]
    assert handler.closed


def test_a_stream_stops_when_told(asked: Callable[..., Any]) -> None:
    """A reader that has enough closes the source, and nothing more is made."""
    handler = Handler(b"a", b"b", AssertionError("made without being asked for"))
    assert asked(handler, STREAM, said=(NEXT, STOP)) == [(CHUNK, b"a"), (CHUNK, b"b"), (DONE, b"")]
    assert handler.closed


def test_an_empty_stream(asked: Callable[..., Any]) -> None:
    """A stream without chunks is its end only."""
    assert asked(Handler(), STREAM) == [(DONE, b"")]


@pytest.mark.parametrize(("last", "limit"), [(ValueError("bad"), None), (b"x" * (MOST + 1), "max_output")])
def test_a_stream_fails_after_its_chunks(asked: Callable[..., Any], last: Any, limit: str | None) -> None:
    """An error in a stream, and a chunk that is too large, is told after the chunks that were made before."""
    handler = Handler(b"a", last)
    first, *rest = asked(handler, STREAM, said=(NEXT,))
    assert first == (CHUNK, b"a")
    assert told(rest)[1]["limit"] == limit
    assert handler.closed


@pytest.mark.parametrize("when", ["before the first chunk", "after it"])
def test_an_engine_that_is_gone_ends_a_stream(ends: tuple[socket.socket, socket.socket], when: str) -> None:
    """A closed socket closes the source of a stream and is no failure of the skill's: the error comes out."""
    handler = Handler(b"a", b"b", b"c")
    if when == "after it":
        ends[1].shutdown(socket.SHUT_WR)
    else:
        ends[1].close()
    with pytest.raises(EOFError if when == "after it" else OSError):
        Server(ends[0], handler, MOST).answer(Frame(STREAM, 1, 0), b"")
    assert handler.closed


def test_an_engine_that_is_gone_gets_no_answer(ends: tuple[socket.socket, socket.socket]) -> None:
    """An answer that cannot be sent raises OSError."""
    ends[1].close()
    with pytest.raises(OSError, match="Broken pipe"):
        Server(ends[0], Handler(b"a"), MOST).answer(Frame(CALL, 1, 0), b"")


@pytest.mark.parametrize(
    ("number", "limit"),
    [
        (errno.EFBIG, "max_file_size"),
        (errno.ENOSPC, "max_disk"),
        (errno.EDQUOT, "max_disk"),
        (errno.EMFILE, "max_open_files"),
        (errno.EAGAIN, "max_processes"),
        (errno.ENOMEM, "max_memory"),
        (errno.ENETUNREACH, "max_network_requests"),
        (errno.ENOENT, None),
        (errno.EACCES, None),
        (errno.ECONNREFUSED, None),
    ],
)
def test_each_refusal_of_the_system_hints_at_its_limit(number: int, limit: str | None) -> None:
    """The number of an OSError tells which limit it may come from, or that it comes from none."""
    assert worker._limit_behind(OSError(number, os.strerror(number))) == limit


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (MemoryError(), "max_memory"),
        (RuntimeError("can't start new thread"), "max_processes"),
        (RuntimeError("no running event loop"), None),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "max_network_requests"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "max_network_requests"),
        (socket.gaierror(socket.EAI_FAMILY, "ai_family not supported"), None),
        (OSError("without a number"), None),
        (ValueError("bad"), None),
        (None, None),
    ],
)
def test_other_errors_that_hint_at_a_limit(error: BaseException | None, limit: str | None) -> None:
    """Memory, threads and names have errors of their own."""
    assert worker._limit_behind(error) == limit


def test_the_limit_behind_an_error_that_led_to_another() -> None:
    """What an error was raised from, or what was handled when it was raised, counts; the nearest one decides."""
    full, many = OSError(errno.ENOSPC, "full"), OSError(errno.EMFILE, "many")

    def chain(link: str, *errors: BaseException) -> BaseException:
        for outer, inner in itertools.pairwise(errors):
            setattr(outer, link, inner)
        return errors[0]

    for link in ("__cause__", "__context__"):
        assert worker._limit_behind(chain(link, ValueError(), KeyError(), full)) == "max_disk"
        assert worker._limit_behind(chain(link, ValueError(), many, full)) == "max_open_files"
    both = ValueError()
    both.__cause__, both.__context__ = many, full
    assert worker._limit_behind(both) == "max_open_files"


def test_a_circle_of_errors_has_an_end() -> None:
    """Errors that lead to each other hint at nothing."""
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert worker._limit_behind(one) is None


def test_a_told_error_is_of_bounded_size() -> None:
    """Its text is cut, and of the way to it the last twenty steps are kept."""

    def deep(n: int) -> None:
        if n == 0:
            raise ValueError("x" * 50_000)
        deep(n - 1)

    try:
        deep(100)
    except ValueError as error:
        said = worker._told(error)
    assert (len(said["message"]), len(said["trace"])) == (10_000, 20_000)
    try:
        deep_name(100)
    except ValueError as error:
        said = worker._told(error)
    assert said["trace"].count("in deep_name") + said["trace"].count("more times") <= 20


def deep_name(n: int) -> None:
    if n == 0:
        raise ValueError
    deep_name(n - 1)


def test_an_error_without_readable_text() -> None:
    """An error whose text cannot be made is told without it."""

    class UnreadableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    said = worker._told(UnreadableError())
    assert said["message"] == "(an error without readable text)"
    assert said["type"].endswith("UnreadableError")


def test_what_filled_the_memory_is_let_go_before_it_is_told() -> None:
    """The variables of the functions that failed are gone when the error is written down."""
    gone: list[str] = []

    class Big:
        def __del__(self) -> None:
            gone.append("gone")

    def fill() -> None:
        big = Big()
        raise MemoryError(str(len(repr(big))))

    try:
        fill()
    except MemoryError as error:
        worker._told(error)
        assert gone == ["gone"]


@pytest.mark.parametrize(
    ("taken", "more", "bound"),
    [({0, 1, 2}, 1, 4), ({0, 1, 2}, 5, 8), ({0, 1, 2, 5}, 3, 7), (set(), 2, 2), ({7}, 7, 7), ({7}, 8, 9), ({0}, 0, 0)],
)
def test_a_bound_on_numbers_leaves_room(taken: set[int], more: int, bound: int) -> None:
    """Descriptors get the lowest free numbers: below the bound exactly so many are free."""
    assert worker._bound(taken, more) == bound
    assert len(set(range(bound)) - taken) == more


# the whole program, in a process of its own


SERVE = """
    import socket
    from skilllab.programs import worker
    print(worker.serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2] or None))
"""


@pytest.fixture
def served(
    ends: tuple[socket.socket, socket.socket], start_alone: Callable[..., subprocess.Popen[str]]
) -> Callable[..., tuple[socket.socket, subprocess.Popen[str]]]:
    """A function that starts a worker on a load; returns the engine's end of its socket, and its process."""

    def serve(source: str = "def run(params): return params", folder: str = "", **load: Any) -> Any:
        process = start_alone(SERVE, str(ends[0].fileno()), folder, pass_fds=(ends[0].fileno(),))
        ends[0].close()
        whole = {"kind": "script", "skill": "s", "limits": {}, "max_output": 1000, "cwd": None, **load}
        wire.send_frame(ends[1], LOAD, 0, json.dumps(whole).encode() + b"\n" + source.encode())
        return ends[1], process

    return serve


def exit_status(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=10)
    return out.strip()


def test_a_worker_serves_call_after_call(served: Callable[..., Any]) -> None:
    """It is ready once it has loaded, answers each call by its number, and ends when the engine closes the socket."""
    sock, process = served()
    assert wire.receive_frame(sock) == (Frame(READY, 0, 0), b"")
    for number in (1, 2):
        wire.send_frame(sock, CALL, number, b'{"n":%d}' % number)
        frame, body = wire.receive_frame(sock)
        assert (frame.kind, frame.number, body) == (DONE, number, b'{"n":%d}' % number)
    sock.shutdown(socket.SHUT_WR)
    assert exit_status(process) == str(worker.CLOSED)


def test_time_of_processes_that_were_waited_for_is_told(served: Callable[..., Any]) -> None:
    """Each answer carries the CPU seconds of its own call, and of the processes that the skill has waited for in it."""
    source = """
import os, time
def run(params):
    if os.fork() == 0:
        while time.process_time() < 0.03:
            pass
        os._exit(0)
    os.wait()
"""
    sock, _ = served(source)
    wire.receive_frame(sock)
    spent = []
    for number in (1, 2):
        wire.send_frame(sock, CALL, number, b"{}")
        spent.append(wire.receive_frame(sock)[0])
    assert all(0.03 <= frame.others < 0.06 for frame in spent)
    assert all(0 < frame.own < 0.03 for frame in spent)


def test_what_cannot_be_loaded_is_told(served: Callable[..., Any]) -> None:
    """A worker that fails to load says why, and ends as if nothing were wrong: another try would be as good."""
    sock, process = served("def run(:")
    frame, body = wire.receive_frame(sock)
    assert (frame.kind, json.loads(body)["type"]) == (FAILED, "SyntaxError")
    assert exit_status(process) == "0"


def test_limits_hold_from_the_first_call_on(served: Callable[..., Any]) -> None:
    """Limits are set when it has loaded, on top of what it has by then, and its code cannot lift them."""
    source = """
import os, resource
def run(params):
    if params["what"] == "lift":
        return resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if params["what"] == "open":
        return [os.open("/dev/null", os.O_RDONLY) for _ in range(params["size"])]
    return len(bytearray(params["size"]))
"""
    sock, _ = served(source, limits={"address_space": 64 << 20, "open_files": 3})
    assert wire.receive_frame(sock)[0].kind == READY

    def ask(what: str, size: int) -> Any:
        wire.send_frame(sock, CALL, 1, json.dumps({"what": what, "size": size}).encode())
        frame, body = wire.receive_frame(sock)
        said = json.loads(body)
        return said["limit"] or said["type"] if frame.kind == FAILED else said

    assert ask("fill", 16 << 20) == 16 << 20
    assert ask("fill", 64 << 20) == "max_memory"
    assert ask("lift", 0) == "ValueError"
    assert ask("fill", 16 << 20) == 16 << 20
    assert len(ask("open", 3)) == 3
    assert ask("open", 1) == "max_open_files"


def test_the_folder_is_emptied_after_each_call(served: Callable[..., Any], tmp_path: Any) -> None:
    """What a call leaves in the private folder is gone before the next call."""
    (tmp_path / "before").mkdir()
    source = """
import os
def run(params):
    found = os.listdir(params["folder"])
    for name in ("file", ".hidden"):
        open(os.path.join(params["folder"], name), "w").close()
    os.makedirs(os.path.join(params["folder"], "inner", "most"), exist_ok=True)
    os.chmod(os.path.join(params["folder"], "inner"), 0)
    os.path.exists(os.path.join(params["folder"], "link")) or os.symlink("/", os.path.join(params["folder"], "link"))
    return sorted(found)
"""
    sock, _ = served(source, folder=str(tmp_path))
    wire.receive_frame(sock)
    for found in (["before"], [], []):
        wire.send_frame(sock, CALL, 1, json.dumps({"folder": str(tmp_path)}).encode())
        assert json.loads(wire.receive_frame(sock)[1]) == found
    assert os.listdir("/")


def test_what_begins_otherwise_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    """Before it has been told what to run a worker does nothing else: another first frame ends it, unanswered."""
    wire.send_frame(ends[1], CALL, 0)
    assert worker.serve(ends[0], None) == worker.BROKEN
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        ends[1].recv(1)


def test_a_socket_that_the_skill_closed_is_broken(served: Callable[..., Any]) -> None:
    """A skill that closes the socket of its worker gets no further call: the worker ends with a status that says so."""
    source = """
import os
def run(params):
    for descriptor in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{descriptor}") and "socket" in os.readlink(f"/proc/self/fd/{descriptor}"):
            os.close(int(descriptor))
"""
    sock, process = served(source)
    wire.receive_frame(sock)
    wire.send_frame(sock, CALL, 1, b"{}")
    assert process.stdout.readline().strip() == str(worker.BROKEN)

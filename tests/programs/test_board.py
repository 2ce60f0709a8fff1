"""The board: memory in which the engine notes calls and the supervisor reads them."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from skilllab.programs.board import SEATS, Board, Note


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    yield made
    made.close()


@pytest.fixture
def other(board: Board) -> Iterator[Board]:
    """A second board over the same memory, as another process has it."""
    made = Board(os.dup(board.descriptor))
    yield made
    made.close()


def test_a_new_board_is_empty(board: Board) -> None:
    """No seat has a call, and the supervisor is awake."""
    assert {board.note(seat) for seat in range(SEATS)} == {Note(0, 0.0, 0.0, 0.0)}
    assert not board.note(0).busy
    assert not board.asleep


def test_turns(board: Board) -> None:
    """A turn is odd while a call runs, and each call has another one; ending twice is ending once."""
    turns = []
    for _ in range(3):
        board.begin(5, 10.0, 1.0, math.inf)
        turns.append((board.note(5).turn, board.note(5).busy))
        board.end(5)
        board.end(5)
        turns.append((board.note(5).turn, board.note(5).busy))
    assert turns == [(1, True), (2, False), (3, True), (4, False), (5, True), (6, False)]


def test_bounds_change_within_a_turn(board: Board) -> None:
    """Begun again while it runs, a call keeps its turn and gets the new bounds."""
    board.begin(0, 10.0, 1.0, 2.0)
    board.begin(0, math.inf, 1.5, math.inf)
    assert board.note(0) == Note(1, math.inf, 1.5, math.inf)


def test_what_was_noted_stays_after_the_call(board: Board) -> None:
    """The end of a call changes its turn only."""
    board.begin(0, 10.0, 1.0, 2.0)
    board.end(0)
    assert board.note(0) == Note(2, 10.0, 1.0, 2.0)


def test_seats_do_not_touch(board: Board) -> None:
    """What is noted of one seat changes no other, from the first to the last, nor whether the supervisor sleeps."""
    board.sleep(True)
    for seat in range(SEATS):
        board.begin(seat, float(seat), seat + 0.25, seat + 0.5)
    board.end(SEATS - 1)
    expected = [Note(1, float(seat), seat + 0.25, seat + 0.5) for seat in range(SEATS)]
    expected[-1] = expected[-1]._replace(turn=2)
    assert [board.note(seat) for seat in range(SEATS)] == expected
    assert board.asleep


def test_two_boards_share_one_memory(board: Board, other: Board) -> None:
    """Two boards over one descriptor see each other's notes and sleep."""
    board.begin(3, 1.0, 2.0, 3.0)
    assert other.note(3) == Note(1, 1.0, 2.0, 3.0)
    other.sleep(True)
    assert board.asleep
    other.end(3)
    assert board.note(3).turn == 2


def test_who_notes_a_call_learns_whether_to_wake(board: Board, other: Board) -> None:
    """Beginning a call tells whether the supervisor sleeps."""
    assert board.begin(0, 1.0, 1.0, 1.0) is False
    other.sleep(True)
    assert board.begin(0, 1.0, 1.0, 1.0) is True
    other.sleep(False)
    assert board.begin(0, 1.0, 1.0, 1.0) is False


def test_a_note_that_is_never_finished_is_none(board: Board) -> None:
    """Where the engine was killed while it wrote, the reader is told nothing, rather than kept or told half of it."""
    board.begin(2, 1.0, 1.0, 1.0)
    board._whole[3 * 8] += 1  # as `begin` does first
    assert board.note(2) is None
    assert board.note(1) == Note(0, 0.0, 0.0, 0.0)


def test_closing_leaves_the_other_board(board: Board) -> None:
    """A board closes its own descriptor and memory, and no other's."""
    other = Board(os.dup(board.descriptor))
    other.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other.descriptor)
    board.begin(0, 1.0, 1.0, 1.0)
    assert board.note(0).busy


@pytest.mark.slow
@pytest.mark.parametrize("between", ["end", "nothing"])
def test_a_torn_note_is_never_seen(
    board: Board, start_alone: Callable[..., subprocess.Popen[str]], between: str
) -> None:
    """While another process notes calls, or new bounds within one, each note read is one that was written, in order."""
    source = """
        from skilllab.programs.board import Board
        board, between, bound = Board(int(sys.argv[1])), sys.argv[2], 1.0
        board.begin(7, bound, bound, bound)
        print(flush=True)
        for _ in range(300_000):
            bound += 1.0 + 2.0 ** -20
            if between == "end":
                board.end(7)
            board.begin(7, bound, bound, bound)
    """
    process = start_alone(source, str(board.descriptor), between, pass_fds=(board.descriptor,))
    process.stdout.readline()  # type: ignore[union-attr]
    torn, turn, looks = [], 0, 0
    while process.poll() is None:
        for _ in range(1000):
            note = board.note(7)
            if note is None:
                continue
            looks += 1
            whole = note.deadline == note.cpu_before == note.cpu_limit >= 1.0
            if note.turn < turn or not whole:
                torn.append(note)
            turn = note.turn
    assert process.returncode == 0
    assert looks > 0
    assert torn[:5] == []

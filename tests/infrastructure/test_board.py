"""The board of a server: what one process tells, all others know before they believe anything else."""

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from threading import Thread
from time import monotonic

import pytest

from application.verified_keys import Change, VerifiedKey, VerifiedKeys
from infrastructure.board import CHANGES, STREAM_BYTES_MAX, TOLD_SECONDS, Board, Seat
from tests.kit.builders import key_id
from tests.kit.service import eventually
from tests.kit.verified import facts

CHANGE = Change(7, key_id(1))
SECONDS = 2.0


def seats(board: Board, number: int) -> list[Seat]:
    """So many of them."""
    taken = [board.take_seat() for _ in range(number)]
    assert None not in taken
    return [seat for seat in taken if seat is not None]


def forked(work: Callable[[], object]) -> int:
    """The id of a process that does this and ends, with 0 when it did it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def succeeds(pid: int) -> bool:
    """Whether a forked process has done its work."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_is_told_is_read_once_by_each() -> None:
    """By the teller, too."""
    one, other = seats(Board(2), 2)
    before = other.marks[0]
    one.tell([CHANGE, Change(8, key_id(2))])
    assert other.marks[0] != before
    for seat in (one, other):
        assert seat.read() == [CHANGE, Change(8, key_id(2))]
        assert seat.read() == []


def test_who_comes_later_has_read_what_was_told_before() -> None:
    """Its memory begins behind it."""
    board = Board(2)
    (one,) = seats(board, 1)
    one.tell([CHANGE])
    (other,) = seats(board, 1)
    assert other.read() == []


def test_no_two_marks_are_equal() -> None:
    """Whoever looks at the mark misses no telling, whoever told last."""
    one, other = seats(Board(2), 2)
    marks = {one.marks[0]}
    for turn in range(100):
        (one, other)[turn % 2].tell([CHANGE])
        assert one.marks[0] == other.marks[0]
        marks.add(one.marks[0])
    assert len(marks) == 101


def test_what_was_written_over_is_missed_and_said_so() -> None:
    """A seat keeps so many; the next reading is whole again."""
    one, other = seats(Board(2), 2)
    for position in range(1, CHANGES + 1):
        one.tell([Change(position, key_id(1))])
    assert len(other.read() or ()) == CHANGES
    for position in range(1, CHANGES + 2):
        one.tell([Change(position, key_id(1))])
    assert other.read() is None
    one.tell([CHANGE])
    assert other.read() == [CHANGE]


def test_what_is_being_written_is_missed_and_said_so() -> None:
    """A change that is half there is no change."""
    one, other = seats(Board(2), 2)
    one.tell([CHANGE])
    one._changes[0][30] ^= 1
    assert other.read() is None


def test_a_process_counts_on_what_it_has_just_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tellings alone; in a database that was restored a position may come again."""
    one, other = seats(Board(2), 2)
    one.tell([CHANGE])
    assert one.has_told(7)
    assert not one.has_told(8)
    assert not other.has_told(7)
    later = monotonic() + TOLD_SECONDS
    monkeypatch.setattr("infrastructure.board.monotonic", lambda: later)
    assert not one.has_told(7)


def test_a_name_that_does_not_fit_is_not_told() -> None:
    """With all that was changed along with it: it is waited for."""
    one, other = seats(Board(2), 2)
    one.tell([CHANGE, Change(8, "x" * (STREAM_BYTES_MAX + 1))])
    assert other.read() == []
    assert not one.has_told(7)
    one.tell([Change(9, "é" * (STREAM_BYTES_MAX // 2))])
    assert other.read() == [Change(9, "é" * (STREAM_BYTES_MAX // 2))]


def test_a_board_has_so_many_seats() -> None:
    """Who finds none has none."""
    board = Board(2)
    one, other = seats(board, 2)
    assert (one.number, other.number) == (0, 1)
    assert one.server == other.server
    assert board.take_seat() is None
    assert Board(1).take_seat() is not None


def test_two_boards_are_of_two_servers() -> None:
    """What is told on one is not on the other, and their processes wait for each other."""
    (one,), (other,) = seats(Board(1), 1), seats(Board(1), 1)
    assert one.server != other.server
    one.tell([CHANGE])
    assert other.read() == []


def test_processes_tell_each_other() -> None:
    """Forked ones, each with a seat of its own; one that was killed leaves its seat."""
    board = Board(2)
    (mine,) = seats(board, 1)

    def tell() -> None:
        seat = board.take_seat()
        assert seat is not None
        assert seat.number == 1
        seat.tell([CHANGE])
        signal.pause()

    pid = forked(tell)
    try:
        eventually(lambda: mine.marks[0] != 0, "it has told")
        assert mine.read() == [CHANGE]
        assert board.take_seat() is None, "the other process has it"
    finally:
        os.kill(pid, signal.SIGKILL)
        assert not succeeds(pid)
    again = board.take_seat()
    assert again is not None
    again.tell([Change(8, key_id(2))])
    assert mine.read() == [Change(8, key_id(2))]


def test_who_is_asked_after_a_telling_knows_it() -> None:
    """Two processes, as fast as they go: a key that is told of is not known when it is asked for after that.

    The question is a word in a pipe, as it is one on a socket in service.
    """
    board = Board(2)
    (mine,) = seats(board, 1)
    asked, asking = os.pipe()
    answered, answering = os.pipe()

    def serve() -> None:
        seat = board.take_seat()
        assert seat is not None
        keys = VerifiedKeys(capacity=10, fingerprint=bytes, elapsed=lambda: 0.0, board=seat)
        keys.extend(1.0)
        while (word := os.read(asked, 1)) != b"e":
            if word == b"r":
                keys.remember(b"1", VerifiedKey(facts(), "hash"), read_at=2**62)
            known = keys.is_fresh and keys.recall(b"1") is not None
            os.write(answering, b"y" if known else b"n")

    def ask(word: bytes) -> bytes:
        os.write(asking, word)
        return os.read(answered, 1)

    pid = forked(serve)
    end, positions = monotonic() + SECONDS, count(1)
    rounds = 0
    try:
        while monotonic() < end:
            assert ask(b"r") == b"y"
            mine.tell([Change(next(positions), key_id(1))])
            assert ask(b"?") == b"n"
            rounds += 1
    finally:
        os.write(asking, b"e")
        assert succeeds(pid)
    print(f"{rounds} tellings")  # noqa: T201 - figures
    assert rounds > 100


def test_threads_tell_without_losing_any() -> None:
    """Commands of one process end at the same time."""
    one, other = seats(Board(2), 2)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            Thread(target=lambda start=start: [one.tell([Change(start + turn, key_id(1))]) for turn in range(200)])
            for start in (1000, 2000, 3000, 4000)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    read = other.read()
    assert read is not None
    assert sorted(change.position for change in read) == [
        start + turn for start in (1000, 2000, 3000, 4000) for turn in range(200)
    ]


def test_where_stores_may_be_seen_out_of_order_there_is_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes are waited for, as those of other servers."""
    monkeypatch.setattr(Board, "of_this_server", None)
    monkeypatch.setattr("infrastructure.board.platform.machine", lambda: "aarch64")
    Board.share(2)
    assert Board.of_this_server is None
    monkeypatch.setattr("infrastructure.board.platform.machine", lambda: "x86_64")
    Board.share(2)
    assert Board.of_this_server is not None


def test_a_system_that_has_no_memory_to_share_serves_without_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slower, and as true."""

    def refuse(_: str) -> int:
        raise OSError("none left")

    monkeypatch.setattr(Board, "of_this_server", None)
    monkeypatch.setattr("infrastructure.board.os.memfd_create", refuse)
    Board.share(2)
    assert Board.of_this_server is None

"""Shared memory in which the serving processes of one server tell each other what they have changed.

A process tells a change after its commit and before its answer. Whoever believes its memory looks at one word first:
if that is as it was, nothing was told. So an answer need not wait for the processes of its own server, busy, stopped
or cut off: whatever they are asked afterwards, they know. What is not told here is waited for, as with other servers
(`infrastructure/postgres/freshness.py`).

Each process writes to a *seat* of its own, so nobody waits to write: its last changes, and how many they were. The
word, the *mark*, says whose telling was the last and which; no two are equal, so each changes it, whatever others
write meanwhile. A seat is held by a lock that ends with its process.

It relies on stores being seen in the order in which they were made, as on x86-64; elsewhere there is no board.
"""

import fcntl
import os
import platform
import struct
import zlib
from collections import deque
from collections.abc import Sequence
from mmap import mmap
from threading import Lock
from time import monotonic
from typing import ClassVar

import structlog

from application.verified_keys import Change
from infrastructure.system import SystemEntropy

ORDERED = frozenset({"x86_64", "AMD64"})
CHANGES = 1024
"""What a seat keeps: a process that has not looked for longer has lost some, and starts anew."""
TOLD_SECONDS = 1.0
"""How long a process counts on what it has told: positions may be given out anew, in a database that was restored."""
STREAM_BYTES_MAX = 40
SEATS_MAX = 256
_CHANGE = struct.Struct(f"<IIQQ{STREAM_BYTES_MAX}s")  # checksum of the rest, length, number, position, stream
_LINE = _CHANGE.size  # 64, what processors share at a time
_WORD = 8
_SERVER = slice(_LINE, _LINE + 16)  # the id that sets it apart from all others
_HEADER_LINES = 2


log = structlog.get_logger()


class Board:
    """The memory itself, made by the process that the serving ones are forked from."""

    of_this_server: ClassVar["Board | None"] = None
    """Made by ``share``, and found by the processes that are forked afterwards."""

    def __init__(self, seats: int) -> None:
        self._seats = min(seats, SEATS_MAX)
        self._taken: set[int] = set()  # locks do not keep a process from what it holds itself
        self._file = os.memfd_create("keyledger-board")
        size = _LINE * (_HEADER_LINES + self._seats * (1 + CHANGES))
        os.ftruncate(self._file, size)
        self._memory = mmap(self._file, size)
        self._memory[_SERVER] = SystemEntropy().bytes(16)

    @classmethod
    def share(cls, seats: int) -> None:
        """Makes the board of the processes that will be forked from this one, where the system can have one."""
        if not hasattr(os, "memfd_create") or platform.machine() not in ORDERED:
            return
        try:
            cls.of_this_server = cls(seats)
        except OSError as error:
            log.warning("processes_share_no_board", reason=str(error))

    def take_seat(self) -> "Seat | None":
        """A place of this process's own, until it ends; None when all are taken."""
        for number in range(self._seats):
            if number in self._taken:
                continue
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                continue
            self._taken.add(number)
            return Seat(self._memory, self._seats, number)
        return None


class Seat:
    """One process at a board: what it tells, and as the port `Board` what others have told.

    It is read by one thread at a time, and written by any.
    """

    def __init__(self, memory: mmap, seats: int, number: int) -> None:
        self.server = bytes(memory[_SERVER]).hex()
        """The same for all processes of one server, and for no other."""
        self.number = number
        words = memoryview(memory).cast("Q")
        self._mark = words[:1]
        self._counts = words[_line(0) // _WORD : _line(seats) // _WORD : _LINE // _WORD]
        self._changes = [
            memoryview(memory)[_line(seats + seat * CHANGES) :][: CHANGES * _LINE] for seat in range(seats)
        ]
        self._heard = list(self._counts)
        self._count = self._counts[number]
        self._told: deque[tuple[int, float]] = deque(maxlen=CHANGES)  # positions, and when
        self._lock = Lock()

    @property
    def marks(self) -> Sequence[int]:
        """As the port has it: one word, of the shared memory."""
        return self._mark

    def tell(self, changes: Sequence[Change]) -> None:
        """Tells of changes that have been committed; when it returns no process of this server acts on what was before.

        All or nothing: where the name of a stream does not fit, they are waited for as if there were no board.
        """
        if any(len(change.stream_id.encode()) > STREAM_BYTES_MAX for change in changes):
            return
        with self._lock:
            for change in changes:
                self._write(self._count, change)
                self._count += 1
            self._counts[self.number] = self._count
            self._mark[0] = self._count * SEATS_MAX + self.number
            self._told.extend((change.position, monotonic()) for change in changes)

    def has_told(self, position: int) -> bool:
        """Whether this process has just told of that change."""
        since = monotonic() - TOLD_SECONDS
        with self._lock:
            return any(told == position and at >= since for told, at in reversed(self._told))

    def read(self) -> Sequence[Change] | None:
        """As the port has it."""
        news: list[Change] = []
        is_whole = True
        for seat, heard in enumerate(self._heard):
            count = self._counts[seat]
            if count - heard > CHANGES:
                is_whole = False
            else:
                told = [self._read(seat, number) for number in range(heard, count)]
                news += [change for change in told if change is not None]
                is_whole = is_whole and None not in told
            self._heard[seat] = count
        return news if is_whole else None

    def _write(self, number: int, change: Change) -> None:
        stream = change.stream_id.encode()
        told = _CHANGE.pack(0, len(stream), number, change.position, stream)
        at = number % CHANGES * _LINE
        self._changes[self.number][at : at + _LINE] = zlib.crc32(told[4:]).to_bytes(4, "little") + told[4:]

    def _read(self, seat: int, number: int) -> Change | None:
        """None when it has been written over, or is being."""
        at = number % CHANGES * _LINE
        told = bytes(self._changes[seat][at : at + _LINE])
        checksum, length, its_number, position, stream = _CHANGE.unpack(told)
        if its_number != number or checksum != zlib.crc32(told[4:]):
            return None
        return Change(position, stream[:length].decode())


def _line(number: int) -> int:
    """Where a line behind the header begins: first the counts of all seats, then the changes of each."""
    return _LINE * (_HEADER_LINES + number)

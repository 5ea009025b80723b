"""The machine's clock and its randomness: the only place that asks for either."""

import ctypes
import gc
import os
import resource
import signal
import sys
from datetime import UTC, datetime
from itertools import count
from typing import TypeVar

from domain.ids import ENTROPY_BYTES_MIN, Id, RequestId

_PR_SET_PDEATHSIG = 1  # prctl(2)
_COLLECT_EVERY = 20_000  # new objects; the default of 700 is a few dozen requests
_TURN_SECONDS = 0.0005  # the default is ten times that
_NUMBER_DIGITS = 10
_FIRST_NUMBER = 10 ** (_NUMBER_DIGITS - 1)  # so all have as many digits, and none has to be filled up
_PROCESS_CHARACTERS = RequestId.LENGTH - _NUMBER_DIGITS
AnyId = TypeVar("AnyId", bound=Id)


class SystemClock:
    """The time of this machine."""

    def now(self) -> datetime:
        """This instant, aware, in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the only now()


class SystemEntropy:
    """The operating system's generator for cryptography."""

    def bytes(self, count: int) -> bytes:
        """That many random bytes."""
        return os.urandom(count)  # noqa: TID251 - the only randomness

    def new(self, kind: type[AnyId]) -> AnyId:
        """A fresh id of that kind."""
        return kind.from_entropy(self.bytes(ENTROPY_BYTES_MIN))


def end_with_parent(parent: int | None) -> None:
    """Asks the kernel to end this process (SIGTERM) when its parent dies, however it dies; Linux only.

    ``parent`` is who started it, and may be gone already; None takes whoever is its parent now. Elsewhere a killed
    parent leaves its children to be ended by hand.
    """
    if sys.platform != "linux":
        return
    expected = os.getppid() if parent is None else parent
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != expected:
        end_process()


def end_process() -> None:
    """Asks this process to end in order (SIGTERM), so that whoever keeps it starts another."""
    os.kill(os.getpid(), signal.SIGTERM)


def allow_descriptors(count: int) -> None:
    """Lets this process and its children open so many files and sockets, or as many as the system grants at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class RequestIds:
    """Ids of one process's requests: a random part for the process, and a number; unique, and no secret.

    Ten times as fast as fresh randomness for each, which was a third of the cost of checking a remembered key.
    """

    def __init__(self, entropy: SystemEntropy) -> None:
        beginning = f"req_{entropy.new(RequestId).removeprefix('req_')[:_PROCESS_CHARACTERS]}"
        self.text = map(beginning.__add__, map(str, count(_FIRST_NUMBER))).__next__
        """The next id, as plain text: what is written of it is written without a detour. No line of Python runs."""

    def new(self) -> RequestId:
        """The next id."""
        return RequestId(self.text())


def spare_long_lived_objects() -> None:
    """Tells the garbage collector that all there is now stays: the application's objects, some hundred thousand.

    Each request, and each row that is settled, leaves a few short-lived ones, so the collector ran often, and looked
    through all of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 20, 50)


def take_short_turns() -> None:
    """Lets a thread that waits for the interpreter have it within half a millisecond.

    Under full load the event loop never pauses, so whoever comes back from the database, as a revoke does twice, or the
    thread that applies it in another process, waits for a whole turn each time.
    """
    sys.setswitchinterval(_TURN_SECONDS)

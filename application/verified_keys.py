"""The keys that this process has verified, remembered: the authentication of a known key is a look-up in memory.

What is remembered is true because of two things. Whoever follows the ledger reports every change here (``apply``), and
tells until when that knowledge counts as fresh (``extend``, the *lease*). Past the lease nothing here may be believed.

An entry carries the ledger position that it was read at. A change leaves a *tombstone* with its position, so that a
slow read from before the change cannot put the key back afterwards.

The other processes of the same server tell what they change on a *board*, before they answer. It is looked at whenever
something here is believed, so they need not wait for this process.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Protocol

from application.imported_keys import ImportedPrefixes
from domain.verdict import NEVER, KeyFacts

TOMBSTONES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class VerifiedKey:
    """A credential that was proven once: what is known of its key, and its name in the access log."""

    facts: KeyFacts
    key_hash: str
    open_until: datetime = NEVER
    """As `verdict.open_until` has it for the environments of this server."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened at this position to the aggregate with this id: a key, an account, or anything else."""

    position: int
    stream_id: str


class Board(Protocol):
    """What the processes of one server have told each other, as one of them reads it."""

    @property
    def marks(self) -> Sequence[int]:
        """The first is another after each telling than it ever was before."""
        ...

    def read(self) -> Sequence[Change] | None:
        """What was told since the last reading, in no order; None when some of it is gone."""
        ...


class NoBoard:
    """The port `Board` of a process that nobody tells anything."""

    marks: Sequence[int] = (0,)

    def read(self) -> Sequence[Change]:
        """Nothing."""
        return ()


class VerifiedKeys:
    """At most ``capacity`` keys, the least recently used leave first.

    ``fingerprint`` is a keyed hash of a credential; ``elapsed`` are seconds of a clock that never steps and does not
    stop while the machine sleeps. What has been told on the ``board`` is known here without the ledger.
    """

    def __init__(
        self,
        *,
        capacity: int,
        fingerprint: Callable[[bytes], bytes],
        elapsed: Callable[[], float],
        board: Board | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.prefixes = ImportedPrefixes()
        """Of all imported keys, as of ``applied`` or later."""
        self._capacity = capacity
        self._elapsed = elapsed
        self._entries: OrderedDict[bytes, VerifiedKey] = OrderedDict()
        self._of_stream: dict[str, set[bytes]] = {}
        self._tombstones: deque[Change] = deque()
        self._forgotten_through = 0
        self._applied = 0
        self.fresh_until = float("-inf")
        """In the seconds of ``elapsed``: from then on nothing here may be believed."""
        self._board = board or NoBoard()
        self.marks = self._board.marks
        """Where the first is not ``heard``, something was told that is not known here yet."""
        self.heard = 0
        self.is_lost = False
        """Some of what was told is gone: nothing may be believed until ``start_at``."""
        self._ahead: dict[str, int] = {}  # the newest position known of a stream, while it is not applied
        self._told_through = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_fresh(self) -> bool:
        """Whether what is remembered may be believed now; what was told is known then."""
        self._listen()
        return self._elapsed() < self.fresh_until

    @property
    def applied(self) -> int:
        """The newest position up to which all changes are in here."""
        return self._applied

    @property
    def known_through(self) -> int:
        """The newest position whose change is in here, applied or told; earlier ones may not be."""
        self._listen()
        return max(self._applied, self._told_through)

    @property
    def fresh_for(self) -> float:
        """Seconds of the lease that are left; negative when it has run out."""
        return self.fresh_until - self._elapsed()

    def recall(self, fingerprint: bytes) -> VerifiedKey | None:
        """The remembered key; None when there is none. Does not ask whether the memory is fresh."""
        entry = self._entries.get(fingerprint)
        if entry is not None:
            try:
                self._entries.move_to_end(fingerprint)
            except KeyError:
                return None  # a change has just taken it out
        return entry

    def remember(self, fingerprint: bytes, key: VerifiedKey, *, read_at: int) -> bool:
        """Keeps a key that was read from a snapshot at position ``read_at``; False when that was too long ago.

        Too long ago is before a change to the key or its account that has been applied or told since, or before the
        oldest change still known.
        """
        streams = (key.facts.key_id, key.facts.account_id)
        with self._lock:
            if read_at < self._applied and self._has_changed(streams, read_at):
                return False
            if any(self._ahead.get(stream, 0) > read_at for stream in streams):
                return False
            self._forget(fingerprint)
            self._entries[fingerprint] = key
            for stream in streams:
                self._of_stream.setdefault(stream, set()).add(fingerprint)
            while len(self._entries) > self._capacity:
                # One step of the interpreter: `recall` moves entries without the lock.
                self._unlink(*self._entries.popitem(last=False))
        return True

    def apply(self, changes: Iterable[Change]) -> None:
        """Forgets what has changed; the changes come in ledger order, and none is left out."""
        with self._lock:
            for change in changes:
                self._forget_stream(change.stream_id)
                self._tombstones.append(change)
                if len(self._tombstones) > TOMBSTONES_MAX:
                    self._forgotten_through = self._tombstones.popleft().position
                self._applied = change.position
            if self._ahead:
                self._ahead = {stream: known for stream, known in self._ahead.items() if known > self._applied}

    def apply_ahead(self, change: Change) -> None:
        """Forgets what has changed, by somebody's word and out of order: ``applied`` does not move."""
        with self._lock:
            self._apply_ahead(change)

    def hear(self) -> None:
        """Forgets what others have changed and told; where some of that is gone, everything, and ends the lease."""
        with self._lock:
            mark = self.marks[0]  # before the reading: what is told meanwhile is heard next time
            told = self._board.read()
            for change in told or ():
                self._apply_ahead(change)
                self._told_through = max(self._told_through, change.position)
            # What was told as of a position that was applied otherwise is of another ledger than is followed.
            if told is None or len(self._ahead) > TOMBSTONES_MAX or not all(map(self._is_known, told)):
                self._forget_everything()
                self.is_lost = True
            self.heard = mark

    def start_at(self, position: int) -> None:
        """Begins to follow: everything up to this position counts as applied, and nothing is remembered.

        Until the next lease nothing is believed, so what was told and is gone here comes as a change before.
        """
        with self._lock:
            self._forget_everything()
            self._tombstones.clear()
            self._applied = self._forgotten_through = position
            self.is_lost = False

    def extend(self, fresh_until: float) -> None:
        """The memory is fresh until then, in the seconds of ``elapsed``; never shortens, nor while it ``is_lost``."""
        with self._lock:
            if not self.is_lost:
                self.fresh_until = max(self.fresh_until, fresh_until)

    def distrust(self) -> None:
        """Ends the lease at once."""
        self.fresh_until = float("-inf")

    def _has_changed(self, streams: Sequence[str], since: int) -> bool:
        if since < self._forgotten_through:
            return True
        for change in reversed(self._tombstones):
            if change.position <= since:
                return False
            if change.stream_id in streams:
                return True
        return False

    def _listen(self) -> None:
        if self.marks[0] != self.heard:
            self.hear()

    def _apply_ahead(self, change: Change) -> None:
        self._forget_stream(change.stream_id)
        if change.position > max(self._applied, self._ahead.get(change.stream_id, 0)):
            self._ahead[change.stream_id] = change.position

    def _is_known(self, change: Change) -> bool:
        """Whether a change that was told is ahead, or one of those that were applied, as far as these are kept."""
        if change.position > self._applied or change.position <= self._forgotten_through:
            return True
        for applied in reversed(self._tombstones):
            if applied.position <= change.position:
                return applied == change
        return False

    def _forget_everything(self) -> None:
        self._entries.clear()
        self._of_stream.clear()
        self._ahead.clear()
        self._told_through = 0
        self.fresh_until = float("-inf")

    def _forget_stream(self, stream_id: str) -> None:
        for fingerprint in tuple(self._of_stream.get(stream_id, ())):
            self._forget(fingerprint)

    def _forget(self, fingerprint: bytes) -> None:
        entry = self._entries.pop(fingerprint, None)
        if entry is not None:
            self._unlink(fingerprint, entry)

    def _unlink(self, fingerprint: bytes, entry: VerifiedKey) -> None:
        for stream in (entry.facts.key_id, entry.facts.account_id):
            kept = self._of_stream[stream]
            kept.discard(fingerprint)
            if not kept:
                del self._of_stream[stream]


@dataclass(frozen=True, slots=True)
class Lease:
    """How long knowledge counts as fresh, and how often it is renewed, in seconds."""

    seconds: float = 2.0

    @property
    def renewal_seconds(self) -> float:
        """Four renewals a lease: three may be late or lost."""
        return self.seconds / 4

"""The keys that this process has verified, remembered: the authentication of a known key is a look-up in memory.

What is remembered is true because of two things. Whoever follows the ledger reports every change here (``apply``), and
tells until when that knowledge counts as fresh (``extend``, the *lease*). Past the lease nothing here may be believed.

An entry carries the ledger position that it was read at. A change leaves a *tombstone* with its position, so that a
slow read from before the change cannot put the key back afterwards.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

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


class VerifiedKeys:
    """At most ``capacity`` keys, the least recently used leave first.

    ``fingerprint`` is a keyed hash of a credential; ``elapsed`` are seconds of a clock that never steps and does not
    stop while the machine sleeps.
    """

    def __init__(self, *, capacity: int, fingerprint: Callable[[bytes], bytes], elapsed: Callable[[], float]) -> None:
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
        self._lock = Lock()
        self.hits = 0
        """How often ``recall`` had an answer; counted by the one thread that asks."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_fresh(self) -> bool:
        """Whether what is remembered may be believed now."""
        return self._elapsed() < self.fresh_until

    @property
    def applied(self) -> int:
        """The newest position whose change is in here."""
        return self._applied

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
            self.hits += 1
        return entry

    def remember(self, fingerprint: bytes, key: VerifiedKey, *, read_at: int) -> bool:
        """Keeps a key that was read from a snapshot at position ``read_at``; False when that was too long ago.

        Too long ago is before a change to the key or its account that has been applied since, or before the oldest
        change still known.
        """
        streams = (key.facts.key_id, key.facts.account_id)
        with self._lock:
            if read_at < self._applied and self._has_changed(streams, read_at):
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
                for fingerprint in tuple(self._of_stream.get(change.stream_id, ())):
                    self._forget(fingerprint)
                self._tombstones.append(change)
                if len(self._tombstones) > TOMBSTONES_MAX:
                    self._forgotten_through = self._tombstones.popleft().position
                self._applied = change.position

    def start_at(self, position: int) -> None:
        """Begins to follow: everything up to this position counts as applied, and nothing is remembered."""
        with self._lock:
            self._entries.clear()
            self._of_stream.clear()
            self._tombstones.clear()
            self._applied = self._forgotten_through = position

    def extend(self, fresh_until: float) -> None:
        """The memory is fresh until then, in the seconds of ``elapsed``; never shortens."""
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

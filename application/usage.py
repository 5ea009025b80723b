"""Settlement: the rows of the access log become events, each row once, whatever crashes.

A run's rows are read behind its watermark and appended to its own stream; the version of that stream decides between
concurrent settlements, and the watermark moves in the transaction of the event. So after any failure it is enough to
call ``settle`` again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import msgspec
from eventsourcing.persistence import IntegrityError

from application.ledger import Ledger
from application.ports import Entropy
from application.usage_ports import AccessRow
from domain.events import Origin
from domain.ids import AccountId, KeyId, RequestId, RunId
from domain.merkle import MerkleTree, leaf_hash
from domain.usage import KEYS_MAX, KeyUses, SettledRows, UsageRun

ACTOR = "system:settlement"
SILENCE = timedelta(seconds=60)

# Ids are subclasses of str, which the encoder does not take as they are.
_json = msgspec.json.Encoder(enc_hook=str)


class LoggedRow(NamedTuple):
    """A row as the log holds it: its number in the run, the 16 random bytes that hide it in the root, its fields.

    ``owner`` is the account of the key that it names, None when there is no such key.
    """

    seq: int
    salt: bytes
    row: AccessRow
    owner: AccountId | None


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run with rows to settle.

    ``version`` and ``settled_through`` are the watermark's, 0 for a run without events. ``windows`` are the numbers of
    the last rows of its windows that are over, oldest first; nothing is ever added to those.
    """

    run_id: RunId
    host: str
    started_at: datetime
    version: int
    settled_through: int
    windows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that can write no more, all of whose rows are settled; ``version`` is its stream's."""

    run_id: RunId
    version: int
    settled_through: int


class SettlementRows(Protocol):
    """The access log behind its watermarks."""

    def end_windows(self, now: datetime, latest: datetime) -> None:
        """Ends every window whose time is over at ``now``; its writer begins another with its next row.

        A window that says that it ends after ``latest`` was begun by a clock since set back, and is ended, too.
        """
        ...

    def open_runs(self) -> Sequence[OpenRun]:
        """The runs that have ended windows to settle."""
        ...

    def rows(self, run_id: RunId, after: int, through: int) -> Sequence[LoggedRow]:
        """The run's committed rows with ``after`` < number ≤ ``through``, in order."""
        ...

    def end_runs(self, silent_since: datetime) -> Sequence[EndedRun]:
        """Ends the runs that have been silent since then and are settled: their writers can write no more.

        Answers every ended run whose stream is not closed yet, also those ended before.
        """
        ...


class Settlement:
    """Moves committed rows into ``keys.used`` events; may run anywhere, any number of times at once."""

    def __init__(self, *, ledger: Ledger, rows: SettlementRows, entropy: Entropy, window: timedelta) -> None:
        self._ledger = ledger
        self._rows = rows
        self._entropy = entropy
        self._window = window

    def settle(self, now: datetime) -> int:
        """Settles the rows of every window that is over, closes the runs that are; answers the number of rows settled.

        Rows that another settlement takes at the same time are its to count.
        """
        by = Origin(ACTOR, RequestId.from_entropy(self._entropy.bytes(16)), now)
        self._rows.end_windows(now, now + 2 * self._window)
        settled = sum(self._settle_run(run, by) for run in self._rows.open_runs())
        for ended in self._rows.end_runs(now - SILENCE):
            run = UsageRun.resume(ended.run_id, version=ended.version, settled_through=ended.settled_through, as_of=now)
            run.close(by=by)
            self._append(run)
        return settled

    def _settle_run(self, open_run: OpenRun, by: Origin) -> int:
        """One append for each window: a window is settled whole or not at all, and a backlog stays in bounds."""
        run = _resumed(open_run, by)
        rows = 0
        for through in open_run.windows:
            parts = list(add_up(open_run.run_id, self._rows.rows(open_run.run_id, run.settled_through, through)))
            for part in parts:
                run.settle(part, by=by)
            if not self._append(run):
                break
            rows += sum(part.rows for part in parts)
        return rows

    def _append(self, run: UsageRun) -> bool:
        try:
            self._ledger.append(run)
        except IntegrityError:
            return False  # another settlement was first; what it left is taken the next time
        return True


def _resumed(run: OpenRun, by: Origin) -> UsageRun:
    if run.version == 0:
        return UsageRun.start(run.run_id, by=by, host=run.host, started_at=run.started_at)
    return UsageRun.resume(run.run_id, version=run.version, settled_through=run.settled_through, as_of=by.at)


def row_bytes(run_id: RunId, logged: LoggedRow) -> bytes:
    """What a leaf of ``details_root`` is made of: the salt, then the row as one JSON array without spaces.

    Run, number, time (RFC 3339, UTC), method, endpoint, status, outcome, accepted, key id, account id, key hash,
    client address, request id.
    """
    row = logged.row
    at = row.occurred_at.astimezone(UTC)
    return logged.salt + _json.encode(
        (str(run_id), logged.seq, at, row.method, row.endpoint, row.status, row.outcome, row.accepted, row.key_id,
         row.account_id, row.key_hash, row.client_ip, row.request_id)
    )  # fmt: skip


def add_up(run_id: RunId, rows: Sequence[LoggedRow]) -> Iterator[SettledRows]:
    """The rows of one window as the fewest settlements that hold at most 1,000 keys each; none for no rows."""
    part = _Part()
    for logged in rows:
        if not part.has_room_for(logged):
            yield part.settled()
            part = _Part()
        part.add(run_id, logged)
    if part.rows:
        yield part.settled()


@dataclass(slots=True)
class _Tally:
    owner: AccountId
    requests: int = 0
    failed_attempts: int = 0
    first_used_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(slots=True)
class _Part:
    rows: list[LoggedRow] = field(default_factory=list[LoggedRow])
    tree: MerkleTree = field(default_factory=MerkleTree)
    keys: dict[KeyId, _Tally] = field(default_factory=dict[KeyId, _Tally])

    def has_room_for(self, logged: LoggedRow) -> bool:
        return len(self.keys) < KEYS_MAX or logged.owner is None or logged.row.key_id in self.keys

    def add(self, run_id: RunId, logged: LoggedRow) -> None:
        self.rows.append(logged)
        self.tree.append(leaf_hash(row_bytes(run_id, logged)))
        row = logged.row
        if logged.owner is None or row.key_id is None:
            return  # no such key: it must not get totals, which are kept for ever
        tally = self.keys.get(row.key_id)
        if tally is None:
            tally = self.keys[row.key_id] = _Tally(logged.owner)
        if not row.accepted:
            tally.failed_attempts += 1
            return
        tally.requests += 1
        if tally.first_used_at is None or row.occurred_at < tally.first_used_at:
            tally.first_used_at = row.occurred_at
        if tally.last_used_at is None or row.occurred_at > tally.last_used_at:
            tally.last_used_at = row.occurred_at

    def settled(self) -> SettledRows:
        times = [logged.row.occurred_at for logged in self.rows]
        return SettledRows(
            first_row=self.rows[0].seq,
            last_row=self.rows[-1].seq,
            rows=len(self.rows),
            window_start=min(times),
            window_end=max(times),
            details_root=self.tree.root().hex(),
            keys=tuple(
                KeyUses(key_id, t.owner, t.requests, t.failed_attempts, t.first_used_at, t.last_used_at)
                for key_id, t in sorted(self.keys.items())
            ),
        )

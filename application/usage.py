"""Settlement: the rows of the access log become events, each row once, whatever crashes.

A run's rows are read behind its watermark and appended to its own stream; the version of that stream decides between
concurrent settlements, and the watermark moves in the transaction of the event. So after any failure it is enough to
call ``settle`` again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import msgspec
from eventsourcing.persistence import IntegrityError

from application.ledger import Ledger
from application.ports import Entropy
from application.turns import each_its_turn
from domain.events import Origin
from domain.ids import AccountId, KeyId, RequestId, RunId
from domain.merkle import leaf_hash, root_of
from domain.usage import KEYS_MAX, KeyUses, SettledRows, UsageRun

ACTOR = "system:settlement"
SILENCE = timedelta(seconds=60)
WINDOW_ROWS_MAX = 20_000
"""`usage.write_batch` ends a window there."""

# Ids are subclasses of str, which the encoder does not take as they are.
_json = msgspec.json.Encoder(enc_hook=str)


class LoggedRow(NamedTuple):
    """A row as the log holds it: its number in the run, the 16 random bytes that hide it in the root, its `AccessRow`.

    Its fields are written out, since one object within another would cost a settled row a tenth of its time.
    """

    seq: int
    salt: bytes
    occurred_at: datetime
    method: str
    endpoint: str
    status: int
    outcome: str
    accepted: bool
    key_id: KeyId | None
    account_id: AccountId | None
    key_hash: str | None
    client_ip: str | None
    request_id: str


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

    def rows(self, run_id: RunId, after: int, through: int, limit: int) -> Sequence[LoggedRow]:
        """The run's committed rows with ``after`` < number ≤ ``through``, in order, the first ``limit`` of them."""
        ...

    def owners(self, key_ids: Iterable[KeyId]) -> Mapping[KeyId, AccountId]:
        """The accounts of those of these keys that exist."""
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

        Rows that another settlement takes at the same time are its to count. What breaks one run is raised once all had
        their turn; UnavailableError at once, for it holds for all of them.
        """
        by = Origin(ACTOR, RequestId.from_entropy(self._entropy.bytes(16)), now)
        self._rows.end_windows(now, now + 2 * self._window)
        settled = 0
        with each_its_turn() as fenced:
            for run in self._rows.open_runs():
                with fenced(run.run_id):
                    settled += self._settle_run(run, by)
            for ended in self._rows.end_runs(now - SILENCE):
                with fenced(ended.run_id):
                    self._close_run(ended, by)
        return settled

    def _close_run(self, ended: EndedRun, by: Origin) -> None:
        run = UsageRun.resume(ended.run_id, version=ended.version, settled_through=ended.settled_through, as_of=by.at)
        run.close(by=by)
        self._append(run)

    def _settle_run(self, open_run: OpenRun, by: Origin) -> int:
        """One append for each window: a window is settled whole or not at all, and a backlog stays in bounds."""
        run = _resumed(open_run, by)
        rows = 0
        for through in open_run.windows:
            is_whole = False
            while not is_whole:
                # Windows whose rows name no key are not told apart from the one before them. That one is whole within
                # the first portion, and of what follows it nothing is counted in `usage.live`.
                logged = self._rows.rows(open_run.run_id, run.settled_through, through, WINDOW_ROWS_MAX)
                is_whole = len(logged) < WINDOW_ROWS_MAX
                owners = self._rows.owners({row.key_id for row in logged if row.key_id is not None})
                for part in add_up(open_run.run_id, logged, owners):
                    run.settle(part, by=by)
                if not self._append(run):
                    return rows
                rows += len(logged)
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


def row_leaves(run_id: RunId, rows: Sequence[LoggedRow]) -> list[bytes]:
    """The leaves of ``details_root``: for each row the `leaf_hash` of its salt and of the row as a line of JSON.

    That is one array without spaces: run, number, time (RFC 3339, UTC), method, endpoint, status, outcome, accepted,
    key id, account id, key hash, client address, request id.
    """
    run = str(run_id)
    lines = _json.encode_lines([(run, row[0], row[2].astimezone(UTC), *row[3:]) for row in rows])
    # Together, as that takes half of the time; a line break within a text is written as an escape.
    return [leaf_hash(row[1] + line) for row, line in zip(rows, lines.split(b"\n"), strict=False)]


def add_up(run_id: RunId, rows: Sequence[LoggedRow], owners: Mapping[KeyId, AccountId]) -> Iterator[SettledRows]:
    """The rows of one window as the fewest settlements that hold at most 1,000 keys each; none for no rows.

    ``owners``: the accounts of the keys that they name; one that is missing does not exist.
    """
    first = 0
    tallies: dict[KeyId, _Tally] = {}
    for place, row in enumerate(rows):
        key_id = row.key_id
        if key_id is None:
            continue
        tally = tallies.get(key_id)
        if tally is None:
            owner = owners.get(key_id)
            if owner is None:
                continue  # no such key: it must not get totals, which are kept for ever
            if len(tallies) == KEYS_MAX:
                yield _settled(run_id, rows[first:place], tallies)
                first, tallies = place, {}
            tally = tallies[key_id] = _Tally(owner)
        if row.accepted:
            tally.used_at.append(row.occurred_at)
        else:
            tally.failed_attempts += 1
    if rows:
        yield _settled(run_id, rows[first:], tallies)


@dataclass(slots=True)
class _Tally:
    owner: AccountId
    failed_attempts: int = 0
    used_at: list[datetime] = field(default_factory=list[datetime])


def _settled(run_id: RunId, rows: Sequence[LoggedRow], tallies: Mapping[KeyId, _Tally]) -> SettledRows:
    times = [row.occurred_at for row in rows]
    return SettledRows(
        first_row=rows[0].seq,
        last_row=rows[-1].seq,
        rows=len(rows),
        window_start=min(times),
        window_end=max(times),
        details_root=root_of(row_leaves(run_id, rows)).hex(),
        keys=tuple(
            KeyUses(
                key_id,
                tally.owner,
                len(tally.used_at),
                tally.failed_attempts,
                min(tally.used_at, default=None),
                max(tally.used_at, default=None),
            )
            for key_id, tally in sorted(tallies.items())
        ),
    )

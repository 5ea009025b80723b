"""What one run of a serving process has metered: ``started → keys used (each window) → closed``.

The access log holds a row for each request; a run's rows are numbered 1, 2, 3 … and a number may be missing (a row that
was refused is never written). Each ``KeysUsed`` settles the next of them, so a run's events cover each row once.

A *request* of a key is an accepted use, whatever its route answered afterwards; a *failed attempt* is every other row
with that key's id: refused, without the scope, from outside the key's networks.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Self

from domain.errors import ConflictError
from domain.events import Aggregate, Event, FirstEvent, Origin
from domain.ids import RunId

KEYS_MAX = 1000


class UsageStateError(ConflictError):
    """The run cannot take that fact: it is closed, or those rows are settled."""


@dataclass(frozen=True, slots=True)
class KeyUses:
    """One key's part of a window. The times are those of accepted uses, None without one."""

    key_id: str
    account_id: str | None
    requests: int
    failed_attempts: int
    first_used_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class SettledRows:
    """Consecutive rows of a run, added up.

    ``first_row`` and ``last_row`` are numbers of rows, ``rows`` how many there are, ``window_start`` and ``window_end``
    the earliest and the latest time among them. ``details_root`` is the Merkle root (RFC 9162, hex) over the salted
    rows in order. ``keys`` has every existing key that they name, at most 1,000; rows that name none are in ``rows``
    and in the root alone.
    """

    first_row: int
    last_row: int
    rows: int
    window_start: datetime
    window_end: datetime
    details_root: str
    keys: tuple[KeyUses, ...]


@dataclass(frozen=True)
class Started(FirstEvent):
    """A run has rows: ``host`` names its process, ``started_at`` is when it began to write."""

    TOPIC: ClassVar[str] = "usage_run.started"

    host: str
    started_at: datetime


@dataclass(frozen=True)
class KeysUsed(Event):
    """Rows were settled; the fields are those of ``SettledRows``."""

    TOPIC: ClassVar[str] = "keys.used"

    window_start: datetime
    window_end: datetime
    first_row: int
    last_row: int
    rows: int
    details_root: str
    keys: tuple[KeyUses, ...]

    def apply(self, aggregate: "UsageRun") -> None:
        """Moves the watermark."""
        aggregate.settled_through = self.last_row


@dataclass(frozen=True)
class Closed(Event):
    """The run is over and all its rows are settled."""

    TOPIC: ClassVar[str] = "usage_run.closed"

    def apply(self, aggregate: "UsageRun") -> None:
        """Ends the run."""
        aggregate.closed = True


class UsageRun(Aggregate, topic="usage_run"):
    """One run's watermark: rows up to ``settled_through`` are in its events."""

    def __init__(self, *, account_id: None) -> None:
        self.account_id = account_id
        self.settled_through = 0
        self.closed = False

    @classmethod
    def start(cls, run_id: RunId, *, by: Origin, host: str, started_at: datetime) -> Self:
        """A run with nothing settled."""
        return cls.begin(
            Started,
            aggregate_id=run_id,
            by=by,
            account_id=None,
            host=host,
            started_at=started_at,
        )

    @classmethod
    def resume(cls, run_id: RunId, *, version: int, settled_through: int, as_of: datetime) -> Self:
        """An open run as its watermark knows it, without reading its events: a run may have many thousands.

        A version that is not the stream's newest loses the race for the next one.
        """
        run = cls.__new__(cls)
        run.__base_init__(run_id, version, as_of)
        run.__init__(account_id=None)
        run.settled_through = settled_through
        return run

    def settle(self, settled: SettledRows, *, by: Origin) -> None:
        """Puts the next rows on record; UsageStateError for rows that are, ValueError for counts that cannot be."""
        if self.closed or settled.first_row <= self.settled_through:
            raise UsageStateError("These rows are settled")
        if not 1 <= settled.rows <= settled.last_row - settled.first_row + 1 or len(settled.keys) > KEYS_MAX:
            raise ValueError(f"{settled.rows} rows of {len(settled.keys)} keys do not fit one event")
        self.record(
            KeysUsed,
            by=by,
            window_start=settled.window_start,
            window_end=settled.window_end,
            first_row=settled.first_row,
            last_row=settled.last_row,
            rows=settled.rows,
            details_root=settled.details_root,
            keys=settled.keys,
        )

    def close(self, *, by: Origin) -> None:
        """Ends the run; again records nothing."""
        if not self.closed:
            self.record(Closed, by=by)

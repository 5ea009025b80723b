"""What leaves the access log goes on record: ``purged``, one stream for each declaration.

The stream's id is made of what is declared, so declaring the same again is the same first event, which the ledger takes
once. Rows that reach a day after its purge are another declaration.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import ClassVar, Self

from domain.events import Aggregate, FirstEvent, Origin
from domain.ids import PurgeId


@dataclass(frozen=True, slots=True)
class DroppedDay:
    """A UTC day that leaves the log: its rows, the earliest and the latest time among them (None without rows)."""

    day: date
    rows: int
    first_at: datetime | None
    last_at: datetime | None


@dataclass(frozen=True)
class Purged(FirstEvent):
    """All rows with ``range_start`` ≤ time < ``range_end`` left the log, because it keeps ``policy_days`` days.

    ``rows`` is how many they were, ``first_row_at`` and ``last_row_at`` the earliest and the latest time among them,
    None without rows.
    """

    TOPIC: ClassVar[str] = "access_log.purged"

    range_start: datetime
    range_end: datetime
    rows: int
    first_row_at: datetime | None
    last_row_at: datetime | None
    policy_days: int


class AccessLogPurge(Aggregate, topic="access_log_purge"):
    """One purge of one day; nothing happens to it afterwards."""

    def __init__(self, *, account_id: None) -> None:
        self.account_id = account_id

    @classmethod
    def declare(cls, dropped: DroppedDay, *, policy_days: int, by: Origin) -> Self:
        """The purge of that day."""
        start = datetime.combine(dropped.day, time(), UTC)
        return cls.begin(
            Purged,
            aggregate_id=purge_id(dropped),
            by=by,
            account_id=None,
            range_start=start,
            range_end=start + timedelta(days=1),
            rows=dropped.rows,
            first_row_at=dropped.first_at,
            last_row_at=dropped.last_at,
            policy_days=policy_days,
        )


def purge_id(dropped: DroppedDay) -> PurgeId:
    """The same for the same day with the same rows, whoever asks and however often."""
    times = [None if at is None else at.astimezone(UTC).isoformat() for at in (dropped.first_at, dropped.last_at)]
    facts = f"{dropped.day.isoformat()} {dropped.rows} {times[0]} {times[1]}"
    return PurgeId.from_entropy(hashlib.sha256(facts.encode()).digest())

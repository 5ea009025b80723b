"""Retention: whole days leave the access log when they are too old, each declared in the ledger before it is gone.

The ledger's own events, and with them every total, are never touched.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, timedelta
from typing import Protocol

from eventsourcing.persistence import IntegrityError

from application.ledger import Ledger
from application.ports import Clock, Entropy
from domain.events import Origin
from domain.ids import RequestId
from domain.retention import AccessLogPurge, DroppedDay

ACTOR = "system:retention"


class AccessLogDays(Protocol):
    """The days of the access log."""

    def drop_partitions_before(self, day: date, declare: Callable[[DroppedDay], None]) -> Sequence[DroppedDay]:
        """Drops the days before that one and answers them; a day with unsettled rows stays.

        ``declare`` is called with each day when it has left the log and before its rows are gone; a day whose purge is
        cut short between the two is declared again, the same.
        """
        ...


class Retention:
    """The job that keeps the access log ``days`` long; may run anywhere, any number of times."""

    def __init__(self, *, ledger: Ledger, log: AccessLogDays, clock: Clock, entropy: Entropy, days: int) -> None:
        self._ledger = ledger
        self._log = log
        self._clock = clock
        self._entropy = entropy
        self._days = days

    def purge(self) -> int:
        """Drops every day all of whose rows are older than ``days`` days; answers how many days it dropped."""
        now = self._clock.now()
        by = Origin(ACTOR, RequestId.from_entropy(self._entropy.bytes(16)), now)
        oldest_kept = now.astimezone(UTC).date() - timedelta(days=self._days)
        return len(self._log.drop_partitions_before(oldest_kept, lambda dropped: self._declare(dropped, by)))

    def _declare(self, dropped: DroppedDay, by: Origin) -> None:
        purge = AccessLogPurge.declare(dropped, policy_days=self._days, by=by)
        try:
            self._ledger.append(purge)
        except IntegrityError:
            # On record, from a purge that was cut short; any other reason would find no such stream.
            self._ledger.load(AccessLogPurge, purge.id)

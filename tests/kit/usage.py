"""Builders of metered usage, and of its leaving the log."""

from datetime import timedelta

from domain.ids import RunId
from domain.retention import AccessLogPurge, DroppedDay
from domain.usage import KeyUses, SettledRows, UsageRun
from tests.kit.builders import NOON, account_id, entropy, key_id, origin


def a_usage_run() -> UsageRun:
    """A run that was started, settled once, and closed."""
    run = UsageRun.start(
        RunId.from_entropy(entropy(7)), by=origin(actor="system:settlement"), host="node-1:4711", started_at=NOON
    )
    uses = KeyUses(
        key_id=key_id(1),
        account_id=account_id(),
        requests=41,
        failed_attempts=2,
        first_used_at=NOON,
        last_used_at=NOON + timedelta(seconds=9),
    )
    settled = SettledRows(
        first_row=1,
        last_row=43,
        rows=43,
        window_start=NOON,
        window_end=NOON + timedelta(seconds=9),
        details_root="ab" * 32,
        keys=(uses,),
    )
    run.settle(settled, by=origin(NOON + timedelta(seconds=10), actor="system:settlement"))
    run.close(by=origin(NOON + timedelta(minutes=1), actor="system:settlement"))
    return run


def a_purge() -> AccessLogPurge:
    """The purge of a day with 43 rows, 90 days later."""
    dropped = DroppedDay(NOON.date(), rows=43, first_at=NOON, last_at=NOON + timedelta(seconds=9))
    by = origin(NOON + timedelta(days=91), actor="system:retention")
    return AccessLogPurge.declare(dropped, policy_days=90, by=by)

"""Retention on PostgreSQL: old days leave the access log, the ledger says so, and no count changes."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
import pytest

from application.event_json import EventJson
from application.ledger import Ledger
from application.retention import Retention
from application.usage import Settlement
from application.usage_ports import AccessRow
from domain.ids import KeyId, RunId
from domain.retention import AccessLogPurge, DroppedDay, Purged
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.access_log_partitions import AccessLogPartitions
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.keys import KeysView
from infrastructure.postgres.pool import Database
from infrastructure.postgres.usage import PostgresSettlementRows, PostgresUsage, UsageTotals
from infrastructure.system import SystemEntropy
from tests.kit.builders import SettableClock, a_key, origin

NOW = datetime.now(UTC)
TODAY = datetime.combine(NOW.date(), time(), UTC)
DAYS = 90
WINDOW = timedelta(seconds=10)
ENTROPY = SystemEntropy()


@dataclass(frozen=True, slots=True)
class Service:
    """The ledger, the log and what moves rows out of it."""

    database: Database
    recorder: PostgresRecorder
    ledger: Ledger
    settlement: Settlement
    usage: PostgresUsage
    log: PostgresAccessLog
    key: KeyId

    def retention(self, at: datetime = NOW) -> Retention:
        """The job, at that time."""
        return Retention(
            ledger=self.ledger,
            log=AccessLogPartitions(self.database),
            clock=SettableClock(at),
            entropy=ENTROPY,
            days=DAYS,
        )

    def write(self, *ages: int, hour: int = 0) -> None:
        """A row of so many days ago each, at that hour; settled."""
        rows = [a_row(self.key, TODAY - timedelta(days=age) + timedelta(hours=hour)) for age in ages]
        for future in [self.log.write(row) for row in rows]:
            future.result(10)
        self.settlement.settle(NOW + timedelta(hours=25))

    def days_with_rows(self) -> list[int]:
        """How many days ago there are rows, oldest first."""
        query = "SELECT DISTINCT (occurred_at AT TIME ZONE 'UTC')::date FROM usage.access_log ORDER BY 1"
        return [(TODAY.date() - day).days for (day,) in self.rows(query)]

    def purges(self) -> list[Purged]:
        """What the ledger says of purges, in its order."""
        events = [EventJson().to_domain_event(each) for each in self.recorder.select_notifications(1, 10_000)]
        return [event for event in events if isinstance(event, Purged)]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the query answers."""
        with psycopg.connect(self.database.conninfo, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
def service(database: Database) -> Iterator[Service]:
    recorder = PostgresRecorder(database, [AccountsView(), KeysView(), UsageTotals()])
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(PostgresLedgerFactory(recorder)))
        log = stack.enter_context(
            PostgresAccessLog(
                database.conninfo,
                entropy=ENTROPY,
                run_id=ENTROPY.new(RunId),
                host="alpha:7",
                durability="commit",
                window=WINDOW,
            )
        )
        settlement = Settlement(ledger=ledger, rows=PostgresSettlementRows(database), entropy=ENTROPY, window=WINDOW)
        key = a_key()
        ledger.append(key)
        yield Service(database, recorder, ledger, settlement, PostgresUsage(database), log, key.key_id)


def a_row(key: KeyId, at: datetime) -> AccessRow:
    return AccessRow(
        at, "GET", "/", 200, "ok", accepted=True, key_id=key, account_id=None, key_hash=None, client_ip=None,
        request_id="req_0000000000000000000001",
    )  # fmt: skip


def day(age: int) -> date:
    return TODAY.date() - timedelta(days=age)


def test_days_past_the_policy_go_and_all_others_stay(service: Service) -> None:
    """Day 91 is gone, days 90 and 89 are kept whole; totals are what they were, and nothing else left the ledger."""
    service.write(200, 91, 90, 89, 0)
    service.write(91, hour=23)
    before, events = service.usage.of_keys([service.key]), service.rows("SELECT * FROM ledger.events ORDER BY position")
    totals = service.rows("SELECT * FROM usage.totals")
    assert service.retention().purge() == 2
    assert service.days_with_rows() == [90, 89, 0]
    assert service.usage.of_keys([service.key]) == before
    assert before[service.key].requests == 6
    assert service.rows("SELECT * FROM usage.totals") == totals
    assert service.rows("SELECT * FROM ledger.events ORDER BY position")[: len(events)] == events


def test_each_day_is_declared_in_the_ledger_once(service: Service) -> None:
    """The event has the range, the rows and the policy; a second run finds nothing and records nothing."""
    service.write(92, 91)
    service.write(91, hour=23)
    assert service.retention().purge() == 2
    told = [(event.range_start, event.range_end, event.rows, event.policy_days) for event in service.purges()]
    start = TODAY - timedelta(days=91)
    assert told == [(start - timedelta(days=1), start, 1, DAYS), (start, start + timedelta(days=1), 2, DAYS)]
    last = service.purges()[1]
    assert (last.first_row_at, last.last_row_at) == (start, start + timedelta(hours=23))
    assert (last.actor, last.account_id) == ("system:retention", None)
    assert service.retention().purge() == 0
    assert len(service.purges()) == 2


def test_a_purge_that_died_after_its_declaration_declares_it_once(service: Service) -> None:
    """The next run drops the day that has left the log, and the ledger keeps the one event."""
    service.write(91)

    def declare_and_die(dropped: DroppedDay) -> None:
        service.ledger.append(AccessLogPurge.declare(dropped, policy_days=DAYS, by=origin()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AccessLogPartitions(service.database).drop_partitions_before(day(DAYS), declare_and_die)
    assert service.retention(NOW + timedelta(minutes=5)).purge() == 1
    assert [event.rows for event in service.purges()] == [1]
    assert service.rows(f"SELECT FROM pg_class WHERE relname = 'access_log_{day(91):%Y%m%d}'") == []


def test_rows_that_come_to_a_purged_day_are_declared_too(service: Service) -> None:
    """A clock set back writes into a day that is gone: those rows leave by another event, not by none."""
    service.write(91)
    assert service.retention().purge() == 1
    service.write(91, 91, hour=1)
    assert service.retention().purge() == 1
    assert [event.rows for event in service.purges()] == [1, 2]
    assert service.usage.of_keys([service.key])[service.key].requests == 3


def test_unsettled_rows_are_not_purged(service: Service) -> None:
    """What no event has counted yet stays, and goes once it is counted."""
    service.log.write(a_row(service.key, TODAY - timedelta(days=95))).result(10)
    assert service.retention().purge() == 0
    service.settlement.settle(NOW + timedelta(hours=25))
    assert service.retention().purge() == 1
    assert service.usage.of_keys([service.key])[service.key].requests == 1


def test_a_detach_that_was_cut_short_does_not_keep_an_older_day(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader outlasts the newer day's detach while the older one has rows to settle; later both go, minutes too."""
    monkeypatch.setattr(AccessLogPartitions, "CONFIGURE", AccessLogPartitions.CONFIGURE.replace("'10s'", "'100ms'"))
    service.write(91)
    service.log.write(a_row(service.key, TODAY - timedelta(days=95))).result(10)
    with psycopg.connect(service.database.conninfo) as reader:
        reader.execute("SELECT count(*) FROM usage.access_log")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            service.retention().purge()
    assert service.rows("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == [(1,)]
    service.settlement.settle(NOW + timedelta(hours=25))
    assert service.retention().purge() == 2
    assert service.days_with_rows() == []
    assert service.rows("SELECT FROM usage.bucket_counts WHERE width = 'minute'") == []


def test_what_stands_beside_a_day_that_stays_stays_with_it(service: Service) -> None:
    """The owner's listing finds a row that names the key without proof of it by an entry of its own."""
    service.write(92)
    service.log.write(a_row(service.key, TODAY - timedelta(days=95))).result(10)
    assert service.retention().purge() == 1
    assert service.days_with_rows() == [95]
    entries = service.rows("SELECT (occurred_at AT TIME ZONE 'UTC')::date FROM usage.unproven ORDER BY 1")
    assert entries[0] == (day(95),)


def test_a_purge_disturbs_no_writer_and_purges_at_the_same_time_none(service: Service) -> None:
    """Rows are written all the while; of purges at once each day is one's, and every count is right at the end."""
    service.write(*range(91, 97))
    over, written = threading.Event(), 0

    def write_on_and_on() -> int:
        count = 0
        while not over.is_set() or not count:
            service.log.write(a_row(service.key, NOW)).result(10)
            count += 1
        return count

    with ThreadPoolExecutor(4) as threads:
        writer = threads.submit(write_on_and_on)
        try:
            purges = [threads.submit(service.retention().purge) for _ in range(3)]
            dropped = sum(purge.result(60) for purge in purges)
        finally:
            over.set()
        written = writer.result(20)
    dropped += service.retention().purge()
    assert dropped == 6
    assert [event.rows for event in service.purges()] == [1] * 6
    assert service.days_with_rows() == [0]
    service.settlement.settle(NOW + timedelta(hours=25))
    assert service.usage.of_keys([service.key])[service.key].requests == 6 + written


def test_the_minutes_go_with_the_rows_and_the_hours_stay(service: Service) -> None:
    """The reports by the hour outlive the rows that they were counted from, those by the minute do not."""
    service.write(91, 89)
    service.retention().purge()
    ages = service.rows(
        "SELECT width, (now() AT TIME ZONE 'UTC')::date - (start AT TIME ZONE 'UTC')::date"
        " FROM usage.bucket_counts ORDER BY width, start DESC"
    )
    assert ages == [("hour", 89), ("hour", 91), ("minute", 89)]

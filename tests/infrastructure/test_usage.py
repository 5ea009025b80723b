"""Usage on PostgreSQL: counts exact at every moment, rows settled once, and the same again from the ledger."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import Cursor
from psycopg.rows import TupleRow

from application.event_json import EventJson
from application.ledger import Ledger
from application.usage import Settlement, row_leaves
from application.usage_ports import AccessRow, KeyUsage
from domain.api_key import ApiKey, GraceStart
from domain.events import Event
from domain.ids import KeyId, RunId
from domain.merkle import MerkleTree
from domain.usage import Closed, KeysUsed, Started, UsageRun
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.keys import KeysView, PostgresKeys
from infrastructure.postgres.pool import Database
from infrastructure.postgres.usage import PostgresSettlementRows, PostgresUsage, UsageHistory, UsageTotals
from infrastructure.projections import Rebuilder, Tailer
from infrastructure.system import SystemEntropy
from tests.kit.builders import a_key, origin
from tests.kit.service import eventually

NOW = datetime.now(UTC)
WINDOW = timedelta(seconds=10)
ENTROPY = SystemEntropy()
ROUNDS = 40
WRITERS = 3


@dataclass(frozen=True, slots=True)
class Service:
    """What a deployment has: the ledger with its views, the settlement, and the counts."""

    database: Database
    recorder: PostgresRecorder
    ledger: Ledger
    settlement: Settlement
    usage: PostgresUsage
    open_log: Callable[[], PostgresAccessLog]

    def keys(self, count: int) -> list[KeyId]:
        """So many new keys."""
        keys: list[ApiKey] = [a_key() for _ in range(count)]
        self.ledger.append(*keys)
        return [key.key_id for key in keys]

    def settle(self, after: timedelta = WINDOW) -> int:
        """Settles as of so much later."""
        return self.settlement.settle(NOW + after)

    def follow(self) -> None:
        """Brings the history up to the ledger."""
        tailer = Tailer(self.database, self.recorder, [UsageHistory()])
        while tailer.catch_up():
            pass

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the query answers."""
        with psycopg.connect(self.database.conninfo, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def events(self) -> list[object]:
        """All events of runs."""
        events = [EventJson().to_domain_event(each) for each in self.recorder.select_notifications(1, 10_000)]
        return [event for event in events if isinstance(event, Started | KeysUsed | Closed)]


@pytest.fixture
def service(database: Database) -> Iterator[Service]:
    recorder = PostgresRecorder(database, [AccountsView(), KeysView(), UsageTotals()])
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(PostgresLedgerFactory(recorder)))
        yield Service(
            database,
            recorder,
            ledger,
            Settlement(ledger=ledger, rows=PostgresSettlementRows(database), entropy=ENTROPY, window=WINDOW),
            PostgresUsage(database),
            lambda: stack.enter_context(
                PostgresAccessLog(
                    database.conninfo,
                    entropy=ENTROPY,
                    run_id=ENTROPY.new(RunId),
                    host="alpha:7",
                    durability="commit",
                    window=WINDOW,
                )
            ),
        )


def a_row(key: KeyId | None, *, at: datetime = NOW, accepted: bool = True) -> AccessRow:
    return AccessRow(at, "GET", "/", 200, "ok", accepted, key, None, None, None, "req_0000000000000000000001")


def write(log: PostgresAccessLog, rows: Sequence[AccessRow]) -> None:
    for future in [log.write(row) for row in rows]:
        future.result(10)


def test_uses_count_from_their_commit_and_stay_counted_once_settled(service: Service) -> None:
    """Requests are accepted uses, failed attempts the rest; the times are those of accepted uses."""
    used, attacked, silent = service.keys(3)
    times = [NOW - timedelta(seconds=2), NOW - timedelta(seconds=1), NOW]
    write(
        service.open_log(),
        [
            *(a_row(used, at=at) for at in (times[1], times[0])),
            a_row(used, at=times[2], accepted=False),
            a_row(attacked, accepted=False),
            a_row(None),
        ],
    )
    expected = {
        used: KeyUsage(2, 1, times[0], times[1]),
        attacked: KeyUsage(0, 1, None, None),
        silent: KeyUsage(0, 0, None, None),
    }
    assert service.usage.of_keys([used, attacked, silent]) == expected
    assert service.settle() == 5
    assert service.usage.of_keys([used, attacked, silent]) == expected
    assert service.rows("SELECT count(*) FROM usage.live_counts") == [(0,)]
    assert service.usage.of_keys([]) == {}


def test_a_window_is_settled_when_it_is_over_and_not_before(service: Service) -> None:
    """Rows of the window under way stay live; the writer begins another window by itself when its time is over."""
    (key,) = service.keys(1)
    log = service.open_log()
    write(log, [a_row(key)])
    assert service.settle(timedelta(0)) == 0
    write(log, [a_row(key, at=NOW + WINDOW)])
    assert service.settle(timedelta(0)) == 1
    assert service.settle(2 * WINDOW) == 1
    assert service.usage.of_keys([key])[key].requests == 2


def test_a_clock_that_was_set_back_does_not_hold_rows_for_ever(service: Service) -> None:
    """A window that claims to end in the far future is ended at once."""
    (key,) = service.keys(1)
    log = service.open_log()
    write(log, [a_row(key, at=NOW + timedelta(days=5))])
    assert service.settle() == 1


def test_made_up_ids_leave_no_totals(service: Service) -> None:
    """Rows with the id of no key are settled as rows and kept for nobody."""
    made_up = KeyId("key_000000000")
    write(service.open_log(), [a_row(made_up, accepted=False)])
    assert service.settle() == 1
    assert service.rows("SELECT * FROM usage.totals") == []
    assert service.rows("SELECT * FROM usage.live_counts") == []


def test_counts_are_exact_at_every_moment(service: Service) -> None:
    """Writers write, two settlements run all the time; what was confirmed before a look is in it, nothing is twice."""
    keys = service.keys(5)
    confirmed = [0] * WRITERS
    started = [0] * WRITERS
    over = threading.Event()

    def uses(writer: int) -> None:
        log = service.open_log()
        for number in range(ROUNDS):
            batch = [a_row(key, at=NOW + timedelta(seconds=number)) for key in keys]
            started[writer] += 1
            write(log, batch)
            confirmed[writer] += 1

    def settle_on_and_on() -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            service.settle(timedelta(seconds=turn))

    def look() -> int:
        at_least = sum(confirmed)
        counts = [usage.requests for usage in service.usage.of_keys(keys).values()]
        at_most = sum(started)
        assert at_least <= min(counts), (at_least, counts)
        assert max(counts) <= at_most, (counts, at_most)
        return min(counts)

    with ThreadPoolExecutor(WRITERS + 2) as threads:
        settlements = [threads.submit(settle_on_and_on) for _ in range(2)]
        writers = [threads.submit(uses, writer) for writer in range(WRITERS)]
        looks = 0
        while not all(each.done() for each in writers):
            look()
            looks += 1
        over.set()
        for each in [*writers, *settlements]:
            each.result(20)
    assert looks > 10
    service.settle(timedelta(hours=1))
    assert look() == WRITERS * ROUNDS
    assert service.rows("SELECT count(*) FROM usage.live_counts") == [(0,)]
    settled = [event.rows for event in service.events() if isinstance(event, KeysUsed)]
    assert sum(settled) == WRITERS * ROUNDS * len(keys)
    assert len(settled) > WRITERS


def test_a_grace_period_begins_with_the_first_use_settled_or_not(service: Service) -> None:
    """The sweep is told of it with its row's commit, and of no failed attempt; settling changes neither."""
    (used, refused, unused) = keys = [a_key() for _ in range(3)]
    successors = service.keys(3)
    by = origin(NOW - WINDOW)
    for key, successor in zip(keys, successors, strict=True):
        key.rotate(successor, grace=WINDOW, grace_starts=GraceStart.FIRST_USE, by=by)
    service.ledger.append(*keys)
    write(service.open_log(), [a_row(successors[0]), a_row(successors[1], accepted=False), a_row(unused.key_id)])
    due = PostgresKeys(service.database)
    assert due.to_begin_grace(10) == [(used.key_id, NOW)]
    service.settle()
    assert due.to_begin_grace(10) == [(used.key_id, NOW)]
    used.begin_grace(first_use=NOW, by=by)
    service.ledger.append(used)
    assert due.to_begin_grace(10) == []
    assert refused.retires_at is None


def test_events_cover_each_row_once_and_their_roots_verify(service: Service) -> None:
    """Consecutive ranges, and the root over the rows as they stand in the table."""
    keys = service.keys(3)
    log = service.open_log()
    for number in range(4):
        write(log, [a_row(key, at=NOW + number * WINDOW) for key in keys])
        service.settle((number + 1) * WINDOW)
    used = [event for event in service.events() if isinstance(event, KeysUsed)]
    assert [(event.first_row, event.last_row, event.rows) for event in used] == [
        (1, 3, 3),
        (4, 6, 3),
        (7, 9, 3),
        (10, 12, 3),
    ]
    rows = PostgresSettlementRows(service.database)
    for event in used:
        tree = MerkleTree()
        for leaf in row_leaves(log.run_id, rows.rows(log.run_id, event.first_row - 1, event.last_row, 100)):
            tree.append(leaf)
        assert tree.root().hex() == event.details_root


def test_who_names_a_key_that_does_not_exist_makes_no_totals(service: Service) -> None:
    """Totals are kept for ever, and whoever guesses ids could fill them; the row itself is settled as any other."""
    (key,) = service.keys(1)
    write(service.open_log(), [a_row(key), a_row(ENTROPY.new(KeyId), accepted=False), a_row(key, accepted=False)])
    assert service.settle() == 3
    assert service.rows("SELECT key_id, requests, failed_attempts FROM usage.totals") == [(str(key), 1, 1)]


def test_settlements_at_the_same_time_settle_once(service: Service) -> None:
    """Whoever appends first has settled; the others find the watermark moved."""
    (key,) = service.keys(1)
    logs = [service.open_log() for _ in range(3)]
    for turn in range(5):
        for log in logs:
            write(log, [a_row(key, at=NOW + turn * WINDOW)] * 7)
        with ThreadPoolExecutor(4) as threads:
            counts = list(threads.map(service.settle, [(turn + 1) * WINDOW] * 4))
        assert sum(counts) == 21
    assert service.usage.of_keys([key])[key].requests == 105
    assert service.rows("SELECT requests FROM usage.totals") == [(105,)]


def test_a_settlement_that_dies_between_its_steps_is_taken_up(service: Service) -> None:
    """Windows ended and nothing appended: the next settlement appends, and no count moves meanwhile."""
    (key,) = service.keys(1)
    log = service.open_log()
    write(log, [a_row(key)] * 3)
    PostgresSettlementRows(service.database).end_windows(NOW + WINDOW, NOW + 2 * WINDOW)
    write(log, [a_row(key)] * 2)
    assert service.usage.of_keys([key])[key].requests == 5
    assert service.settle() == 5
    assert service.usage.of_keys([key])[key].requests == 5


def test_a_silent_run_is_closed_when_all_is_settled(service: Service) -> None:
    """A dead run's rows are settled like any other's, then its stream ends; it is never looked at again."""
    (key,) = service.keys(1)
    log = service.open_log()
    write(log, [a_row(key)])
    log.close()
    soon, later = timedelta(seconds=50), timedelta(hours=2)
    service.settle(soon)
    assert not service.ledger.load(UsageRun, log.run_id).closed
    service.settle(later)
    service.settle(later)
    assert [type(event) for event in service.events()] == [Started, KeysUsed, Closed]
    assert service.rows("SELECT * FROM usage.writers") == []
    assert service.rows("SELECT closed FROM usage.runs") == [(True,)]


def test_an_ended_run_whose_closing_was_lost_is_closed_later(service: Service) -> None:
    """The settlement died after it had ended the run and before the event: the next one appends it."""
    (key,) = service.keys(1)
    write(service.open_log(), [a_row(key)])
    service.settle()
    ended = PostgresSettlementRows(service.database).end_runs(NOW + timedelta(hours=1))
    assert len(ended) == 1
    service.settle()
    assert isinstance(service.events()[-1], Closed)


def test_the_history_has_each_keys_windows_in_ledger_order(service: Service) -> None:
    """The windows add up to the settled counts, and can be read on from any position."""
    used, other = service.keys(2)
    log = service.open_log()
    for turn in range(3):
        write(log, [a_row(used, at=NOW + turn * WINDOW)] * (turn + 1) + [a_row(other, accepted=False)])
        service.settle((turn + 1) * WINDOW)
    service.follow()
    windows = service.usage.windows(used, after=0, limit=10)
    assert [window.requests for window in windows] == [1, 2, 3]
    assert windows[1].run_id == log.run_id
    assert windows[1].started_at == NOW  # the row of the other key
    assert windows[1].ended_at == windows[1].last_used_at == NOW + WINDOW
    assert service.usage.windows(used, after=windows[0].position, limit=1) == windows[1:2]
    assert [window.failed_attempts for window in service.usage.windows(other, after=0, limit=10)] == [1, 1, 1]
    assert service.usage.windows(KeyId("key_000000000"), after=0, limit=10) == []


def test_a_rebuild_gives_the_same_rows(service: Service) -> None:
    """Totals, watermarks and windows follow from the ledger alone; rows not yet settled stay counted."""
    keys = service.keys(4)
    logs = [service.open_log() for _ in range(2)]
    for turn in range(3):
        for log in logs:
            write(log, [a_row(key, at=NOW + turn * WINDOW, accepted=turn != 1) for key in keys])
        service.settle((turn + 1) * WINDOW)
    write(logs[0], [a_row(keys[0], at=NOW + 3 * WINDOW)])
    service.follow()

    def everything() -> list[list[tuple[Any, ...]]]:
        return [
            service.rows("SELECT * FROM usage.totals ORDER BY key_id"),
            service.rows("SELECT * FROM usage.runs ORDER BY run_id"),
            service.rows("SELECT * FROM usage.windows ORDER BY key_id, position"),
            service.rows("SELECT * FROM usage.live_counts ORDER BY key_id"),
        ]

    before, counts = everything(), service.usage.of_keys(keys)
    assert len(before[0]) == 4
    assert len(before[2]) == 24
    Rebuilder(
        service.database, service.recorder, [AccountsView(), KeysView(), UsageTotals()], [UsageHistory()]
    ).rebuild()
    assert everything() == before
    assert service.usage.of_keys(keys) == counts
    assert service.settle(timedelta(hours=1)) == 1


class PausingHistory(UsageHistory):
    """The history, which says that it has applied an event, and then waits to be told to go on."""

    def __init__(self) -> None:
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Applies it, and waits."""
        super().apply(cursor, event, position)
        if isinstance(event, KeysUsed):
            cursor.connection.execute("SELECT")  # sends what the batch has gathered
            self.has_begun.set()
            self.may_go_on.wait(60)


def test_a_rebuild_waits_for_a_batch_that_is_under_way(service: Service) -> None:
    """And the tailer then for it: each window is there once, whatever the view lacked as it began."""
    (key,) = service.keys(1)
    write(service.open_log(), [a_row(key)])
    service.settle()
    view = PausingHistory()
    rebuilder = Rebuilder(service.database, service.recorder, [UsageTotals()], [UsageHistory()])
    with ThreadPoolExecutor(2) as threads:
        batch = threads.submit(Tailer(service.database, service.recorder, [view]).catch_up)
        view.has_begun.wait(60)
        rebuild = threads.submit(rebuilder.rebuild)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        eventually(lambda: service.rows(waiting) != [(0,)], "the rebuild waits")
        view.may_go_on.set()
        assert not batch.result(60)
        replayed = rebuild.result(60)
    assert service.rows("SELECT position, error FROM views.progress") == [(replayed, None)]
    assert len(service.usage.windows(key, after=0, limit=10)) == 1


def test_counting_reads_a_few_blocks_however_many_rows_wait(service: Service) -> None:
    """To list keys neither the log is read nor the rows not yet settled, but the last 4,000, which are not counted."""
    keys = service.keys(50)
    log = service.open_log()
    for _ in range(30):
        write(log, [a_row(key) for key in keys for _ in range(10)])
    with psycopg.connect(service.database.conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE usage.live")
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {PostgresUsage.OF_KEYS}".encode()
        connection.execute(explain, {"key_ids": list(keys)})  # a session's first reads the catalogue, too
        ((plan,),) = connection.execute(explain, {"key_ids": list(keys)}).fetchall()
    root = plan[0]["Plan"]
    assert root["Actual Rows"] == 50
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < 200

"""The access log's writer: a row that it confirms is there once, whatever breaks; what it cannot write it refuses."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from application.usage_ports import AccessKind, AccessRow
from domain.errors import UnavailableError
from domain.ids import RunId
from infrastructure.postgres.access_log import BATCH_ROWS_MAX, Deliver, Durability, PostgresAccessLog
from infrastructure.postgres.access_log_partitions import (
    PIECE_BLOCKS_MAX,
    PIECE_OWNERS,
    PIECE_ROWS_MAX,
    PIECE_SECONDS,
    AccessLogPartitions,
    DroppedDay,
    Pace,
)
from infrastructure.postgres.pool import Database
from infrastructure.postgres.usage import PostgresSettlementRows
from infrastructure.system import SystemEntropy
from tests.kit.builders import account_id, key_id
from tests.kit.service import eventually

NOW = datetime.now(UTC)
ENTROPY = SystemEntropy()
ROWS = 3000


def a_row(number: int = 1, *, at: datetime = NOW, endpoint: str = "/api/campaigns", **values: Any) -> AccessRow:
    defaults: dict[str, Any] = {
        "occurred_at": at,
        "method": "GET",
        "endpoint": endpoint,
        "status": 200,
        "outcome": "ok",
        "accepted": True,
        "key_id": key_id(1),
        "account_id": account_id(1),
        "key_hash": "0" * 32,
        "client_ip": "203.0.113.7",
        "request_id": f"req_{number:022d}",
    }
    return AccessRow(**(defaults | values))


def submit(log: PostgresAccessLog, number: int, deliver: Deliver) -> None:
    """As a serving process does; the number is the waiter."""
    row = a_row(number)
    log.submit(AccessKind(*row[1:-1]), row.occurred_at, row.request_id, number, deliver)


OpenLog = Callable[..., PostgresAccessLog]


class Line:
    """A TCP line to the server's socket: ``answers`` cleared, what the server says is held back; `cut` breaks it."""

    def __init__(self, server: str) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def conninfo(self, conninfo: str) -> str:
        """The same database over this line."""
        return make_conninfo(conninfo, host="127.0.0.1", port=self._listener.getsockname()[1])

    def cut(self) -> None:
        """Breaks the connections there are."""
        for each in self._sockets[1:]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the line."""
        self.cut()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._sockets += [client, server]
                threading.Thread(target=self._forward, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, True), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers:
                    self.answers.wait(10)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(conninfo: str) -> Iterator[Line]:
    """A line that the test may break, to the database's server."""
    parts = conninfo_to_dict(conninfo)
    opened = Line(f"{parts['host']}/.s.PGSQL.{parts.get('port', 5432)}")
    yield opened
    opened.close()


def a_log(conninfo: str, *, durability: Durability = "commit", **values: Any) -> PostgresAccessLog:
    return PostgresAccessLog(
        conninfo, entropy=ENTROPY, run_id=ENTROPY.new(RunId), host="alpha:7", durability=durability, **values
    )


@pytest.fixture
def open_log(conninfo: str) -> Iterator[OpenLog]:
    """A writer on the test's database, closed at the end."""
    opened: list[PostgresAccessLog] = []

    def make(**values: Any) -> PostgresAccessLog:
        opened.append(a_log(conninfo, **values))
        return opened[-1].__enter__()

    yield make
    for log in opened:
        log.close()


@pytest.fixture
def watcher(conninfo: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the test's own."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


def request_ids(watcher: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in watcher.execute("SELECT request_id FROM usage.access_log ORDER BY run_id, seq")]


def live_requests(watcher: psycopg.Connection[Any]) -> int:
    return int(
        watcher.execute("SELECT coalesce(sum(requests + failed_attempts), 0) FROM usage.live_counts").fetchall()[0][0]
    )


def writer_pids(watcher: psycopg.Connection[Any]) -> list[int]:
    query = """
        SELECT pid FROM pg_stat_activity
        WHERE application_name = 'keyledger access log' AND datname = current_database()
    """
    return [pid for (pid,) in watcher.execute(query)]


def test_a_confirmed_row_is_committed_whole_and_in_order(open_log: OpenLog, watcher: psycopg.Connection[Any]) -> None:
    """When the future is done, every column stands in the table, numbered 1, 2, 3 … in the order of the calls."""
    log = open_log()
    for number in range(1, 4):
        log.write(a_row(number)).result(5)
    rows = watcher.execute(
        "SELECT run_id, seq, octet_length(salt), occurred_at, method, endpoint, status, outcome, accepted, key_id,"
        " account_id, key_hash, client_ip, request_id FROM usage.access_log ORDER BY seq"
    ).fetchall()
    assert [row[1] for row in rows] == [1, 2, 3]
    assert rows[0] == (
        log.run_id, 1, 16, NOW, "GET", "/api/campaigns", 200, "ok", True, key_id(1), account_id(1), "0" * 32,
        "203.0.113.7", "req_0000000000000000000001",
    )  # fmt: skip


def test_salts_are_never_shared(open_log: OpenLog, watcher: psycopg.Connection[Any]) -> None:
    """Each row of a batch has 16 random bytes of its own."""
    log = open_log()
    for future in [log.write(a_row(number)) for number in range(100)]:
        future.result(5)
    assert watcher.execute("SELECT count(DISTINCT salt) FROM usage.access_log").fetchall() == [(100,)]


@pytest.mark.parametrize(
    ("endpoint", "stored"),
    [
        ('/a"b\\c,{d}', '/a"b\\c,{d}'),
        ("/nul\0", "/nul\N{REPLACEMENT CHARACTER}"),
        ("/half\ud800", "/half?"),
        ("/grüße/\N{PILE OF POO}", "/grüße/\N{PILE OF POO}"),
        ("", ""),
        ("NULL", "NULL"),
        ("/" * 2000, "/" * 512),
    ],
)
def test_no_text_can_spoil_a_batch(
    open_log: OpenLog, watcher: psycopg.Connection[Any], endpoint: str, stored: str
) -> None:
    """What a client puts in a path is stored, at most 512 characters of it, with what cannot be stored replaced."""
    open_log().write(a_row(endpoint=endpoint)).result(5)
    assert watcher.execute("SELECT endpoint FROM usage.access_log").fetchall() == [(stored,)]


def test_each_ascii_character_is_stored_as_it_is(open_log: OpenLog, watcher: psycopg.Connection[Any]) -> None:
    """Those that records and arrays give a meaning, too: in a text and alone."""
    log = open_log()
    texts = [text for character in map(chr, range(1, 0x80)) for text in (f"/a{character}b", character)]
    for future in [log.write(a_row(number, endpoint=text)) for number, text in enumerate(texts)]:
        future.result(5)
    stored = watcher.execute("SELECT endpoint FROM usage.access_log ORDER BY seq").fetchall()
    assert [text for (text,) in stored] == texts


def test_rows_without_key_account_hash_or_client_are_logged(
    open_log: OpenLog, watcher: psycopg.Connection[Any]
) -> None:
    """A request without a credential leaves its row, too, and counts for no key."""
    open_log().write(a_row(key_id=None, account_id=None, key_hash=None, client_ip=None)).result(5)
    assert watcher.execute("SELECT key_id, account_id, key_hash, client_ip FROM usage.access_log").fetchall() == [
        (None, None, None, None)
    ]
    assert live_requests(watcher) == 0


def test_nothing_is_lost_or_doubled_when_backends_are_terminated(
    open_log: OpenLog, watcher: psycopg.Connection[Any]
) -> None:
    """The writer's connection is cut over and over in a stream of rows: each confirmed row is there exactly once."""
    log = open_log()
    over = threading.Event()
    cuts = 0

    def write() -> None:
        for number in range(ROWS):
            futures.append(log.write(a_row(number)))
            over.wait(0.0002)
        over.set()

    futures: list[Any] = []
    stream = threading.Thread(target=write)
    stream.start()
    while not over.is_set():
        for pid in writer_pids(watcher):
            watcher.execute("SELECT pg_terminate_backend(%s)", (pid,))
            cuts += 1
        over.wait(0.01)
    stream.join()
    for future in futures:
        future.result(10)
    assert cuts > 5
    assert request_ids(watcher) == [f"req_{number:022d}" for number in range(ROWS)]
    assert live_requests(watcher) == ROWS


def test_a_batch_whose_commit_went_unanswered_is_not_written_twice(
    open_log: OpenLog, conninfo: str, watcher: psycopg.Connection[Any]
) -> None:
    """The first try still holds the run's row when the second comes: it waits, finds the rows written, and confirms."""
    log = open_log()
    log.write(a_row(0)).result(5)
    with psycopg.connect(conninfo) as lost:  # stands for the backend that never got its answer through
        lost.execute("UPDATE usage.writers SET written_through = written_through + 1 WHERE run_id = %s", (log.run_id,))
        future = log.write(a_row(1))
        poll(lambda: bool(watcher.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall()))
        assert not future.done()
    future.result(5)
    assert request_ids(watcher) == ["req_0000000000000000000000"]  # "row 1" is what the lost try had written


def test_a_row_that_cannot_be_written_is_refused_in_time_and_the_log_recovers(
    open_log: OpenLog, watcher: psycopg.Connection[Any]
) -> None:
    """An INSERT that always fails ends in UnavailableError; without the fault rows are written again by themselves."""
    log = open_log(patience=timedelta(milliseconds=300))
    log.write(a_row(1)).result(5)
    watcher.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk on fire'; END $$;"
        "CREATE TRIGGER fail BEFORE INSERT ON usage.access_log FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    with pytest.raises(UnavailableError) as refused:
        log.write(a_row(2)).result(5)
    assert refused.value.context == {"reason": "disk on fire"}
    watcher.execute("DROP TRIGGER fail ON usage.access_log")
    log.write(a_row(3)).result(5)
    assert request_ids(watcher) == ["req_0000000000000000000001", "req_0000000000000000000003"]
    assert live_requests(watcher) == 2


def test_a_log_that_gave_a_row_up_is_in_doubt_until_it_writes_one(open_log: OpenLog, conninfo: str) -> None:
    """Whoever asks is told so at once, and that it is over as soon as it is."""
    log = open_log(patience=timedelta(milliseconds=300))
    assert log.takes_rows()
    with psycopg.connect(conninfo) as blocker:
        blocker.execute("LOCK TABLE usage.writers")
        with pytest.raises(UnavailableError):
            log.write(a_row(1)).result(5)
        assert not log.takes_rows()
    log.write(a_row(2)).result(5)
    assert log.takes_rows()


def test_a_writer_that_stands_still_is_in_doubt(
    open_log: OpenLog, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with `buffered`, which gives nothing up."""
    monkeypatch.setattr("infrastructure.postgres.access_log.DOUBT_SECONDS", 0.5)
    log = open_log(durability="buffered")
    log.write(a_row(1))
    assert log.takes_rows()
    with psycopg.connect(conninfo) as blocker:
        blocker.execute("LOCK TABLE usage.writers")
        log.write(a_row(2))
        eventually(lambda: not log.takes_rows(), "the writer is in doubt")
    eventually(log.takes_rows, "the row is written")


class NoEntropy:
    """The port `Entropy`, out of order."""

    def bytes(self, count: int) -> bytes:
        """None: a fault of our own, as far as the log can tell."""
        raise NotImplementedError(count)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_ends_by_a_fault_tells_everybody(conninfo: str) -> None:
    """Who waits and who comes is refused, and whoever can end the process is told."""
    told = threading.Event()
    with PostgresAccessLog(
        conninfo, entropy=NoEntropy(), run_id=ENTROPY.new(RunId), host="a:7", durability="commit", on_fault=told.set
    ) as log:
        assert isinstance(log.write(a_row(1)).exception(5), UnavailableError)
        assert told.wait(5)
        assert not log.takes_rows()
        with pytest.raises(UnavailableError):
            log.write(a_row(2))


def test_a_writer_that_is_closed_tells_of_no_fault(conninfo: str) -> None:
    """Its end was asked for, with rows or without."""
    told = threading.Event()
    for rows in (0, 1):
        with a_log(conninfo, on_fault=told.set) as log:
            for number in range(rows):
                log.write(a_row(number))
    assert not told.is_set()


def test_a_row_that_waits_too_long_for_a_lock_is_refused_and_not_written_later(
    open_log: OpenLog, conninfo: str, watcher: psycopg.Connection[Any]
) -> None:
    """The server itself gives the statement up, so a refused row does not turn up afterwards."""
    log = open_log(patience=timedelta(milliseconds=500))
    log.write(a_row(1)).result(5)
    with psycopg.connect(conninfo) as blocker:
        blocker.execute("LOCK TABLE usage.writers")
        with pytest.raises(UnavailableError):
            log.write(a_row(2)).result(5)
    log.write(a_row(3)).result(5)
    assert request_ids(watcher) == ["req_0000000000000000000001", "req_0000000000000000000003"]


def test_a_server_that_falls_silent_fails_the_waiting_rows(line: Line, conninfo: str) -> None:
    """No answer, and no broken connection either: the row is refused when its time is over, and the log goes on."""
    with a_log(line.conninfo(conninfo), patience=timedelta(milliseconds=500)) as log:
        log.write(a_row(1)).result(5)
        line.answers.clear()
        with pytest.raises(UnavailableError):
            log.write(a_row(2)).result(5)
        line.answers.set()
        log.write(a_row(3)).result(5)


def test_rows_that_stood_behind_one_that_waited_for_a_silent_server_are_refused_with_it() -> None:
    """They do not wait for it as long again, one batch behind the other."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        a_log(make_conninfo(host="127.0.0.1", port=mute.getsockname()[1])) as log,
    ):
        first = log.write(a_row(1))
        attempt, _ = mute.accept()
        with attempt:
            second = log.write(a_row(2))
            for row in (first, second):
                assert isinstance(row.exception(timeout=20), UnavailableError)
            mute.settimeout(0)
            with pytest.raises(BlockingIOError):
                mute.accept()


def test_a_commit_whose_answer_is_lost_is_confirmed_and_stands_once(
    line: Line, conninfo: str, watcher: psycopg.Connection[Any]
) -> None:
    """The batch is committed, the line breaks before the answer: sent again, it is found written."""
    with a_log(line.conninfo(conninfo), patience=timedelta(seconds=10)) as log:
        log.write(a_row(1)).result(5)
        line.answers.clear()
        future = log.write(a_row(2))
        poll(lambda: len(request_ids(watcher)) == 2)
        assert not future.done()
        line.cut()
        line.answers.set()
        future.result(5)
    assert request_ids(watcher) == ["req_0000000000000000000001", "req_0000000000000000000002"]
    assert live_requests(watcher) == 2


def test_a_refused_row_that_was_committed_after_all_stands_once_and_harms_no_other(
    line: Line, conninfo: str, watcher: psycopg.Connection[Any]
) -> None:
    """The one case in which a refused row is in the log: its commit's answer was lost until its time was over."""
    with a_log(line.conninfo(conninfo), patience=timedelta(milliseconds=500)) as log:
        log.write(a_row(1)).result(5)
        line.answers.clear()
        with pytest.raises(UnavailableError):
            log.write(a_row(2)).result(5)
        line.answers.set()
        log.write(a_row(3)).result(5)
    assert watcher.execute("SELECT seq, request_id FROM usage.access_log ORDER BY seq").fetchall() == [
        (number, f"req_{number:022d}") for number in (1, 2, 3)
    ]
    assert live_requests(watcher) == 3


def test_a_full_queue_refuses_at_once(open_log: OpenLog, conninfo: str) -> None:
    """Back-pressure ends in a refusal, and memory stays bounded."""
    log = open_log(queue_rows_max=10)
    with psycopg.connect(conninfo) as blocker:
        blocker.execute("LOCK TABLE usage.writers")
        waiting = [log.write(a_row())]
        poll(lambda: log.queued() == 0)
        waiting += [log.write(a_row()) for _ in range(10)]
        with pytest.raises(UnavailableError):
            log.write(a_row())
    for future in waiting:
        with suppress(UnavailableError):
            future.result(15)


def test_buffered_rows_wait_for_the_database(
    open_log: OpenLog, conninfo: str, watcher: psycopg.Connection[Any]
) -> None:
    """In buffered mode a row is accepted at once and kept until the database takes it."""
    log = open_log(durability="buffered", flush=timedelta(milliseconds=10))
    with psycopg.connect(conninfo) as blocker:
        blocker.execute("LOCK TABLE usage.writers")
        futures = [log.write(a_row(number)) for number in range(50)]
        assert all(future.done() for future in futures)
        for pid in writer_pids(watcher):
            watcher.execute("SELECT pg_terminate_backend(%s)", (pid,))
        assert request_ids(watcher) == []
    poll(lambda: len(request_ids(watcher)) == 50)


def test_closing_writes_what_is_queued_and_takes_no_more(open_log: OpenLog, watcher: psycopg.Connection[Any]) -> None:
    """A graceful stop loses nothing, in buffered mode either."""
    log = open_log(durability="buffered", flush=timedelta(seconds=5))
    for number in range(2 * BATCH_ROWS_MAX + 1):
        log.write(a_row(number))
    log.close()
    assert len(request_ids(watcher)) == 2 * BATCH_ROWS_MAX + 1
    with pytest.raises(UnavailableError):
        log.write(a_row())


def test_waiters_are_told_once_for_each_batch(open_log: OpenLog, conninfo: str) -> None:
    """An event loop is woken once for many rows, in their order."""
    log = open_log()
    told: SimpleQueue[tuple[Sequence[Any], UnavailableError | None]] = SimpleQueue()
    log.write(a_row()).result(5)
    with psycopg.connect(conninfo) as blocker:
        blocker.execute("LOCK TABLE usage.writers")
        submit(log, 0, lambda waiters, error: told.put((waiters, error)))
        poll(lambda: log.queued() == 0)

        def deliver(waiters: Sequence[Any], error: UnavailableError | None) -> None:
            told.put((waiters, error))

        for number in range(1, 51):
            submit(log, number, deliver)
    assert told.get(timeout=5) == ([0], None)
    assert told.get(timeout=5) == (list(range(1, 51)), None)


def test_whoever_awaits_a_batch_is_told_when_the_next_is_written(open_log: OpenLog, conninfo: str) -> None:
    """Of whichever ends first, once; and of the end of the log."""
    log = open_log(durability="buffered", flush=timedelta(milliseconds=1))
    told: SimpleQueue[tuple[Sequence[Any], UnavailableError | None]] = SimpleQueue()

    def deliver(waiters: Sequence[Any], error: UnavailableError | None) -> None:
        told.put((waiters, error))

    with psycopg.connect(conninfo) as blocker:
        blocker.execute("LOCK TABLE usage.writers")
        log.write(a_row(1))
        poll(lambda: log.queued() == 0)
        for waiter in ("first", "second"):
            log.await_batch(waiter, deliver)
        log.write(a_row(2))
        assert told.empty()
    assert told.get(timeout=5) == (["first", "second"], None)
    poll(lambda: log.queued() == 0)
    log.await_batch("third", deliver)
    log.close()
    waiters, error = told.get(timeout=5)
    assert waiters == ["third"]
    assert error is None or isinstance(error, UnavailableError)
    assert told.empty()


def test_no_more_await_a_batch_than_rows_may_wait(open_log: OpenLog, conninfo: str) -> None:
    """While nothing can be written, whoever comes to a full queue is refused, and not kept."""
    log = open_log(durability="buffered", flush=timedelta(milliseconds=1), queue_rows_max=1)
    with psycopg.connect(conninfo) as blocker:
        blocker.execute("LOCK TABLE usage.writers")
        log.write(a_row(1))
        poll(lambda: log.queued() == 0)
        log.write(a_row(2))
        with pytest.raises(UnavailableError):
            log.await_batch("late", pytest.fail)


def test_a_run_that_was_ended_meanwhile_gets_a_successor(open_log: OpenLog, watcher: psycopg.Connection[Any]) -> None:
    """A process that stood still so long that its run was closed writes on in a new run, from row 1."""
    log = open_log()
    log.write(a_row(1)).result(5)
    first = log.run_id
    watcher.execute(
        "INSERT INTO usage.runs (run_id, version, settled_through, closed) VALUES (%s, 3, 1, true)", (first,)
    )
    watcher.execute("DELETE FROM usage.writers")
    log.write(a_row(2)).result(5)
    assert log.run_id != first
    assert watcher.execute("SELECT run_id, seq FROM usage.access_log ORDER BY request_id").fetchall() == [
        (first, 1),
        (log.run_id, 1),
    ]


def test_a_missing_partition_is_made_on_demand(open_log: OpenLog, watcher: psycopg.Connection[Any]) -> None:
    """A clock set forward, or a leader away for weeks, costs no row."""
    open_log().write(a_row(at=NOW + timedelta(days=60))).result(5)
    assert len(request_ids(watcher)) == 1


def test_a_missing_partition_is_made_also_when_the_connection_broke_first(
    open_log: OpenLog, watcher: psycopg.Connection[Any]
) -> None:
    """As when the process began before PostgreSQL did, on a machine whose clock is far ahead."""
    log = open_log()
    log.write(a_row(1)).result(5)
    for pid in writer_pids(watcher):
        watcher.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    log.write(a_row(2, at=NOW + timedelta(days=60))).result(5)
    assert len(request_ids(watcher)) == 2


def test_partitions_are_made_ahead_once(database: Database) -> None:
    """A fresh database has a week; more are made when asked for, also by several at once."""
    partitions = AccessLogPartitions(database)
    assert partitions.ensure_partitions(days_ahead=7) == 0
    made: list[int] = []
    makers = [
        threading.Thread(target=lambda: made.append(partitions.ensure_partitions(days_ahead=30))) for _ in range(4)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sorted(made) == [0, 0, 0, 23]


COPIES = sql.SQL("""
    INSERT INTO {part} SELECT 'run_over', n, salt, occurred_at + n * interval '1 microsecond', method, endpoint,
        status, outcome, accepted, key_id, account_id, key_hash, client_ip, request_id
    FROM {part} CROSS JOIN generate_series(1, %(rows)s::integer) AS n
""")
MINUTES = """
    WITH keys AS (SELECT 'key_owner' || n AS key_id FROM generate_series(1, %(owners)s::integer) AS n), known AS (
        INSERT INTO views.keys (
            key_id, account_id, name, environment, prefix, created_at, rotation_due_at, rotation_flagged, disabled,
            expiry_recorded, lineage_id, created_position, position
        ) SELECT key_id, 'acc_1', 'K', 'live', key_id, now(), now(), false, false, false, key_id, 1, 1 FROM keys
        ON CONFLICT DO NOTHING
    )
    INSERT INTO usage.buckets
    SELECT key_id, 'minute', date_trunc('minute', %(at)s::timestamptz) - n * interval '1 minute', 'run_over',
        1, 0, 1, 0, 0, 0
    FROM keys CROSS JOIN generate_series(1, %(old)s::integer) AS n
"""


def settle_all(watcher: psycopg.Connection[Any]) -> None:
    watcher.execute(
        "INSERT INTO usage.runs (run_id, version, settled_through, closed)"
        " SELECT run_id, 2, written_through, false FROM usage.writers"
    )


def test_old_days_are_dropped_and_told(open_log: OpenLog, database: Database, watcher: psycopg.Connection[Any]) -> None:
    """A purge removes whole days before the one given, and declares each with its rows before they are gone."""
    log = open_log()
    old = NOW - timedelta(days=95)
    for number, at in enumerate([old, old + timedelta(microseconds=1), NOW]):
        log.write(a_row(number, at=at)).result(5)
    settle_all(watcher)
    told: list[DroppedDay] = []
    dropped = AccessLogPartitions(database).drop_partitions_before(NOW.date() - timedelta(days=90), told.append)
    assert [*dropped] == told == [DroppedDay(old.date(), 2, old, old + timedelta(microseconds=1))]
    assert request_ids(watcher) == ["req_0000000000000000000002"]
    assert AccessLogPartitions(database).drop_partitions_before(NOW.date() - timedelta(days=90), told.append) == []


def test_a_day_with_unsettled_rows_is_not_dropped(
    open_log: OpenLog, database: Database, watcher: psycopg.Connection[Any]
) -> None:
    """What no event has counted yet stays, however old."""
    open_log().write(a_row(at=NOW - timedelta(days=95))).result(5)
    partitions = AccessLogPartitions(database)
    assert partitions.drop_partitions_before(NOW.date() - timedelta(days=90), fail_to_declare) == []
    settle_all(watcher)
    assert len(partitions.drop_partitions_before(NOW.date() - timedelta(days=90), lambda _: None)) == 1


@pytest.mark.parametrize("kept", [90, 3650])
def test_a_purge_that_was_cut_short_is_finished_by_the_next(
    open_log: OpenLog, database: Database, watcher: psycopg.Connection[Any], kept: int
) -> None:
    """A day that left the log is declared and dropped the next time, also when by then it would have stayed."""
    open_log().write(a_row(at=NOW - timedelta(days=95))).result(5)
    settle_all(watcher)
    partitions = AccessLogPartitions(database)
    day: date = NOW.date() - timedelta(days=90)
    with pytest.raises(NotImplementedError):
        partitions.drop_partitions_before(day, fail_to_declare)
    told: list[DroppedDay] = []
    partitions.drop_partitions_before(NOW.date() - timedelta(days=kept), told.append)
    assert [each.rows for each in told] == [1]


def test_a_day_that_was_left_half_detached_is_purged_by_the_next(
    open_log: OpenLog, database: Database, watcher: psycopg.Connection[Any]
) -> None:
    """A purge that dies while it waits for a reader of the log leaves a pending detach; the next one ends it."""
    at = NOW - timedelta(days=95)
    open_log().write(a_row(at=at)).result(5)
    settle_all(watcher)
    part = f"usage.access_log_{at:%Y%m%d}"
    with psycopg.connect(database.conninfo) as reader, psycopg.connect(database.conninfo, autocommit=True) as dying:
        reader.execute("SELECT count(*) FROM usage.access_log")
        dying.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            dying.execute(f"ALTER TABLE usage.access_log DETACH PARTITION {part} CONCURRENTLY".encode())
    told: list[DroppedDay] = []
    AccessLogPartitions(database).drop_partitions_before(NOW.date() - timedelta(days=90), told.append)
    assert told == [DroppedDay(at.date(), 1, at, at)]


def test_a_purge_that_is_told_to_stop_is_finished_by_the_next(
    open_log: OpenLog, database: Database, watcher: psycopg.Connection[Any]
) -> None:
    """It ends after the piece it is at, before anything is declared; the next purge counts all of the day again."""
    at = NOW - timedelta(days=95)
    open_log().write(a_row(at=at)).result(5)
    settle_all(watcher)
    day = NOW.date() - timedelta(days=90)
    stopping = AccessLogPartitions(database, rest=lambda _: True)
    assert stopping.drop_partitions_before(day, fail_to_declare) == []
    told: list[DroppedDay] = []
    AccessLogPartitions(database).drop_partitions_before(day, told.append)
    assert told == [DroppedDay(at.date(), 1, at, at)]


def test_many_pieces_add_up(open_log: OpenLog, database: Database, watcher: psycopg.Connection[Any]) -> None:
    """A day of many pieces is counted to the row, and what stood beside it goes to the last minute of every key."""
    open_log().write(a_row(at=NOW - timedelta(days=95))).result(5)
    settle_all(watcher)
    part = f"access_log_{NOW - timedelta(days=95):%Y%m%d}"
    rows, owners = PIECE_BLOCKS_MAX * 60, 2 * PIECE_OWNERS + 1
    watcher.execute(COPIES.format(part=sql.Identifier("usage", part)), {"rows": rows})
    watcher.execute(MINUTES, {"owners": owners, "old": PIECE_ROWS_MAX // 16, "at": NOW - timedelta(days=95)})
    watcher.execute(MINUTES, {"owners": owners, "old": 1, "at": NOW - timedelta(days=1)})
    rests: list[float] = []
    partitions = AccessLogPartitions(database, rest=lambda seconds: bool(rests.append(seconds)))
    (dropped,) = partitions.drop_partitions_before(NOW.date() - timedelta(days=90), lambda _: None)
    assert dropped.rows == rows + 1
    assert watcher.execute("SELECT count(*) FROM usage.buckets WHERE key_id LIKE 'key_owner%'").fetchall() == [
        (owners,)
    ]
    assert len(rests) > owners * (PIECE_ROWS_MAX // 16) // PIECE_ROWS_MAX + 2


def test_a_piece_takes_as_long_on_any_machine() -> None:
    """The next is as much smaller as the last took too long, at most twice as large, and within its bounds."""
    pace = Pace(160)
    sizes = [pace.size]
    for seconds in (
        0.0,
        PIECE_SECONDS / 2,
        PIECE_SECONDS / 1.5,
        PIECE_SECONDS * 2,
        PIECE_SECONDS,
        60.0,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
    ):
        pace.took(seconds)
        sizes.append(pace.size)
    assert sizes == [10, 20, 40, 60, 30, 30, 10, 20, 40, 80, 160, 160]


def fail_to_declare(day: DroppedDay) -> None:
    raise NotImplementedError(day)


def poll(condition: Callable[[], bool]) -> None:
    """Waits until it holds, 10 s at most."""
    waiting = threading.Event()
    for _ in range(1000):
        if condition():
            return
        waiting.wait(0.01)
    pytest.fail("it never came to hold")


TOLD = """
    SELECT key_id, width, start, sum(requests), sum(failed_attempts), sum(status_2xx), sum(status_3xx), sum(status_4xx),
           sum(status_5xx)
    FROM usage.bucket_counts GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
THERE = """
    SELECT key_id, w.width, date_trunc(w.width, occurred_at), count(*) FILTER (WHERE accepted),
           count(*) FILTER (WHERE NOT accepted), count(*) FILTER (WHERE status / 100 = 2),
           count(*) FILTER (WHERE status / 100 = 3), count(*) FILTER (WHERE status / 100 = 4),
           count(*) FILTER (WHERE status / 100 = 5)
    FROM usage.access_log JOIN views.keys USING (key_id) CROSS JOIN (VALUES ('minute'), ('hour')) AS w (width)
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
LIVE_TOLD = """
    SELECT key_id, sum(requests), sum(failed_attempts), min(first_used_at), max(last_used_at)
    FROM usage.live_counts GROUP BY 1 ORDER BY 1
"""
LIVE_THERE = """
    SELECT key_id, count(*) FILTER (WHERE accepted), count(*) FILTER (WHERE NOT accepted),
           min(occurred_at) FILTER (WHERE accepted), max(occurred_at) FILTER (WHERE accepted)
    FROM usage.access_log WHERE key_id IS NOT NULL GROUP BY 1 ORDER BY 1
"""
UNPROVEN_TOLD = "SELECT account_id, occurred_at, seq FROM usage.unproven ORDER BY seq"
UNPROVEN_THERE = """
    SELECT k.account_id, l.occurred_at, l.seq FROM usage.access_log AS l JOIN views.keys AS k USING (key_id)
    WHERE l.account_id IS NULL ORDER BY seq
"""
WAITING = "SELECT counted_through, written_through FROM usage.writers"
A_KEY = """
    INSERT INTO views.keys (
        key_id, account_id, name, environment, prefix, created_at, rotation_due_at, rotation_flagged, disabled,
        expiry_recorded, lineage_id, created_position, position
    ) VALUES (%(key)s, %(account)s, 'A key', 'live', 'sk_live_', now(), now(), false, false, false, %(key)s, 1, 1)
"""


def test_counts_are_those_of_the_rows_counted_already_or_not(
    open_log: OpenLog, watcher: psycopg.Connection[Any]
) -> None:
    """Rows are counted some at a time, and when their window is over; what is told is exact after each batch."""
    for number in (1, 2):
        watcher.execute(A_KEY, {"key": key_id(number), "account": account_id(number)})
    watcher.execute("SET timezone = 'UTC'")
    noon = NOW.replace(hour=12, minute=0, second=0, microsecond=0)
    log = open_log()
    places: list[tuple[int, int]] = []
    for batch in range(8):
        rows = [
            a_row(
                number,
                at=noon + timedelta(milliseconds=25 * (number % 7 - 3) + number, minutes=batch // 3 * 31),
                key_id=None if number % 7 == 0 else key_id(number % 3 + 1),  # the third is nobody's
                account_id=None if number % 5 == 0 or number % 7 == 0 else account_id(number % 3 + 1),
                accepted=number % 4 != 0,
                status=(200, 304, 404, 500)[number % 4],
            )
            # The first is past noon: however few rows the first batch has, its window holds the others.
            for number in range(batch * 1600 + 4, batch * 1600 + 1604)
        ]
        for future in [log.write(row) for row in rows]:
            future.result(5)
        for told, there in ((TOLD, THERE), (LIVE_TOLD, LIVE_THERE), (UNPROVEN_TOLD, UNPROVEN_THERE)):
            assert watcher.execute(told).fetchall() == watcher.execute(there).fetchall()
        places += watcher.execute(WAITING).fetchall()
    assert places[0][0] == 0
    assert 0 < places[-1][0] < places[-1][1]
    assert all(written - counted <= 4000 for counted, written in places)
    watcher.execute(PostgresSettlementRows.END_WINDOWS, {"now": "infinity", "latest": "infinity"})
    ((counted, written),) = watcher.execute(WAITING).fetchall()
    assert counted == written == 12_800
    assert watcher.execute(TOLD).fetchall() == watcher.execute(THERE).fetchall()
    assert watcher.execute(LIVE_TOLD).fetchall() == watcher.execute(LIVE_THERE).fetchall()


def test_a_batch_that_an_upgrade_overtook_is_counted_once(open_log: OpenLog, watcher: psycopg.Connection[Any]) -> None:
    """A writer that waited for the migration goes on as the release before: it has counted its rows itself."""
    watcher.execute(A_KEY, {"key": key_id(1), "account": account_id(1)})
    log = open_log()
    log.write(a_row(1, key_id=key_id(1), account_id=account_id(1))).result(5)
    watcher.execute(PostgresSettlementRows.END_WINDOWS, {"now": "infinity", "latest": "infinity"})
    with watcher.transaction():
        watcher.execute("SET LOCAL usage.counted = 'yes'")
        watcher.execute("UPDATE usage.writers SET written_through = written_through + 1")
        watcher.execute(
            "INSERT INTO usage.access_log SELECT run_id, seq + 1, salt, occurred_at, method, endpoint, status, outcome,"
            " accepted, key_id, account_id, key_hash, client_ip, request_id FROM usage.access_log"
        )
        watcher.execute("UPDATE usage.live SET requests = requests + 1")
        watcher.execute("UPDATE usage.buckets SET requests = requests + 1, status_2xx = status_2xx + 1")
    assert watcher.execute(WAITING).fetchall() == [(2, 2)]
    watcher.execute("SET timezone = 'UTC'")
    assert watcher.execute(TOLD).fetchall() == watcher.execute(THERE).fetchall()
    assert watcher.execute(LIVE_TOLD).fetchall() == watcher.execute(LIVE_THERE).fetchall()


def test_the_previous_release_writes_its_columns(open_log: OpenLog, watcher: psycopg.Connection[Any]) -> None:
    """While an upgrade is under way: what it gives as columns are the same rows, in the same run."""
    log = open_log()
    log.write(a_row(1)).result(5)
    [written] = watcher.execute(
        """
        SELECT usage.write_batch(
            %(run)s, 1, 3, %(at)s, %(at)s, %(salts)s, %(instants)s, '{req_2,req_3}', '{2,1}',
            '{GET,POST}', '{/a,/b}', '{200,401}', '{ok,forged}', '{t,f}', %(keys)s, %(accounts)s,
            '{NULL,h}', '{NULL,::1}'
        )
        """,
        {
            "run": log.run_id,
            "at": NOW,
            "salts": bytes(range(32)),
            "instants": [NOW + timedelta(seconds=1), NOW],
            "keys": [key_id(1), None],
            "accounts": [account_id(1), None],
        },
    ).fetchall()
    assert written == (True,)
    rows = watcher.execute("SELECT * FROM usage.access_log WHERE seq > 1 ORDER BY seq").fetchall()
    second = NOW + timedelta(seconds=1)
    refused = (bytes(range(16)), second, "POST", "/b", 401, "forged", False, None, None, "h", "::1", "req_2")
    good = (bytes(range(16, 32)), NOW, "GET", "/a", 200, "ok", True, key_id(1), account_id(1), None, None, "req_3")
    assert rows == [(log.run_id, 2, *refused), (log.run_id, 3, *good)]
    assert watcher.execute("SELECT uncounted_from, uncounted_to FROM usage.writers").fetchall() == [(NOW, second)]

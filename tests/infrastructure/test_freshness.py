"""Freshness on a real PostgreSQL: a change waits for whoever could act on what it ended, and for nobody else."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, LiteralString

import psycopg
import pytest

from application.ports import Freshness
from application.verified_keys import Change, Lease, VerifiedKey, VerifiedKeys
from domain.ids import RunId
from infrastructure.board import CHANGES, Board, Seat
from infrastructure.embedded_postgres import EmbeddedPostgres
from infrastructure.postgres.freshness import BATCH, DatabaseClock, LedgerFollower, PostgresFreshness, elapsed
from infrastructure.postgres.migrate import migrate
from infrastructure.postgres.pool import Database
from tests.kit.builders import NOON, account_id, entropy, key_id
from tests.kit.proxy import Line
from tests.kit.service import eventually
from tests.kit.verified import facts

LEASE = Lease(1.0)
BEHIND = 1_000_000
"""A position that nobody has applied."""
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Serving:
    """One process's memory and what keeps it true."""

    name: RunId
    keys: VerifiedKeys
    clock: DatabaseClock

    def remember(self, number: int) -> None:
        """Puts that key into memory, as read now."""
        key = VerifiedKey(facts(key=number), "hash")
        assert self.keys.remember(b"%d" % number, key, read_at=self.keys.applied)

    def knows(self, number: int) -> bool:
        """Whether that key is in memory."""
        return self.keys.recall(b"%d" % number) is not None


class Processes(ExitStack):
    """Serving processes on one database; ``ask`` is one statement by somebody else."""

    def __init__(self, conninfo: str) -> None:
        super().__init__()
        self.conninfo = conninfo
        self._operator = self.enter_context(psycopg.connect(conninfo, autocommit=True))

    def start(self, *, conninfo: str | None = None, lease: Lease = LEASE, seat: Seat | None = None) -> Serving:
        """One more, fresh when this returns."""
        name, clock = RunId.from_entropy(entropy(next(_numbers))), DatabaseClock(lambda: NOON)
        keys = VerifiedKeys(capacity=1000, fingerprint=bytes, elapsed=elapsed, board=seat)
        follower = LedgerFollower(
            conninfo or self.conninfo, keys=keys, clock=clock, lease=lease, process_id=name, host="alpha:1", seat=seat
        )
        self.enter_context(follower)
        eventually(lambda: keys.is_fresh, "the process is fresh")
        return Serving(name, keys, clock)

    def ask(self, statement: LiteralString, *values: object) -> Any:
        """The first column of the first row; None when there is none."""
        cursor = self._operator.execute(statement, values)
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]

    def append(self, *streams: str, word: str = "changed") -> int:
        """Appends an event to each stream; the last one's position."""
        states = [f"{word} {number}".encode() for number in range(len(streams))]
        versions = [next(_numbers) for _ in streams]
        topics = ["t"] * len(streams)
        return self.ask("SELECT ledger.append(%s, %s, %s, %s)", list(streams), versions, topics, states) + len(streams)

    def append_and_tell(self, seat: Seat, stream: str) -> int:
        """As the recorder of a process with a seat does."""
        appended = ([stream], [next(_numbers)], ["t"], [b"changed"], seat.server)
        position = self.ask("SELECT ledger.append(%s, %s, %s, %s, %s)", *appended) + 1
        seat.tell([Change(position, stream)])
        return position

    def add_row(self, name: str, *, lease: Lease) -> None:
        """A row without a process behind it, that has applied nothing."""
        self.ask(
            "INSERT INTO serving.processes (process_id, host, started_at, lease_seconds, applied, beat)"
            " VALUES (%s, 'beta:1', now(), %s, 0, 7)",
            name,
            lease.seconds,
        )

    def beat(self, name: str) -> int | None:
        """The beat of a process's row; None when it has none."""
        return self.ask("SELECT beat FROM serving.processes WHERE process_id = %s", name)

    def break_followers(self) -> None:
        """Ends the connections that followers listen on."""
        self.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'keyledger follower' AND datname = current_database()"
        )


@pytest.fixture
def processes(conninfo: str) -> Iterator[Processes]:
    """Nobody serves yet."""
    with Processes(conninfo) as started:
        yield started


@pytest.fixture
def seats() -> tuple[Seat, Seat]:
    """Two at one board."""
    board = Board(2)
    mine, other = board.take_seat(), board.take_seat()
    assert mine is not None
    assert other is not None
    return mine, other


@pytest.fixture
def freshness(database: Database) -> PostgresFreshness:
    """The waiter under test."""
    return PostgresFreshness(database)


def test_a_change_is_applied_by_all_when_the_wait_is_over(processes: Processes, freshness: PostgresFreshness) -> None:
    """Each process has forgotten the changed key, and no other; the receipt counts them."""
    both = [processes.start(), processes.start()]
    for process in both:
        process.remember(1)
        process.remember(2)
    position = processes.append(key_id(1))
    receipt = freshness.await_applied(position)
    assert (receipt.position, receipt.processes) == (position, 2)
    for process in both:
        assert not process.knows(1)
        assert not process.keys.remember(b"1", VerifiedKey(facts(key=1), "hash"), read_at=position - 1)
        assert process.knows(2)
        # What was forgotten by a notification's word is reported a moment before it counts as applied here.
        eventually(lambda keys=process.keys: keys.applied >= position, "it is applied")


def test_a_change_of_the_account_takes_its_keys_along(processes: Processes, freshness: PostgresFreshness) -> None:
    """What is remembered of a key is true of its account, too."""
    process = processes.start()
    process.remember(1)
    freshness.await_applied(processes.append(account_id(1)))
    assert not process.knows(1)


def test_without_processes_nobody_is_waited_for(processes: Processes, freshness: PostgresFreshness) -> None:
    """The command line alone on a database answers at once."""
    assert freshness.await_applied(processes.append(key_id(1))).processes == 0


def test_a_process_that_cannot_be_reached_has_no_lease_when_the_wait_is_over(
    processes: Processes, freshness: PostgresFreshness
) -> None:
    """Its connections are open and silent: the wait ends when its lease has, and it is not counted."""
    with Line(processes.conninfo) as line:
        silent, other = processes.start(conninfo=line.conninfo), processes.start()
        silent.remember(1)
        line.fall_silent()
        receipt = freshness.await_applied(processes.append(key_id(1)))
        assert not silent.keys.is_fresh
        assert silent.knows(1), "it cannot have heard"
        assert other.keys.is_fresh
        assert receipt.processes == 1
        line.speak_again()
        eventually(lambda: silent.keys.is_fresh, "it comes back")
        assert not silent.knows(1)
        processes.close()


def test_each_process_is_waited_for_as_long_as_its_own_lease(
    processes: Processes, freshness: PostgresFreshness
) -> None:
    """Leases differ while a setting is changed: the waiter goes by what the silent process believes."""
    with Line(processes.conninfo) as line:
        patient, quick = processes.start(conninfo=line.conninfo, lease=Lease(3.0)), processes.start(lease=Lease(0.5))
        line.fall_silent()
        assert patient.keys.is_fresh
        freshness.await_applied(processes.append(key_id(1)))
        assert not patient.keys.is_fresh
        del quick
        processes.close()


def test_a_row_that_stands_still_is_taken_out(processes: Processes, freshness: PostgresFreshness) -> None:
    """A process that was killed is waited for once."""
    processes.add_row("run_dead", lease=Lease(0.2))
    assert freshness.await_applied(BEHIND).processes == 0
    assert processes.beat("run_dead") is None


def test_a_row_that_moves_is_not_taken_out(processes: Processes, freshness: PostgresFreshness) -> None:
    """A process that is alive and behind keeps its row: it may trust its memory again any moment."""
    processes.add_row("run_slow", lease=Lease(0.5))
    receipts: list[Freshness] = []
    waiter = Thread(target=lambda: receipts.append(freshness.await_applied(BEHIND)))
    waiter.start()
    while waiter.is_alive():
        processes.ask("UPDATE serving.processes SET beat = beat + 1 WHERE process_id = 'run_slow'")
    assert processes.beat("run_slow") is not None
    assert receipts[0].processes == 0


def test_a_row_that_has_applied_is_not_waited_for_however_long_it_stands(
    processes: Processes, freshness: PostgresFreshness
) -> None:
    """Only what is behind is looked at."""
    processes.add_row("run_still", lease=Lease(30.0))
    assert freshness.await_applied(0).processes == 1


def test_a_process_taken_for_dead_has_a_row_before_it_is_fresh_again(processes: Processes) -> None:
    """As long as it cannot write its row it refuses; then it comes back by itself."""
    process = processes.start()
    with psycopg.connect(processes.conninfo) as other:
        other.execute("LOCK TABLE serving.processes IN ACCESS EXCLUSIVE MODE")
        other.execute("DELETE FROM serving.processes")
        eventually(lambda: not process.keys.is_fresh, "its lease ends")
    eventually(lambda: process.keys.is_fresh, "it comes back")
    assert processes.beat(process.name) is not None


def test_a_process_that_stops_trusts_nothing_and_is_not_waited_for(processes: Processes) -> None:
    """Leaving takes the row out, after the lease."""
    with Processes(processes.conninfo) as others:
        process = others.start()
    assert not process.keys.is_fresh
    assert processes.beat(process.name) is None


def test_a_broken_connection_costs_no_memory_and_hides_no_change(
    processes: Processes, freshness: PostgresFreshness
) -> None:
    """What happened while nobody listened is applied; what did not change is still remembered."""
    processes.append(key_id(3))
    process = processes.start()
    process.remember(1)
    process.remember(2)
    processes.break_followers()
    freshness.await_applied(processes.append(key_id(1)))
    eventually(lambda: process.keys.is_fresh, "it comes back")
    assert not process.knows(1)
    assert process.knows(2)


def test_a_fault_costs_the_memory_and_hides_no_change(
    processes: Processes, freshness: PostgresFreshness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fault that has nothing to do with the database the process follows anew: keys are accepted again."""
    process = processes.start()
    process.remember(1)
    apply = process.keys.apply

    def fail_once(_: Iterable[Change]) -> None:
        monkeypatch.setattr(process.keys, "apply", apply)
        raise RuntimeError

    monkeypatch.setattr(process.keys, "apply", fail_once)
    eventually(lambda: not process.knows(1) and process.keys.is_fresh, "it comes back with an empty memory")
    process.remember(2)
    assert freshness.await_applied(processes.append(key_id(2))).processes == 1
    assert not process.knows(2)


def test_nothing_relies_on_notifications(processes: Processes, freshness: PostgresFreshness) -> None:
    """A change that is told to nobody is applied by the next lease."""
    process = processes.start()
    process.remember(1)
    processes.ask(
        "INSERT INTO ledger.events (position, stream_id, version, topic, state) VALUES (1, %s, 1, 't', '')", key_id(1)
    )
    assert freshness.await_applied(1).processes == 1
    assert not process.knows(1)


def test_a_notification_that_is_wrong_hides_no_change(processes: Processes, freshness: PostgresFreshness) -> None:
    """Whoever may connect may notify: what is told is reported only as the ledger has it."""
    process = processes.start()
    process.remember(1)
    processes.ask(
        "WITH told AS (SELECT pg_notify('ledger', '1 another'), pg_notify('ledger', '2 another'))"
        " INSERT INTO ledger.events (position, stream_id, version, topic, state)"
        " SELECT 1, %s, 1, 't', '' FROM told",
        key_id(1),
    )
    assert freshness.await_applied(1).processes == 1
    assert not process.knows(1)


def test_a_notification_of_nothing_ends_no_process(processes: Processes, freshness: PostgresFreshness) -> None:
    """Nor does it hide the change that comes in its place."""
    process = processes.start()
    for words in ("1 another", "x", "", f"{10**30} another", "-1 another", "0 another", "1"):
        processes.ask("SELECT pg_notify('ledger', %s)", words)
    process.remember(1)
    freshness.await_applied(processes.append(key_id(1)))
    assert not process.knows(1)
    assert process.keys.is_fresh


def test_what_is_told_is_not_read_again(processes: Processes, freshness: PostgresFreshness) -> None:
    """The next change alone: its report is the one round-trip, and a broken connection costs no memory."""
    process = processes.start()
    process.remember(2)
    assert [freshness.await_applied(processes.append(key_id(1))).processes for _ in range(3)] == [1, 1, 1]
    processes.break_followers()
    freshness.await_applied(processes.append(key_id(1)))
    assert process.knows(2)


def test_the_server_looks_anew_each_time(processes: Processes) -> None:
    """A statement that began before the report ends with it."""
    processes.add_row("run_slow", lease=LEASE)
    seen: list[Any] = []
    asked = "SELECT applied FROM serving.await_applied(5, 1000000)"

    def wait() -> None:
        with psycopg.connect(processes.conninfo, autocommit=True) as connection:
            seen.append(connection.execute(asked).fetchone())

    waiter = Thread(target=wait)
    waiter.start()
    eventually(
        lambda: processes.ask(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep' AND query = %s",
            asked,
        ),
        "it waits",
    )
    processes.ask("UPDATE serving.processes SET applied = 5 WHERE process_id = 'run_slow'")
    waiter.join()
    assert seen == [([5],)]


@contextmanager
def cut_off(processes: Processes, seat: Seat | None, lease: Lease = LEASE) -> Iterator[Serving]:
    """A process that was fresh, and whose connections are open and silent; all have ended afterwards."""
    with Line(processes.conninfo) as line:
        process = processes.start(conninfo=line.conninfo, lease=lease, seat=seat)
        line.fall_silent()
        yield process
        line.speak_again()
        processes.close()


def test_who_was_told_is_not_waited_for(processes: Processes, database: Database, seats: tuple[Seat, Seat]) -> None:
    """A process of the same server that is cut off counts: it refuses what was told, from its next look on."""
    mine, other = seats
    with cut_off(processes, other, Lease(30.0)) as silent:
        silent.remember(1)
        receipt = PostgresFreshness(database, seat=mine).await_applied(processes.append_and_tell(mine, key_id(1)))
        assert receipt.processes == 1
        assert receipt.waited_ms < 30_000
        assert silent.keys.is_fresh
        assert not silent.knows(1)


def test_another_server_is_waited_for_beside_one_that_was_told(
    processes: Processes, database: Database, seats: tuple[Seat, Seat]
) -> None:
    """It cannot have heard."""
    mine, _ = seats
    with cut_off(processes, Board(1).take_seat()) as silent:
        receipt = PostgresFreshness(database, seat=mine).await_applied(processes.append_and_tell(mine, key_id(1)))
        assert receipt.processes == 0
        assert not silent.keys.is_fresh


def test_what_was_not_told_is_waited_for_in_the_same_server(
    processes: Processes, database: Database, seats: tuple[Seat, Seat]
) -> None:
    """A second revoke of a key that somebody else has revoked answers when that is true here, too."""
    mine, other = seats
    with cut_off(processes, other) as silent:
        position = processes.append(key_id(1))
        assert PostgresFreshness(database, seat=mine).await_applied(position).processes == 0
        assert not silent.keys.is_fresh


def test_who_is_waited_for_is_woken(processes: Processes, database: Database, seats: tuple[Seat, Seat]) -> None:
    """A change whose notification was for others: it was to be told, and its author died before."""
    mine, other = seats
    lease = Lease(40.0)
    processes.start(lease=lease, seat=other)
    appended = ([key_id(1)], [next(_numbers)], ["t"], [b"changed"], mine.server)
    position = processes.ask("SELECT ledger.append(%s, %s, %s, %s, %s)", *appended) + 1
    receipt = PostgresFreshness(database, seat=mine).await_applied(position)
    assert receipt.processes == 1
    assert receipt.waited_ms < lease.renewal_seconds * 1000


def test_what_its_server_tells_is_in_the_ledger_for_it_later(processes: Processes, seats: tuple[Seat, Seat]) -> None:
    """It is not woken for it; what others append makes it read both."""
    mine, other = seats
    process = processes.start(seat=other)
    process.remember(1)
    process.remember(2)
    position = processes.append_and_tell(mine, key_id(1))
    assert process.keys.known_through == position
    assert not process.knows(1)
    assert process.knows(2)
    after = processes.append(key_id(3))
    eventually(lambda: process.keys.applied == after, "it reads what others append")
    processes.append_and_tell(mine, key_id(2))
    eventually(lambda: process.keys.applied == after + 1, "and its own by the next lease")
    assert process.keys.is_fresh


def test_a_process_that_was_told_too_much_starts_anew(processes: Processes, seats: tuple[Seat, Seat]) -> None:
    """It has lost some of it, and remembers nothing from before."""
    mine, other = seats
    process = processes.start(seat=other)
    process.remember(1)
    head = processes.append(key_id(9))
    mine.tell([Change(head, key_id(9))] * (CHANGES + 1))
    eventually(lambda: process.keys.is_fresh, "it is fresh again")
    assert not process.knows(1)
    process.remember(1)
    assert process.keys.is_fresh
    assert process.knows(1)


def test_who_takes_a_seat_takes_out_who_had_it(processes: Processes, seats: tuple[Seat, Seat]) -> None:
    """A worker that was killed is not waited for by other servers once it is replaced."""
    _, other = seats
    processes.add_row("run_killed", lease=LEASE)
    processes.add_row("run_elsewhere", lease=LEASE)
    processes.ask(
        "UPDATE serving.processes SET server = %s, seat = %s WHERE process_id = 'run_killed'",
        other.server,
        other.number,
    )
    processes.start(seat=other)
    assert processes.beat("run_killed") is None
    assert processes.beat("run_elsewhere") is not None


def test_changes_are_applied_across_batches(processes: Processes, freshness: PostgresFreshness) -> None:
    """More changes than one read takes: none is left out, and the last one counts."""
    process = processes.start()
    for number in (1, 2, 3):
        process.remember(number)
    others = [f"other_{number}" for number in range(BATCH)]
    position = processes.append(key_id(1), *others, key_id(2), *others)
    assert freshness.await_applied(position).processes == 1
    assert process.keys.applied == position == 2 * BATCH + 2
    assert [process.knows(number) for number in (1, 2, 3)] == [False, False, True]


class WatchedKeys(VerifiedKeys):
    """Notes at each lease until when it goes, and what was applied then."""

    def __init__(self) -> None:
        super().__init__(capacity=1000, fingerprint=bytes, elapsed=elapsed)
        self.leases: list[tuple[float, int]] = []

    def extend(self, fresh_until: float) -> None:
        """As ever."""
        self.leases.append((fresh_until, self.applied))
        super().extend(fresh_until)


def test_a_lease_is_taken_with_all_changes_that_were_committed_before_it(processes: Processes) -> None:
    """However many they are: trusted past a lease from the commit, a process has read its last change, a revoke."""
    keys, name = WatchedKeys(), RunId.from_entropy(entropy(next(_numbers)))
    clock = DatabaseClock(lambda: NOON)
    processes.enter_context(
        LedgerFollower(processes.conninfo, keys=keys, clock=clock, lease=LEASE, process_id=name, host="alpha:1")
    )
    eventually(lambda: keys.is_fresh, "the process is fresh")
    position = processes.append(*(f"other_{number}" for number in range(2 * BATCH)), key_id(1))
    committed_at = elapsed()
    eventually(lambda: keys.applied == position, "it has read them all")
    eventually(lambda: keys.leases[-1][0] >= committed_at + LEASE.seconds, "it is trusted for longer")
    assert {applied for until, applied in keys.leases if until >= committed_at + LEASE.seconds} == {position}


def test_a_process_begins_at_the_head(processes: Processes, freshness: PostgresFreshness) -> None:
    """What was before it is applied by having nothing in memory."""
    position = processes.append(*(f"stream_{number}" for number in range(10)))
    process = processes.start()
    assert process.keys.applied == position
    assert freshness.await_applied(position).processes == 1


def test_another_ledger_than_before_empties_the_memory(processes: Processes) -> None:
    """A database restored from a backup, and gone on since past the position that was applied, is noticed."""
    with Line(processes.conninfo) as line:
        process = processes.start(conninfo=line.conninfo)
        position = processes.append(*(f"stream_{number}" for number in range(5)))
        eventually(lambda: process.keys.applied == position, "it has applied all")
        process.remember(1)
        line.fall_silent()
        processes.break_followers()
        processes.ask("DELETE FROM ledger.events WHERE position > 3")
        processes.append(key_id(1), *(f"stream_{number}" for number in range(5)), word="otherwise")
        line.speak_again()
        eventually(lambda: process.keys.applied == position + 4, "it follows again")
        assert not process.knows(1)
        processes.close()


def test_a_lease_is_on_disk_before_it_is_trusted() -> None:
    """A crash of PostgreSQL takes no beat back: a row that stands still afterwards is that of nobody who is fresh."""
    with TemporaryDirectory(prefix="keyledger-") as place, EmbeddedPostgres(Path(place), say=lambda _: None) as server:
        migrate(server.conninfo)
        with Line(server.conninfo) as line, Processes(server.conninfo) as processes:
            processes.ask("ALTER SYSTEM SET wal_writer_delay = '10s'")  # nothing reaches the disk unless asked for
            processes.ask("SELECT pg_reload_conf()")
            process = processes.start(conninfo=line.conninfo)
            eventually(lambda: (processes.beat(process.name) or 0) > 2, "it has renewed its lease")
            line.fall_silent()
            trusted = processes.beat(process.name)
            crash(server, Path(place))
            with psycopg.connect(server.conninfo) as connection:
                row = connection.execute("SELECT beat FROM serving.processes").fetchone()
            assert row == (trusted,)
            line.speak_again()


def crash(server: EmbeddedPostgres, place: Path) -> None:
    """Ends PostgreSQL as ``pg_ctl stop -m immediate`` does, and starts it again."""
    os.kill(int((place / "postgres" / "postmaster.pid").read_text(encoding="ascii").split()[0]), signal.SIGQUIT)
    eventually(lambda: not server.is_running(), "PostgreSQL is gone")
    server.ensure_running()


def test_the_clock_is_the_database_s(processes: Processes) -> None:
    """A process whose machine is years off judges by the database's time as soon as it is fresh."""
    process = processes.start()
    assert abs(process.clock.now() - processes.ask("SELECT clock_timestamp()")) < timedelta(minutes=1)


def test_until_the_first_answer_it_is_the_machine_s_time() -> None:
    """Commands that never ask still have a time."""
    assert timedelta() <= DatabaseClock(lambda: NOON).now() - NOON < timedelta(minutes=1)


def test_the_first_answer_counts_however_slow() -> None:
    """The machine may be wrong by years, a slow answer only by its slowness."""
    clock = DatabaseClock(lambda: NOON)
    answer = datetime(2030, 1, 1, tzinfo=UTC)
    clock.set(elapsed() - 5, answer)
    assert answer <= clock.now() < answer + timedelta(minutes=1)


def test_a_slow_answer_does_not_move_a_clock_that_is_set() -> None:
    """It tells too little of when it was true."""
    clock = DatabaseClock(lambda: NOON)
    answer = datetime(2030, 1, 1, tzinfo=UTC)
    clock.set(elapsed(), answer)
    clock.set(elapsed() - 5, answer + timedelta(days=1))
    assert answer <= clock.now() < answer + timedelta(minutes=1)

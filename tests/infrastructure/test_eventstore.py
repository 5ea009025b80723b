"""The ledger on PostgreSQL: one total order, nothing missed, races decided, views true at the commit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event as Flag

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError
from psycopg import Cursor
from psycopg.rows import TupleRow

from application.ledger import Ledger, NewVerifier, UnknownAggregateError
from application.verified_keys import Change
from domain.account import Account
from domain.api_key import ApiKey
from domain.credential import Environment
from domain.errors import ConflictError, UnavailableError
from domain.events import Event
from domain.naming import Name
from infrastructure.board import Board
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.postgres.accounts import AccountsView, PostgresAccounts
from infrastructure.postgres.keys import KeysView, PostgresKeys
from infrastructure.postgres.pool import Database
from tests.kit.builders import NOON, a_key, account_id, an_account, key_id, origin

WRITERS = 8
EVENTS_EACH = 60


@pytest.fixture
def recorder(database: Database) -> PostgresRecorder:
    return PostgresRecorder(database, [AccountsView(), KeysView()])


@pytest.fixture
def ledger(recorder: PostgresRecorder) -> Iterator[Ledger]:
    with Ledger(PostgresLedgerFactory(recorder)) as opened:
        yield opened


def test_a_tailing_reader_misses_nothing_and_sees_nothing_twice(ledger: Ledger, recorder: PostgresRecorder) -> None:
    """Eight writers append while a reader follows by position: it reads every event once, in order, without a gap."""
    done = Flag()
    seen: list[int] = []

    def write(number: int) -> None:
        account = an_account(number=number)
        ledger.append(account)
        for turn in range(EVENTS_EACH - 1):
            command = account.reinstate if account.suspended else account.suspend
            command(by=origin(NOON + timedelta(seconds=turn)))
            ledger.append(account)

    def follow() -> None:
        while True:
            finished = done.is_set()
            batch = recorder.select_notifications(seen[-1] if seen else 0, 50, inclusive_of_start=False)
            seen.extend(notification.id for notification in batch)
            if not batch and finished:
                return

    with ThreadPoolExecutor(WRITERS + 1) as threads:
        reader = threads.submit(follow)
        for writing in [threads.submit(write, number) for number in range(1, WRITERS + 1)]:
            writing.result()
        done.set()
        reader.result()
    assert seen == list(range(1, WRITERS * EVENTS_EACH + 1))


def test_positions_have_no_gaps_even_after_a_lost_race(ledger: Ledger) -> None:
    """An append that is refused leaves no hole in the order."""
    ledger.append(an_account(number=1))
    with pytest.raises(IntegrityError):
        ledger.append(an_account(number=1))
    assert ledger.append(an_account(number=2)) == 2


def test_of_concurrent_commands_on_one_aggregate_none_is_lost(ledger: Ledger) -> None:
    """Each of many concurrent commands decides on what the winner before it left."""
    ledger.append(a_key(number=1))

    def rename(number: int) -> int | None:
        return ledger.change(ApiKey, key_id(1), lambda key: key.rename(Name(f"name {number}"), by=origin()))[1]

    with ThreadPoolExecutor(4) as threads:
        positions = list(threads.map(rename, range(12)))
    assert sorted(position for position in positions if position) == list(range(2, 14))
    assert ledger.load(ApiKey, key_id(1)).version == 13


def test_the_board_is_told_what_was_appended_and_nothing_else(database: Database) -> None:
    """Each stream with its position; a race that was lost tells nothing."""
    board = Board(2)
    mine, other = board.take_seat(), board.take_seat()
    assert mine is not None
    assert other is not None
    with Ledger(PostgresLedgerFactory(PostgresRecorder(database, [AccountsView(), KeysView()], mine))) as ledger:
        ledger.append(an_account(number=1), a_key(number=1))
        assert other.read() == [Change(1, account_id(1)), Change(2, key_id(1))]
        with pytest.raises(IntegrityError):
            ledger.append(a_key(number=1))
        assert other.read() == []


def test_a_notification_names_the_server_that_is_told(database: Database, conninfo: str) -> None:
    """Its processes need not be woken; an import is for all to read."""
    seat = Board(1).take_seat()
    assert seat is not None
    with (
        psycopg.connect(conninfo, autocommit=True) as listener,
        Ledger(PostgresLedgerFactory(PostgresRecorder(database, [AccountsView(), KeysView()], seat))) as ledger,
    ):
        listener.execute("LISTEN ledger")
        ledger.append(an_account(number=1))
        ledger.append(a_key(number=1), a_key(number=2))
        told = [notify.payload for notify in listener.notifies(timeout=5, stop_after=2)]
    assert told == [f"1 {account_id(1)} {seat.server}", f"3  {seat.server}"]


def test_several_aggregates_are_appended_together_or_not_at_all(ledger: Ledger, database: Database) -> None:
    """A rotation's two keys are one append: a conflict on one leaves no trace of the other."""
    ledger.append(a_key(number=1))
    with pytest.raises(IntegrityError):
        ledger.append(a_key(number=2), a_key(number=1))
    with pytest.raises(UnknownAggregateError):
        ledger.load(ApiKey, key_id(2))
    assert PostgresKeys(database).find(key_id(2)) is None


def test_an_aggregate_of_another_kind_is_unknown(ledger: Ledger) -> None:
    """An id loads only as what it is."""
    ledger.append(an_account(number=1))
    with pytest.raises(UnknownAggregateError):
        ledger.load(ApiKey, account_id(1))


def test_the_view_is_true_when_the_append_returns(ledger: Ledger, database: Database) -> None:
    """What authentication reads is committed with the event, the verifier and receipt too."""
    keys = PostgresKeys(database)
    ledger.append(an_account())
    position = ledger.append(a_key(number=1), verifiers=(NewVerifier(key_id(1), "$2b$...", b"r" * 32),))
    stored = keys.stored(key_id(1))
    assert stored is not None
    assert (stored.verifier, stored.receipt, stored.facts.position) == ("$2b$...", b"r" * 32, position)
    _, position = ledger.change(ApiKey, key_id(1), lambda key: key.disable(by=origin()))
    after = keys.stored(key_id(1))
    assert after is not None
    assert (after.facts.disabled, after.facts.position) == (True, position)


def test_a_view_that_fails_takes_the_append_with_it(database: Database, ledger: Ledger) -> None:
    """There is no event without its view, and no view without its event."""
    with database.cursor() as cursor:
        cursor.execute("ALTER TABLE views.accounts ADD CONSTRAINT nobody CHECK (name <> 'Relay')")
    with pytest.raises(psycopg.errors.CheckViolation):
        ledger.append(an_account(number=1))
    with pytest.raises(UnknownAggregateError):
        ledger.load(Account, account_id(1))


def test_commands_that_keep_losing_end_in_a_conflict(ledger: Ledger) -> None:
    """A command does not try for ever."""
    ledger.append(a_key(number=1))

    def always_late(key: ApiKey) -> None:
        ledger.append(_renamed(ledger, f"{key.version}"))
        key.rename(Name("late"), by=origin())

    with pytest.raises(ConflictError):
        ledger.change(ApiKey, key_id(1), always_late)


class _Ending:
    """A view whose first event has PostgreSQL take the connection away, in the middle of the append."""

    name = "ending"

    def __init__(self) -> None:
        self._ends = True

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """The connection's own backend ends it."""
        del event, position
        if self._ends:
            self._ends = False
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """There is nothing."""


def test_a_broken_connection_is_unavailable_and_the_next_append_works(database: Database) -> None:
    """PostgreSQL taking the connection away is said in one word, and nothing has to be repaired by hand."""
    ledger = Ledger(PostgresLedgerFactory(PostgresRecorder(database, [AccountsView(), _Ending()])))
    with pytest.raises(UnavailableError):
        ledger.append(an_account(number=1))
    ledger.append(an_account(number=2))
    accounts = PostgresAccounts(database)
    assert (accounts.find(account_id(1)), accounts.find(account_id(2)) is not None) == (None, True)


def test_an_append_is_not_refused_for_a_connection_that_ended_while_it_rested(
    ledger: Ledger, database: Database, conninfo: str
) -> None:
    """It is done over another."""
    ledger.append(an_account(number=1))
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'keyledger'"
        )
    ledger.append(an_account(number=2))
    assert PostgresAccounts(database).find(account_id(2)) is not None


def test_a_page_of_keys_is_the_newest_first_and_continues_where_it_ended(ledger: Ledger, database: Database) -> None:
    """Keyset paging: no key twice, none missed, while keys are added in front."""
    keys = PostgresKeys(database)
    for number in range(1, 6):
        ledger.append(a_key(number=number))
    first = keys.page(account_id(), environment=None, status=None, before=None, limit=2, now=NOON)
    ledger.append(a_key(number=6))
    rest = keys.page(
        account_id(), environment=Environment.LIVE, status=None, before=first[-1].created_position, limit=9, now=NOON
    )
    assert [view.key_id for view in [*first, *rest]] == [key_id(number) for number in (5, 4, 3, 2, 1)]
    assert keys.page(account_id(9), environment=None, status=None, before=None, limit=9, now=NOON) == []
    assert keys.page(account_id(), environment=Environment.DEV, status=None, before=None, limit=9, now=NOON) == []


def _renamed(ledger: Ledger, name: str) -> ApiKey:
    key = ledger.load(ApiKey, key_id(1))
    key.rename(Name(name), by=origin())
    return key

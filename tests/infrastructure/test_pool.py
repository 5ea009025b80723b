"""The pool of connections: who comes alone meets a warm one; and what becomes of those that fail."""

import gc
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from domain.errors import UnavailableError
from infrastructure.postgres.pool import Database, PatientConnection
from tests.kit.proxy import Line

BACKEND = "SELECT pg_backend_pid()"


def backend(database: Database) -> int:
    """The server's process that answers now."""
    with database.cursor() as cursor:
        row = cursor.execute(BACKEND).fetchone()
    assert row is not None
    return row[0]


def burst(database: Database) -> list[int]:
    """The servers' processes of three who come at once; the first's connection is the last to come back."""
    with database.connection() as first, database.connection() as second, database.connection() as third:
        return [connection.info.backend_pid for connection in (first, second, third)]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """No cycle of objects is ever taken apart meanwhile."""
    gc.disable()
    yield
    gc.enable()


def test_who_comes_alone_gets_the_connection_that_was_used_last(database: Database) -> None:
    """However many a burst has opened: that one has its statements prepared."""
    opened = burst(database)
    assert len(set(opened)) == 3
    assert {backend(database) for _ in range(9)} == {opened[0]}


def test_the_connections_of_a_burst_are_there_for_the_next(database: Database) -> None:
    """None is lost to the order."""
    opened = burst(database)
    backend(database)
    assert set(burst(database)) == set(opened)


def test_connections_that_the_server_has_ended_while_they_rested_refuse_nobody(
    database: Database, conninfo: str
) -> None:
    """As after a restart of PostgreSQL: each next caller is served, by new ones."""
    ended = burst(database)
    with psycopg.connect(conninfo, autocommit=True) as other:
        for pid in ended:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    served = [*burst(database), *burst(database)]
    assert not set(served) & set(ended)


def test_who_waits_for_a_server_that_has_fallen_silent_is_refused_long_before_his_statement_may_end(
    conninfo: str,
) -> None:
    """However many connections rest: none of them is waited for after it, and all are new when it speaks again."""
    with (
        Line(conninfo) as line,
        Database(line.conninfo, size_max=8, statement=timedelta(minutes=5)) as database,
        ThreadPoolExecutor() as threads,
    ):
        silent = burst(database)
        line.fall_silent()
        try:
            refusal = threads.submit(backend, database).exception(timeout=20)
        finally:
            line.speak_again()
        assert isinstance(refusal, UnavailableError)
        assert not set(burst(database)) & set(silent)


def test_a_slow_statement_of_a_server_that_answers_others_is_waited_for(database: Database) -> None:
    """Also when it is doubted more than once."""
    with database.cursor() as cursor:
        assert cursor.execute("SELECT 1 FROM pg_sleep(1.3)").fetchall() == [(1,)]


def test_what_may_take_any_time_does_and_the_connection_is_bounded_again_afterwards(conninfo: str) -> None:
    """As rebuilding a view of many rows: neither the server's limit nor ours ends it."""
    with Database(conninfo, size_max=1, statement=timedelta(milliseconds=200)) as database:
        with database.unhurried_transaction() as cursor:
            assert cursor.execute("SELECT 1 FROM pg_sleep(1.8)").fetchall() == [(1,)]
        with pytest.raises(UnavailableError), database.cursor() as cursor:
            cursor.execute("SELECT FROM pg_sleep(1)")
        with database.connection() as connection:
            assert connection.patience_seconds < 2


@pytest.mark.parametrize(("given", "kept"), [({}, "5"), ({"keepalives_idle": 77}, "77")])
def test_a_host_that_is_gone_is_noticed_unless_the_address_says_otherwise(
    conninfo: str, given: dict[str, int], kept: str
) -> None:
    """By the keepalives of the client's own side: those of the server tell the client nothing."""
    with PatientConnection.connect(make_conninfo(conninfo, **given)) as connection:
        assert connection.info.get_parameters()["keepalives_idle"] == kept


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("places", [1, 2])
def test_a_connection_that_could_not_be_made_in_time_is_closed(places: int) -> None:
    """At once, and not when the collector comes by: a server that stands still keeps no place for each attempt."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = str(mute.getsockname()[1])
        conninfo = make_conninfo(host=",".join(["127.0.0.1"] * places), port=",".join([port] * places))
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            PatientConnection.connect(conninfo, connect_timeout=2)
        for _ in range(places):
            accepted, _ = mute.accept()
            with accepted:
                accepted.settimeout(5)
                while accepted.recv(4096):  # until its end
                    pass

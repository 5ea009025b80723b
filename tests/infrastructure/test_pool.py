"""The pool of connections: who comes alone meets a warm one."""

import psycopg

from infrastructure.postgres.pool import Database

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

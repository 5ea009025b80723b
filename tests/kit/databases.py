"""A database that goes away and comes back, or takes no writes for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo


@contextmanager
def away(conninfo: str) -> Iterator[None]:
    """The database takes no connections and has none, until the block ends; its server goes on."""
    name = str(conninfo_to_dict(conninfo)["dbname"])
    door = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(make_conninfo(conninfo, dbname="postgres"), autocommit=True) as connection:
        connection.execute(door.format(sql.Identifier(name), sql.SQL("false")))
        try:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
        finally:
            connection.execute(door.format(sql.Identifier(name), sql.SQL("true")))


@contextmanager
def read_only(conninfo: str) -> Iterator[None]:
    """The database takes no writes, until the block ends: all sessions are ended, and new ones are read-only."""
    name = str(conninfo_to_dict(conninfo)["dbname"])
    alter = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
    with psycopg.connect(make_conninfo(conninfo, dbname="postgres"), autocommit=True) as connection:

        def change(value: str) -> None:
            connection.execute(alter.format(sql.Identifier(name), sql.SQL(value)))
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

        change("on")
        try:
            yield
        finally:
            change("off")

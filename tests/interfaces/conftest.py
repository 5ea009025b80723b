"""One server for the tests of the HTTP contract, and accounts that no other test sees."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.kit.http_answers import StrictClient
from tests.kit.http_server import HttpServer, Key, serving


@pytest.fixture(scope="session")
def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """The server that these tests share; whatever they send it, its log says of nothing that it went wrong inside."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE http TEMPLATE migrated")
    log = tmp_path_factory.mktemp("http") / "log"
    with serving(make_conninfo(postgres, dbname="http"), log) as running:
        yield running
    assert running.troubles() == []


@dataclass(frozen=True, slots=True)
class Owner:
    """An account's live key with full access, and a client that sends it."""

    key: Key
    client: StrictClient


@pytest.fixture
def owner(server: HttpServer) -> Iterator[Owner]:
    """The owner of an account on the largest plan."""
    key = server.back.key(server.back.account())
    with server.client(key.secret) as client:
        yield Owner(key, client)


@pytest.fixture
def stranger(server: HttpServer) -> Iterator[Owner]:
    """The owner of another account."""
    key = server.back.key(server.back.account(), name="Stranger")
    with server.client(key.secret) as client:
        yield Owner(key, client)

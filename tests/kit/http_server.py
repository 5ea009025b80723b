"""The serving process on a database of the test's choice, and the same use cases from inside the test.

`tests.kit.service` runs the whole service as an operator does; this is the HTTP layer alone: quick to start, with the
settings that a test wants, on a database that the test can look into, break, or put a past into.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, Self, cast

import bcrypt
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from application.keys import NewKey
from domain.access import Networks, Plan, Scopes
from domain.credential import Environment
from domain.events import Origin
from domain.ids import AccountId, KeyId
from domain.mail_address import MailAddress
from domain.naming import Name
from interfaces.bootstrap import Core, Management, management, open_core
from interfaces.settings import Settings
from tests.kit.http_answers import ANSWER_SECONDS, HOST, Heard, StrictClient, read_answers
from tests.kit.service import CHECKOUT, eventually, free_port

ROOT_SECRET = "5ec7e7" * 10 + "cafe"
BCRYPT_COST = 10
STOP_SECONDS = 20


class QuickVerifiers:
    """The port `Verifiers` for keys that a test makes by the dozen: bcrypt at its lowest cost, a millisecond.

    The service takes no such verifier; it accepts the keys by their receipts.
    """

    def hash(self, raw: bytes) -> str:
        """A verifier of cost 4."""
        return bcrypt.hashpw(raw, bcrypt.gensalt(4)).decode()

    def verify(self, raw: bytes, verifier: str) -> bool:
        """Whether it was made of these bytes."""
        return bcrypt.checkpw(raw, verifier.encode())


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its secret."""

    id: KeyId
    secret: str = field(repr=False)
    account_id: AccountId

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"/api/keys/{self.id}"


@dataclass(frozen=True, slots=True)
class Back:
    """The use cases on the service's database, for what the API does not offer: accounts, and a past."""

    core: Core
    manage: Management

    def origin(self, ago: timedelta = timedelta()) -> Origin:
        """A test, acting that long ago."""
        return Origin("cli:tester", self.manage.new_request_id(), self.manage.clock.now() - ago)

    def account(self, plan: Plan = Plan.SCALE) -> AccountId:
        """A new account."""
        return self.manage.accounts.open(
            name=Name("Relay"), email=MailAddress("owner@example.com"), plan=plan, by=self.origin()
        ).account_id

    def key(  # noqa: PLR0913 - a key has so many sides
        self,
        account_id: AccountId,
        *,
        name: str = "Owner",
        environment: Environment = Environment.LIVE,
        scopes: list[str] | None = None,
        networks: list[str] | None = None,
        expires_at: datetime | None = None,
        ago: timedelta = timedelta(),
    ) -> Key:
        """A new key of the account, created that long ago."""
        issued = self.manage.keys.create(
            account_id=account_id,
            new=NewKey(
                name=Name(name),
                environment=environment,
                scopes=None if scopes is None else Scopes.parse(scopes),
                networks=None if networks is None else Networks.parse(networks),
                expires_at=expires_at,
            ),
            by=self.origin(ago),
        )
        return Key(issued.key.view.key_id, issued.secret.reveal(), account_id)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A running serving process."""

    port: int
    conninfo: str
    log: Path
    back: Back

    @contextmanager
    def client(self, key: str | None = None) -> Iterator[StrictClient]:
        """A client with a connection of its own."""
        client = StrictClient(self.port, key=key)
        try:
            yield client
        finally:
            client.close()

    def speak(self, *parts: bytes) -> bytes:
        """Sends the bytes as they are; all that came back until the server closed the connection."""
        with socket.create_connection((HOST, self.port), timeout=ANSWER_SECONDS) as line:
            for part in parts:
                line.sendall(part)
            heard = bytearray()
            while chunk := line.recv(65_536):
                heard += chunk
        return bytes(heard)

    def hear(self, *parts: bytes) -> list[Heard]:
        """As `speak`, the answers one by one."""
        return read_answers(self.speak(*parts))

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """The database takes no connections and has none, until the block ends."""
        name = str(conninfo_to_dict(self.conninfo)["dbname"])
        door = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        with psycopg.connect(make_conninfo(self.conninfo, dbname="postgres"), autocommit=True) as connection:
            connection.execute(door.format(sql.Identifier(name), sql.SQL("false")))
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            try:
                yield
            finally:
                connection.execute(door.format(sql.Identifier(name), sql.SQL("true")))

    @contextmanager
    def renamed(self, schema: str, table: str) -> Iterator[None]:
        """The table has another name, so that whatever needs it fails, until the block ends."""
        away = f"{table}_away"
        rename = sql.SQL("ALTER TABLE {}.{} RENAME TO {}")
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(rename.format(*map(sql.Identifier, (schema, table, away))))
            try:
                yield
            finally:
                connection.execute(rename.format(*map(sql.Identifier, (schema, away, table))))

    def rows(self, statement: LiteralString, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """What the database answers."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            return connection.execute(statement, parameters).fetchall()

    def troubles(self) -> list[dict[str, Any]]:
        """The lines of its log that say that something went wrong inside.

        Not among them: granian's parent, whose two threads wait for one child, at times takes a worker that has just
        ended for one that refuses to (granian/server/common.py, `_stop_workers`). The time of a stop is tested apart.
        """
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [
            line
            for line in lines
            if line["level"] in {"warning", "error", "critical"} and not line["event"].startswith("Killing worker-")
        ]

    def head(self) -> int:
        """The ledger's newest position: it moves when, and only when, something changed."""
        return self.rows("SELECT coalesce(max(position), 0) FROM ledger.events")[0][0]


class _Process:
    """A server, from its start until the block ends; ``program`` is what Python is given to run."""

    def __init__(self, program: Sequence[str], port: int, log: Path, environment: Mapping[str, str]) -> None:
        self._program = program
        self._port = port
        self._log = log
        self._environment = dict(environment)

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._program],
                cwd=CHECKOUT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            eventually(self._is_ready, "the server is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, f"the server ended:\n{self._log.read_text(encoding='utf-8')}"
        client = StrictClient(self._port)
        try:
            return client.get("/health/ready").status == 200
        except OSError:
            return False
        finally:
            client.close()


@contextmanager
def serving(
    conninfo: str, log: Path, *, program: Sequence[str] = ("-m", "interfaces.http.server"), **settings: str
) -> Iterator[HttpServer]:
    """The server on that migrated database; ``settings`` by their fields' names, the test itself a trusted proxy."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
    own = {
        "database_url": conninfo,
        "secret_keys": ROOT_SECRET,
        "bcrypt_cost": str(BCRYPT_COST),
        "log_format": "json",
        "trusted_proxies": HOST,
        "port": str(port),
    } | settings
    environment = inherited | {f"KEYLEDGER_{name.upper()}": value for name, value in own.items()}
    with ExitStack() as stack:
        inside = Settings(
            database_url=conninfo, secret_keys=(ROOT_SECRET,), bcrypt_cost=BCRYPT_COST, database_connections=2
        )
        core = replace(open_core(inside, conninfo, stack), verifiers=cast("Any", QuickVerifiers()))
        stack.enter_context(_Process(program, port, log, environment))
        yield HttpServer(port, conninfo, log, Back(core, management(core)))

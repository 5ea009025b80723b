"""Appends to the ledger: our recorder, with and without the views of its events, against the library's own.

    .venv/bin/python ops/bench/ledger.py [--seconds 4] [--rounds 3] [--writers 8] [--rows 200000] [--rates-only]

Each has a database of its own on a PostgreSQL that is started in a temporary directory, and a table that already holds
`rows` events; each append is one `key.created`. Measured: one writer alone, `writers` processes together, and the
longest that an append took while a maintenance statement ran on the table. The three take turns, round by round, so
that whatever else the machine does meets them alike. Prints one table in Markdown, of each measure the median of the
rounds, and in brackets the best round: the one that the machine's other work disturbed least.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from application.event_json import EventJson
from application.ledger import NewVerifier
from domain.api_key import ApiKey
from domain.credential import Environment
from domain.events import Origin
from domain.ids import AccountId, KeyId
from domain.naming import Name
from infrastructure.embedded_postgres import EmbeddedPostgres
from infrastructure.eventstore import PostgresRecorder
from infrastructure.postgres.accounts import AccountsView
from infrastructure.postgres.campaigns import CampaignsView
from infrastructure.postgres.keys import KeysView
from infrastructure.postgres.migrate import migrate
from infrastructure.postgres.pool import Database
from infrastructure.postgres.usage import UsageTotals

Append = Callable[[StoredEvent], object]
STATEMENT_AFTER_SECONDS = 1.0
MAINTENANCE = {
    "VACUUM": "VACUUM {table}",
    "CREATE INDEX CONCURRENTLY": "CREATE INDEX CONCURRENTLY extra ON {table} (topic)",
    "CREATE INDEX": "CREATE INDEX extra ON {table} (topic)",
    "VACUUM FULL": "VACUUM FULL {table}",
}
FILL_OURS = """
    INSERT INTO ledger.events (position, stream_id, version, topic, state)
    SELECT n, 'old_' || n, 1, %(topic)s, %(state)s FROM generate_series(1, %(rows)s) AS n
"""
FILL_LIBRARY = """
    INSERT INTO stored_events (originator_id, originator_version, topic, state)
    SELECT 'old_' || n, 1, %(topic)s, %(state)s FROM generate_series(1, %(rows)s) AS n
"""
VERIFIER = "$2b$12$" + "x" * 53
MS = 1000


class Timed(NamedTuple):
    """One append, in the seconds of the monotonic clock, which all processes of a machine share."""

    began: float
    ended: float


def event(number: str) -> StoredEvent:
    """A `key.created` of a key with that number."""
    key = ApiKey.create(
        KeyId(f"key_{number}"),
        by=Origin("key:key_7Hq2mB9xT", "req_000000000000000000000", datetime.now(UTC)),
        account_id=AccountId("acc_000000000000"),
        name=Name("Production API"),
        environment=Environment.LIVE,
        prefix="sk_live_7Hq2mB9xT",
        verifier_digest="0" * 64,
    )
    return EventJson().to_stored_event(key.pending_events[0])


def ours(conninfo: str, stack: ExitStack, *, views: bool) -> Append:
    """Our recorder; with `views` an append also writes what a create writes: the views, and a verifier in the vault."""
    database = stack.enter_context(Database(conninfo, size_max=2))
    if not views:
        return lambda stored: PostgresRecorder(database, []).insert_events([stored])
    recorder = PostgresRecorder(database, [AccountsView(), KeysView(), CampaignsView(), UsageTotals()])

    def append(stored: StoredEvent) -> object:
        verifier = NewVerifier(str(stored.originator_id), VERIFIER, bytes(32))
        return recorder.insert_events([stored], verifiers=(verifier,))

    return append


def library(conninfo: str, stack: ExitStack) -> PostgresApplicationRecorder:
    """The library's recorder as it comes, with text ids."""
    given = conninfo_to_dict(conninfo)
    datastore = PostgresDatastore(
        str(given["dbname"]), str(given["host"]), str(given["port"]), str(given["user"]), "", originator_id_type="text"
    )
    stack.callback(datastore.close)
    return PostgresApplicationRecorder(datastore, events_table_name="stored_events")


def library_append(conninfo: str, stack: ExitStack) -> Append:
    """Appends through the library's recorder."""
    recorder = library(conninfo, stack)
    return lambda stored: recorder.insert_events([stored])


def ours_bare(conninfo: str, stack: ExitStack) -> Append:
    """Our recorder without views."""
    return ours(conninfo, stack, views=False)


def ours_with_views(conninfo: str, stack: ExitStack) -> Append:
    """Our recorder as the service uses it."""
    return ours(conninfo, stack, views=True)


@dataclass(frozen=True, slots=True)
class Contender:
    """What is measured: its name, the table of its events, and how a process opens it."""

    name: str
    schema: str
    table: str
    opened: Callable[[str, ExitStack], Append]


CONTENDERS = (
    Contender("the library's recorder", "public", "stored_events", library_append),
    Contender("ours, no views", "ledger", "events", ours_bare),
    Contender("ours, with its views and vault", "ledger", "events", ours_with_views),
)


def write(contender: Contender, conninfo: str, name: str, start: Any, seconds: float, results: Any) -> None:  # noqa: PLR0913, PLR0917 - a process's arguments
    """One writer: appends one event after another for so long."""
    done: list[Timed] = []
    first = event(f"{name}_0")
    with ExitStack() as stack:
        append = contender.opened(conninfo, stack)
        append(first)
        start.wait()
        until = time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            append(StoredEvent(f"key_{name}_{len(done) + 1}", 1, first.topic, first.state))
            done.append(Timed(began, time.monotonic()))
    results.put(done)


def run(
    contender: Contender, conninfo: str, *, writers: int, seconds: float, statement: str = ""
) -> tuple[list[Timed], Timed]:
    """All appends of so many writers, and when the statement ran."""
    spawn = get_context("spawn")
    start, results = spawn.Barrier(writers + 1), spawn.SimpleQueue()
    run_id = time.monotonic_ns()
    processes = [
        spawn.Process(target=write, args=(contender, conninfo, f"{run_id}_{number}", start, seconds, results))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        start.wait()
        time.sleep(STATEMENT_AFTER_SECONDS if statement else 0)
        began = time.monotonic()
        if statement:
            connection.execute(statement.format(table=f"{contender.schema}.{contender.table}").encode())
        ended = time.monotonic()
        done = [timed for _ in processes for timed in results.get()]
        for process in processes:
            process.join()
        connection.execute(f"DROP INDEX IF EXISTS {contender.schema}.extra".encode())
    return done, Timed(began, ended)


def prepare(contender: Contender, conninfo: str, rows: int) -> None:
    """The tables, and so many events in them."""
    stored = event("old")
    with ExitStack() as stack:
        if contender.schema == "ledger":
            migrate(conninfo)
            fill = FILL_OURS
        else:
            library(conninfo, stack).create_table()
            fill = FILL_LIBRARY
        connection = stack.enter_context(psycopg.connect(conninfo, autocommit=True))
        connection.execute(fill, {"topic": stored.topic, "state": stored.state, "rows": rows})
        connection.execute("CHECKPOINT")


def measured(
    contender: Contender, conninfo: str, *, writers: int, seconds: float, maintenance: dict[str, str]
) -> dict[str, float]:
    """One round: each measure by its heading."""
    alone = _ms(run(contender, conninfo, writers=1, seconds=seconds)[0])
    together = _ms(run(contender, conninfo, writers=writers, seconds=seconds)[0])
    found = {
        "1 writer, p50 ms": statistics.median(alone),
        f"{writers} writers, appends/s": len(together) / seconds,
        f"{writers} writers, p50 ms": statistics.median(together),
        f"{writers} writers, p99 ms": statistics.quantiles(together, n=100)[98],
    }
    for name, statement in maintenance.items():
        done, ran = run(contender, conninfo, writers=writers, seconds=seconds, statement=statement)
        beside = _ms([timed for timed in done if timed.began < ran.ended and timed.ended > ran.began])
        found[f"{name} took, ms"] = MS * (ran.ended - ran.began)
        found[f"longest append beside {name}, ms"] = max(beside, default=0.0)
    return found


def _ms(done: Sequence[Timed]) -> list[float]:
    return [MS * (timed.ended - timed.began) for timed in done]


def main() -> None:
    """Measures all and prints the table, a line for each measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rates-only", action="store_true", help="without the maintenance statements")
    asked = parser.parse_args()
    maintenance = {} if asked.rates_only else MAINTENANCE
    with TemporaryDirectory(prefix="keyledger-") as place, EmbeddedPostgres(Path(place)) as server:
        databases: dict[Contender, str] = {}
        for number, contender in enumerate(CONTENDERS):
            name = f"bench_{number}"
            with psycopg.connect(server.conninfo, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            databases[contender] = make_conninfo(server.conninfo, dbname=name)
            prepare(contender, databases[contender], asked.rows)
        rounds = [
            {
                contender: measured(
                    contender, conninfo, writers=asked.writers, seconds=asked.seconds, maintenance=maintenance
                )
                for contender, conninfo in databases.items()
            }
            for _ in range(asked.rounds)
        ]
    print("| |" + "|".join(f" {contender.name} " for contender in CONTENDERS) + "|")
    print("|---" * (len(CONTENDERS) + 1) + "|")
    for measure in rounds[0][CONTENDERS[0]]:
        best = max if measure.endswith("/s") else min
        each = [[found[contender][measure] for found in rounds] for contender in CONTENDERS]
        cells = [f" {statistics.median(values):,.2f} ({best(values):,.2f}) " for values in each]
        print(f"| {measure} |" + "|".join(cells) + "|")


if __name__ == "__main__":
    main()

"""Metrics of all processes together: each tells its own once a second, and whoever is asked adds them up.

A process's row holds what it has counted since it began; the counts of a process that is gone are added to those of the
ended ones, in the step that takes its row out. So every count is in the sum once, whoever ends or dies.

A sum may fall once after a crash of PostgreSQL, which takes back the last second: nobody waits for the disk. A process
that lives tells its totals again a second later; what one told that began or ended in that second is lost. Prometheus
takes a sum that fell for one that began anew at zero: a rate over that moment has all that was ever counted in it.

A process that was killed has no session any more, and its row is taken out within seconds. One that stands still, or is
cut off without PostgreSQL's notice, keeps its session and its row, whose lease is then seen to run out.
"""

from contextlib import suppress
from threading import Event as Flag
from threading import Thread
from typing import Any, Final, Self

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from domain.ids import RunId
from infrastructure.metrics import Metrics
from infrastructure.postgres.pool import Database, PatientConnection

TELL_SECONDS = 1.0
HELP: Final = {
    "keyledger_requests_total": ("counter", "Requests answered, by route, status and true outcome."),
    "keyledger_request_seconds": ("histogram", "Time to answer, by route."),
    "keyledger_key_hits_total": ("counter", "Credentials that were found in memory."),
    "keyledger_key_lookups_total": ("counter", "Credentials that were not remembered and had to be looked up."),
    "keyledger_change_wait_seconds": ("histogram", "What revokes and other changes waited for all processes."),
    "keyledger_job_runs_total": ("counter", "Runs of the background jobs, by result."),
    "keyledger_job_seconds_total": ("counter", "Time that the background jobs took."),
    "keyledger_deliveries_total": ("counter", "Attempts to deliver webhooks and mails, by channel and result."),
    "keyledger_delivery_seconds_total": ("counter", "Time that these attempts took."),
    "keyledger_cached_keys": ("gauge", "Keys that serving processes remember, all together."),
    "keyledger_lease_seconds": ("gauge", "What is left of the shortest lease; negative: one answers 503 or nothing."),
    "keyledger_access_log_queue_rows": ("gauge", "Access rows that wait to be written, all together."),
    "keyledger_processes": ("gauge", "Serving processes that follow the ledger."),
    "keyledger_leaders": ("gauge", "Background processes that lead: 1, or 0 when nobody runs the jobs."),
    "keyledger_settle_lag_seconds": ("gauge", "Age of the oldest accepted use that no event has settled."),
    "keyledger_partitions_ahead": ("gauge", "Days after today that have their access-log partition."),
    "keyledger_partitions": ("gauge", "Days that the access log has partitions for."),
    "keyledger_workflow_stuck": ("gauge", "Processes that wait for `keyledger workflow resume`."),
    "keyledger_workflow_overdue_seconds": ("gauge", "How long the oldest timer of a process has been due."),
    "keyledger_stopped": ("gauge", "Views, channels of the outbox and workflows that stopped at an event."),
}  # fmt: skip


class MetricsTeller:
    """A context manager: its thread tells PostgreSQL what this process has counted, the last time when it is left.

    A process that was taken for gone, and was not, goes on with what it has counted since.
    """

    BEGIN = """
        INSERT INTO serving.metrics (process_id, counters, gauges, told_at)
        VALUES (%(process)s, %(counters)s, %(gauges)s, clock_timestamp())
        ON CONFLICT (process_id) DO UPDATE
        SET counters = excluded.counters, gauges = excluded.gauges, told_at = excluded.told_at
    """
    GO_ON = """
        UPDATE serving.metrics SET counters = %(counters)s, gauges = %(gauges)s, told_at = clock_timestamp()
        WHERE process_id = %(process)s
    """
    # Ten seconds: a process that has lost its session alone has another by then, and `KeyledgerLeaseLost` waits longer.
    # In the order of the series, so that two that end at the same time do not wait for each other.
    TAKE_OUT = """
        WITH gone AS (
            DELETE FROM serving.metrics
            WHERE process_id = %(process)s AND %(ends)s
               OR told_at < clock_timestamp() - interval '15 minutes'
               OR told_at < clock_timestamp() - interval '10 seconds' AND NOT EXISTS (
                      SELECT FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'keyledger metrics ' || process_id
                  )
            RETURNING counters
        )
        INSERT INTO serving.metrics_of_ended AS e (series, total)
        SELECT c.key, sum(c.value::double precision)
        FROM gone, jsonb_each_text(gone.counters) AS c GROUP BY c.key ORDER BY c.key
        ON CONFLICT (series) DO UPDATE SET total = e.total + excluded.total
    """

    def __init__(self, conninfo: str, metrics: Metrics, *, process_id: RunId) -> None:
        self._conninfo = conninfo
        self._metrics = metrics
        self._process_id = process_id
        self._begun = False
        self._told: dict[str, float] = {}
        self._ended: dict[str, float] = {}  # of what was told, what has been added to the ended ones
        self._stop = Flag()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._metrics.counters()  # adds up also while nobody can be told, so that memory stays bounded
            with suppress(psycopg.Error):  # the next second tells the same again; others say that the database is away
                self._tell_on_and_on()
            self._stop.wait(TELL_SECONDS)

    def _tell_on_and_on(self) -> None:
        with PatientConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=2,
            application_name=f"keyledger metrics {self._process_id}",
        ) as connection:
            connection.patience_seconds = 2 * TELL_SECONDS
            connection.execute("SET synchronous_commit = off")
            connection.execute("SET statement_timeout = '2s'")
            while not self._stop.wait(TELL_SECONDS):
                self._tell(connection)
                connection.execute(self.TAKE_OUT, {"process": self._process_id, "ends": False})
            with connection.transaction():
                self._tell(connection)
                connection.execute(self.TAKE_OUT, {"process": self._process_id, "ends": True})

    def _tell(self, connection: Connection[TupleRow]) -> None:
        counters = self._metrics.counters()
        if self._begun and connection.execute(self.GO_ON, self._values(counters)).rowcount == 0:
            self._begun, self._ended = False, self._told
        if not self._begun:
            connection.execute(self.BEGIN, self._values(counters))
            self._begun = True
        self._told = counters

    def _values(self, counters: dict[str, float]) -> dict[str, Any]:
        since = {series: total - self._ended.get(series, 0) for series, total in counters.items()}
        return {"process": self._process_id, "counters": Jsonb(since), "gauges": Jsonb(self._metrics.gauges())}


class PostgresMetrics:
    """The metrics of the whole service, as Prometheus reads them (text format 0.0.4)."""

    # One statement, one snapshot: a process that ends meanwhile is in it once.
    COUNTERS = """
        SELECT series, sum(total) FROM (
            SELECT series, total FROM serving.metrics_of_ended
            UNION ALL
            SELECT c.key, c.value::double precision FROM serving.metrics, jsonb_each_text(counters) AS c
        ) AS each GROUP BY series
    """
    # A lease was told with what was left of it then, and is told again each second: what is later than two is silence.
    GAUGES = """
        SELECT g.key, sum(g.value::double precision)
        FROM serving.metrics, jsonb_each_text(gauges) AS g
        WHERE told_at > clock_timestamp() - interval '10 seconds' AND g.key <> 'keyledger_lease_seconds' GROUP BY g.key
        UNION ALL
        SELECT 'keyledger_lease_seconds', lease_seconds
        FROM (SELECT min((gauges ->> 'keyledger_lease_seconds')::double precision
                         - greatest(extract(epoch FROM clock_timestamp() - told_at) - 2, 0))
              FROM serving.metrics) AS shortest (lease_seconds)
        WHERE lease_seconds IS NOT NULL
    """
    STATE = """
        SELECT (SELECT count(*) FROM serving.processes),
               (SELECT count(*) FROM pg_locks
                WHERE locktype = 'advisory' AND classid = 0 AND objid = 7310308 AND granted
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())),
               (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(first_used_at)), 0) FROM usage.live_counts),
               count(*) FILTER (WHERE to_date(right(c.relname, 8), 'YYYYMMDD') > (now() AT TIME ZONE 'UTC')::date),
               count(*),
               (SELECT count(*) FROM workflow.processes WHERE state = 'stuck'),
               (SELECT greatest(coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0), 0)
                FROM workflow.timers),
               (SELECT count(error) FROM (
                    SELECT error FROM views.progress
                    UNION ALL SELECT error FROM outbox.progress
                    UNION ALL SELECT error FROM workflow.progress
                ) AS followers)
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'usage.access_log'::regclass
    """
    STATES = (
        "keyledger_processes", "keyledger_leaders", "keyledger_settle_lag_seconds", "keyledger_partitions_ahead",
        "keyledger_partitions", "keyledger_workflow_stuck", "keyledger_workflow_overdue_seconds",
        "keyledger_stopped",
    )  # fmt: skip

    def __init__(self, database: Database) -> None:
        self._database = database

    def scrape(self) -> str:
        """Every series of every process; UnavailableError without the database."""
        with self._database.cursor() as cursor:
            rows: list[tuple[str, float]] = cursor.execute(self.COUNTERS).fetchall()
            rows += cursor.execute(self.GAUGES).fetchall()
            state = cursor.execute(self.STATE).fetchone() or ()
        return exposition(dict(rows) | dict(zip(self.STATES, map(float, state), strict=True)))


def exposition(series: dict[str, float]) -> str:
    """The text format: for each metric its help and type, then its series; those of a histogram by rising ``le``."""
    lines: list[str] = []
    for name, (kind, words) in HELP.items():
        lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        own = [key for key in series if key.partition("{")[0] in {name + suffix for suffix in suffixes}]
        lines += [f"{key} {series[key]!r}" for key in sorted(own, key=_order)]
    return "\n".join(lines) + "\n"


def _order(key: str) -> tuple[str, float]:
    before, bucket, le = key.partition('le="')
    return (before, float(le.rstrip('"}')) if bucket else 0.0)

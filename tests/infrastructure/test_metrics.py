"""Metrics of several processes on PostgreSQL: each count in the sum once, whoever ends, dies or was taken for dead."""

import signal
import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from domain.ids import RunId
from infrastructure.metrics import Metrics
from infrastructure.postgres.metrics import HELP, MetricsTeller, PostgresMetrics, exposition
from infrastructure.postgres.pool import Database
from infrastructure.system import SystemEntropy
from tests.kit.service import eventually

CACHED = "keyledger_cached_keys"
STOPPED = "keyledger_stopped"
KIND = ("/api/keys", 200, "ok")
REQUESTS = 'keyledger_requests_total{route="/api/keys",status="200",outcome="ok"}'
OLD = "UPDATE serving.metrics SET told_at = told_at - interval '16 minutes' WHERE process_id = %s"


def counted(database: Database) -> int:
    """The requests in a scrape."""
    lines = dict(line.rsplit(" ", 1) for line in PostgresMetrics(database).scrape().splitlines() if line[0] != "#")
    return int(float(lines.get(REQUESTS, "0")))


def count(metrics: Metrics, times: int) -> None:
    for _ in range(times):
        metrics.count_requests(*KIND, [3.0])


def is_counted(database: Database, total: int) -> Callable[[], bool]:
    return lambda: counted(database) == total


def test_one_scrape_has_the_counts_of_all_processes_and_of_those_that_ended(database: Database) -> None:
    """Two processes count; one ends; the sum is what both have counted, before and after."""
    first, second = Metrics(), Metrics()
    entropy = SystemEntropy()
    with MetricsTeller(database.conninfo, first, process_id=entropy.new(RunId)):
        with MetricsTeller(database.conninfo, second, process_id=entropy.new(RunId)):
            count(first, 5)
            count(second, 7)
            eventually(is_counted(database, 12), "both are told")
            count(second, 1)
        assert counted(database) == 13
        count(first, 2)
    assert counted(database) == 15
    with psycopg.connect(database.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM serving.metrics").fetchall() == [(0,)]


def test_a_process_taken_for_dead_is_counted_once(database: Database) -> None:
    """Its row is added to the ended ones by another; it goes on, and no count is twice or lost."""
    silent, other = Metrics(), Metrics()
    entropy = SystemEntropy()
    silent_id = entropy.new(RunId)
    with (
        MetricsTeller(database.conninfo, other, process_id=entropy.new(RunId)),
        psycopg.connect(database.conninfo, autocommit=True) as connection,
    ):
        with MetricsTeller(database.conninfo, silent, process_id=silent_id):
            count(silent, 5)
            eventually(is_counted(database, 5), "it is told")
            take_out = MetricsTeller.TAKE_OUT
            with connection.transaction():
                connection.execute(OLD.encode(), [silent_id])
                connection.execute(take_out.encode(), {"process": "", "ends": False})
            assert counted(database) == 5
            count(silent, 3)
            eventually(is_counted(database, 8), "it goes on")
        assert counted(database) == 8


TELL = """
import sys
from threading import Event
from infrastructure.metrics import Metrics
from infrastructure.postgres.metrics import MetricsTeller
metrics = Metrics()
metrics.watch(gauges={"keyledger_lease_seconds": lambda: 2.0, "keyledger_cached_keys": lambda: 3}, totals={})
with MetricsTeller(sys.argv[1], metrics, process_id=sys.argv[2]):
    Event().wait()
"""


def test_the_lease_of_a_process_that_stands_still_is_seen_to_run_out(database: Database) -> None:
    """Until it is killed: its session ends with it, and its row is taken out; its other gauges are dropped before."""
    process_id = str(SystemEntropy().new(RunId))

    def gauges() -> dict[str, float]:
        lines = (line.rsplit(" ", 1) for line in PostgresMetrics(database).scrape().splitlines())
        return {name: float(value) for name, value in lines if name in {"keyledger_lease_seconds", CACHED}}

    def take_out() -> None:
        with database.cursor() as cursor:
            cursor.execute(MetricsTeller.TAKE_OUT.encode(), {"process": "", "ends": False})

    with subprocess.Popen([sys.executable, "-c", TELL, database.conninfo, process_id]) as process:
        try:
            eventually(lambda: 0 < gauges().get("keyledger_lease_seconds", 0) <= 2, "it tells what is left")
            process.send_signal(signal.SIGSTOP)
            eventually(lambda: gauges()["keyledger_lease_seconds"] < 0, "its lease has run out")
            with database.cursor() as cursor:
                cursor.execute("UPDATE serving.metrics SET told_at = told_at - interval '5 minutes'")
            take_out()
            told = gauges()
            assert list(told) == ["keyledger_lease_seconds"]
            assert told["keyledger_lease_seconds"] < -290
        finally:
            process.kill()

    def is_taken_out() -> bool:
        take_out()
        return not gauges()

    eventually(is_taken_out, "nothing is left of the killed one")


@pytest.mark.parametrize("follower", ["views", "outbox", "workflow"])
def test_what_has_stopped_at_an_event_is_counted(database: Database, follower: str) -> None:
    """A view, a channel or a workflow with its error on record; none when it goes on."""
    table = sql.Identifier(follower, "progress")
    stop = sql.SQL("UPDATE {0} SET error = 'no' WHERE ctid = (SELECT min(ctid) FROM {0})").format(table)
    go_on = sql.SQL("UPDATE {} SET error = NULL").format(table)

    def stopped() -> list[str]:
        return [line for line in PostgresMetrics(database).scrape().splitlines() if line.startswith(STOPPED)]

    assert stopped() == [f"{STOPPED} 0.0"]
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("INSERT INTO views.progress (view, position) VALUES ('a view', 0)")  # the others are there
        connection.execute(stop)
        assert stopped() == [f"{STOPPED} 1.0"]
        connection.execute(go_on)
    assert stopped() == [f"{STOPPED} 0.0"]


def test_durations_are_cumulative_buckets() -> None:
    """A histogram as Prometheus has it: each bucket holds all that are at most its bound; the bound itself is in."""
    metrics = Metrics()
    metrics.count_requests(*KIND, [0.2, 0.5])
    metrics.count_requests(*KIND, [3.0, 9000.0])
    counters = metrics.counters()

    def bucket(bound: str) -> float:
        return counters[f'keyledger_request_seconds_bucket{{route="/api/keys",le="{bound}"}}']

    assert [bucket(bound) for bound in ("0.0005", "0.0025", "0.005", "2.5", "+Inf")] == [2, 2, 3, 3, 4]
    assert counters['keyledger_request_seconds_count{route="/api/keys"}'] == 4
    assert metrics.counters() == counters


def test_jobs_are_counted_by_result() -> None:
    """Runs by result, and the time that they took."""
    metrics = Metrics()
    metrics.count_job("settlement", "done", 0.5)
    metrics.count_job("settlement", "failed", 0.25)
    assert metrics.counters() == {
        'keyledger_job_runs_total{task="settlement",result="done"}': 1,
        'keyledger_job_runs_total{task="settlement",result="failed"}': 1,
        'keyledger_job_seconds_total{task="settlement"}': 0.75,
    }


def test_the_text_has_every_metric_with_its_type_and_buckets_in_order() -> None:
    """The text format, version 0.0.4."""
    metrics = Metrics()
    count(metrics, 1)
    lines = exposition(metrics.counters()).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == list(HELP)
    bounds = [line.partition('le="')[2].partition('"')[0] for line in lines if "_bucket{" in line]
    assert bounds == sorted(bounds, key=float)
    assert bounds[-1] == "+Inf"

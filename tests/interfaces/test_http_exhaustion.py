"""Rows that cannot be inserted, a pool without a connection: what is refused, what is kept, and that it passes."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.kit.http_server import HttpServer, serving
from tests.kit.load import Load
from tests.kit.service import eventually

BEHIND_ROWS = 2_000
"""So many rows may wait for a writer that is behind before answers do, as the settings say."""
REFUSE = """
    CREATE FUNCTION usage.refuse() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''no rows today''; END';
    CREATE TRIGGER refuse BEFORE INSERT ON usage.access_log FOR EACH ROW EXECUTE FUNCTION usage.refuse();
"""
TAKE_BACK = "DROP FUNCTION usage.refuse() CASCADE"
IDS = "SELECT request_id FROM usage.access_log"


@contextmanager
def no_row_can_be_inserted(conninfo: str) -> Iterator[None]:
    """Each INSERT into the access log fails, until the block ends."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(REFUSE)
        try:
            yield
        finally:
            eventually(lambda: _taken_back(connection), "the trigger is dropped")


def _taken_back(connection: psycopg.Connection) -> bool:
    """False when a batch and the drop have locked what the other needs next, and the drop was given up."""
    with suppress(psycopg.errors.DeadlockDetected):
        connection.execute(TAKE_BACK)
        return True
    return False


def loaded(server: HttpServer, **more: object) -> Load:
    """Load with a good key."""
    return Load(server.port, server.back.key(server.back.account()).secret, **more)  # type: ignore[arg-type]


def ids(load: Load, status: int) -> set[str]:
    """The request ids of the answers with this status."""
    return {answer.request_id for answer in load.answers if answer.status == status}


def rows_of(server: HttpServer) -> set[str]:
    """The request ids in the log; none is there twice."""
    found = [row[0] for row in server.rows(IDS)]
    assert len(found) == len(set(found))
    return set(found)


def test_no_answer_without_its_row(conninfo: str, tmp_path: Path) -> None:
    """`commit`: while each INSERT fails every answer is 503 and leaves nothing; afterwards answers and rows again."""
    with serving(conninfo, tmp_path / "log") as own, loaded(own) as load:
        eventually(lambda: load.count() >= 50, "requests are answered")
        with no_row_can_be_inserted(conninfo):
            began = len(load.answers)
            eventually(lambda: load.count(503, since=began) >= 2 * load.callers, "requests are refused")
            refused_from = began + 2 * load.callers
            assert load.count(200, since=refused_from) == 0
        since = len(load.answers)
        eventually(lambda: load.count(since=since) >= 50, "requests are answered again")
        load.stop()
        rows = rows_of(own)
        assert rows == ids(load, 200)
        assert load.unanswered == []


def test_a_server_that_cannot_log_is_not_ready(conninfo: str, tmp_path: Path) -> None:
    """`commit`: no request is sent there for a while; it is tried again though no row has been written."""
    with serving(conninfo, tmp_path / "log") as own, own.client(own.back.key(own.back.account()).secret) as client:

        def ready() -> int:
            return client.get("/health/ready").status

        assert (client.get("/api/campaigns").status, ready()) == (200, 200)
        with no_row_can_be_inserted(conninfo):
            assert (client.get("/api/campaigns").status, ready()) == (503, 503)
            eventually(lambda: ready() == 200, "it is tried again")
            assert (client.get("/api/campaigns").status, ready()) == (503, 503)
        assert (client.get("/api/campaigns").status, ready()) == (200, 200)


def test_buffered_rows_are_kept_until_there_are_too_many(conninfo: str, tmp_path: Path) -> None:
    """`buffered`: while each INSERT fails answers go on, to the bound; then 503; later each request has its row."""
    with (
        serving(conninfo, tmp_path / "log", access_log_durability="buffered") as own,
        loaded(own, paths=("/auth/forward",)) as load,
    ):
        eventually(lambda: load.count() >= 50, "requests are answered")
        with no_row_can_be_inserted(conninfo):
            began = len(load.answers)
            eventually(lambda: load.count(503, since=began) >= load.callers, "it is refused at the bound")
            # Rows of the last before the INSERTs failed wait with the others.
            assert len(load.answers) - len(rows_of(own)) >= BEHIND_ROWS
            kept = len(load.answers)
        eventually(lambda: load.count(since=kept) >= 50, "requests are answered again")
        load.stop()
        assert {answer.status for answer in load.answers} == {200, 503}
        everything = ids(load, 200) | ids(load, 503)
        eventually(lambda: rows_of(own) == everything, "a row for each request")
        # What was answered, also to a request whose answer was given up.
        refused = own.rows("SELECT request_id FROM usage.access_log WHERE status = 503")
        assert {row[0] for row in refused} == ids(load, 503)
        assert load.unanswered == []


def test_a_pool_without_a_free_connection_refuses_what_needs_one(conninfo: str, tmp_path: Path) -> None:
    """All of the pool's connections wait for a lock: who needs one is refused in bounded time, the others are served.

    The access log has a connection of its own, so each of these answers has its row; once the lock is gone all is well.
    """
    with (
        serving(conninfo, tmp_path / "log", database_connections="2") as own,
        loaded(own, paths=("/auth/forward",), callers=2) as remembered,
        loaded(own, paths=("/api/campaigns",), callers=6) as reading,
        psycopg.connect(conninfo) as other,
    ):
        eventually(lambda: min(remembered.count(), reading.count()) >= 50, "requests are answered")
        other.execute("LOCK TABLE views.campaigns IN ACCESS EXCLUSIVE MODE")
        began, calm = len(reading.answers), len(remembered.answers)
        eventually(lambda: reading.count(503, since=began) >= 4, "who finds no connection is refused")
        assert remembered.count(since=calm) >= 50
        other.rollback()
        since = len(reading.answers)
        eventually(lambda: reading.count(since=since) >= 50, "requests are answered again")
        reading.stop()
        remembered.stop()
        assert {answer.status for answer in remembered.answers} == {200}
        answered = [ids(load, status) for load in (reading, remembered) for status in (200, 503)]
        assert rows_of(own) == set().union(*answered)
        assert reading.unanswered == remembered.unanswered == []

"""`buffered` answers before its rows are committed: how far before, when the writer stands still."""

from pathlib import Path

import psycopg

from tests.kit.http_server import serving
from tests.kit.service import eventually

OK_ROWS = "SELECT count(*) FROM usage.access_log WHERE status = 200"


def test_answers_wait_for_a_writer_that_stands_still(conninfo: str, tmp_path: Path) -> None:
    """At both doors: 503 long before the queue is full, and every 200 has its row when the writer goes on."""
    with serving(conninfo, tmp_path / "log", access_log_durability="buffered") as server:
        key = server.back.key(server.back.account()).secret
        answers = list[int]()
        for path in ("/auth/forward", "/api/campaigns"):
            with server.client(key) as client:
                answers.append(client.get(path).status)
                with psycopg.connect(conninfo) as blocker:
                    blocker.execute("LOCK TABLE usage.writers")
                    while answers[-1] == 200:
                        assert len(answers) < 2_000, "no answer waits"
                        answers.append(client.get(path).status)
                assert answers[-1] == 503
                eventually(lambda: client.get("/health/ready").status == 200, "rows are taken again")
        eventually(lambda: server.rows(OK_ROWS)[0][0] == answers.count(200), "each 200 has its row")

"""When the service cannot answer: it says so in the one error body, gives nothing away, and recovers by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.kit.http_answers import StrictClient
from tests.kit.http_server import HttpServer, serving
from tests.kit.service import eventually

OPAQUE = b'{"error":{"code":"INTERNAL_ERROR","message":"Internal server error"}}'


@pytest.fixture
def own(conninfo: str, tmp_path: Path) -> Iterator[HttpServer]:
    """A server of the test's own, to break."""
    with serving(conninfo, tmp_path / "log") as running:
        yield running


@pytest.fixture
def client(own: HttpServer) -> Iterator[StrictClient]:
    """A client with a good key."""
    with own.client(own.back.key(own.back.account()).secret) as opened:
        yield opened


def test_without_its_database_the_service_refuses_and_comes_back(own: HttpServer, client: StrictClient) -> None:
    """Database gone: every protected route is a 503, the process lives; back: served again, nothing changed between."""
    campaign = client.post("/api/campaigns", {"name": "Before"}).json
    head = own.head()
    with own.database_away():
        eventually(lambda: client.get("/api/campaigns").status == 503, "keys cannot be proven any more")
        for method, path, body in (
            ("GET", "/api/keys", ...),
            ("POST", "/api/campaigns", {"name": "During"}),
            ("POST", "/api/keys", {"name": "During", "environment": "live"}),
            ("GET", "/api/keys/key_000000000", ...),
            ("POST", "/api/verify", {"key": "x"}),
        ):
            heard = client.call(method, path, body)
            assert heard.status == 503, (method, path)
            assert int(heard.header("retry-after") or 0) >= 1
        assert client.get("/health/ready").status == 503
        assert client.get("/health/live").status == 200
        assert client.get("/nowhere").status == 404
        with own.client() as stranger:
            assert stranger.get("/api/campaigns", key="nonsense").status == 503
    eventually(lambda: client.get("/health/ready").status == 200, "the service is ready again")
    eventually(lambda: client.get("/api/campaigns").status == 200, "the key is accepted again")
    assert client.get("/api/campaigns").json["data"] == [campaign]
    assert own.head() == head
    assert [line for line in own.troubles() if line["level"] == "error" and line["event"] == "unhandled_error"] == []


def test_an_answer_that_cannot_be_logged_is_not_given(own: HttpServer, client: StrictClient) -> None:
    """`commit`: while access rows cannot be written there is a 503 and no answer; then there are answers again."""
    client.post("/api/campaigns", {"name": "Not for the unlogged"})
    with own.renamed("usage", "access_log"):
        heard = client.get("/api/campaigns")
    assert heard.status == 503
    eventually(lambda: client.get("/api/campaigns").status == 200, "requests are answered again")
    query = "SELECT status FROM usage.access_log WHERE request_id = %(id)s"
    assert own.rows(query, {"id": heard.request_id}) == []


TALK_NONSENSE = """
    DELETE FROM usage.writers;
    ALTER TABLE usage.runs RENAME TO runs_away;
    CREATE VIEW usage.runs AS SELECT DISTINCT run_id, 'NaN'::numeric AS settled_through FROM usage.access_log;
"""
TALK_SENSE = "DROP VIEW usage.runs; ALTER TABLE usage.runs_away RENAME TO runs"


def test_a_process_whose_log_has_ended_is_replaced(own: HttpServer) -> None:
    """The log's writer meets what nobody foresaw: its process, which can answer nothing any more, makes way."""
    key = own.back.key(own.back.account()).secret

    def is_served() -> bool:
        try:
            with own.client(key) as client:
                return client.get("/api/campaigns").status == 200
        except OSError:  # it is ending
            return False

    assert is_served()
    with psycopg.connect(own.conninfo, autocommit=True) as connection:
        connection.execute(TALK_NONSENSE)
        assert not is_served()
        connection.execute(TALK_SENSE)
    eventually(is_served, "another process serves")
    assert "uncaught_exception" in {line["event"] for line in own.troubles()}


def test_buffered_answers_go_on_without_the_log(conninfo: str, tmp_path: Path) -> None:
    """`buffered`: while rows cannot be written requests are answered, and their rows are written later."""
    with (
        serving(conninfo, tmp_path / "log", access_log_durability="buffered") as own,
        own.client(own.back.key(own.back.account()).secret) as client,
    ):
        with own.renamed("usage", "access_log"):
            assert [client.get("/api/campaigns").status for _ in range(5)] == [200] * 5
        eventually(lambda: own.rows("SELECT count(*) FROM usage.access_log") == [(5,)], "the rows are written")


def test_a_failure_inside_is_opaque_and_logged(own: HttpServer, client: StrictClient) -> None:
    """A route that breaks: the opaque 500 with its request id and access row; the log alone holds what happened."""
    with own.renamed("views", "campaigns"):
        heard = client.get("/api/campaigns")
    assert (heard.status, heard.body) == (500, OPAQUE)
    query = "SELECT status, outcome FROM usage.access_log WHERE request_id = %(id)s"
    assert own.rows(query, {"id": heard.request_id}) == [(500, "ok")]
    [trouble] = own.troubles()
    assert trouble["event"] == "unhandled_error"
    assert "UndefinedTable" in trouble["exception"]
    assert client.get("/api/keys").status == 200


def test_a_failure_of_the_gate_lets_nobody_in(own: HttpServer) -> None:
    """When looking up a key breaks, the answer is the opaque 500, and the route is not reached."""
    key = own.back.key(own.back.account()).secret
    head = own.head()
    with own.renamed("credentials", "verifiers"), own.client(key) as client:
        heard = client.post("/api/campaigns", {"name": "x"})
    assert (heard.status, heard.body) == (500, OPAQUE)
    assert own.head() == head


def test_what_a_route_takes_can_be_asked(own: HttpServer) -> None:
    """OPTIONS on any route: 204 from the framework, without a key and without an access row."""
    with own.client() as client:
        for path in ("/api/keys", "/health/live"):
            heard = client.call("OPTIONS", path)
            assert (heard.status, heard.body) == (204, b"")
            assert "OPTIONS" in (heard.header("allow") or "")
    assert own.rows("SELECT count(*) FROM usage.access_log") == [(0,)]


def test_a_proxy_s_question_that_cannot_be_logged_is_a_503_in_the_log_s_line_too(
    own: HttpServer, client: StrictClient
) -> None:
    """The canonical line of the request has the status that was answered, of a key that was accepted before."""
    assert [client.get("/auth/forward").status for _ in range(2)] == [200, 200]
    with own.renamed("usage", "access_log"):
        heard = client.get("/auth/forward")
    assert heard.status == 503

    def lines() -> list[int]:
        written = map(json.loads, own.log.read_text(encoding="utf-8").splitlines())
        return [line["status"] for line in written if line.get("request_id") == heard.request_id]

    eventually(lines, "the request's line")
    assert lines() == [503]

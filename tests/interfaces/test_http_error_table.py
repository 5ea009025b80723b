"""The table of errors that clients rely on, executed: each row is had by asking for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from domain.access import Plan
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import Heard
from tests.kit.http_server import HttpServer, serving
from tests.kit.service import eventually

FORBIDDEN = "Insufficient permissions for this resource"
INVALID = "Invalid API key"
Ask = Callable[[HttpServer, Owner], Heard]


def key_without(server: HttpServer, owner: Owner) -> str:
    """A key of the account that has one scope, and not the one that is asked for."""
    return server.back.key(owner.key.account_id, scopes=["usage:read"]).secret


def fenced(server: HttpServer, owner: Owner) -> str:
    """A key of the account that works elsewhere."""
    return server.back.key(owner.key.account_id, networks=["192.0.2.0/24"]).secret


def free(server: HttpServer) -> str:
    """A key of an account on the smallest plan."""
    return server.back.key(server.back.account(Plan.FREE)).secret


def rotated_when_revoked(server: HttpServer, owner: Owner) -> Heard:
    """A rotation of a key that was revoked."""
    key = server.back.key(owner.key.account_id)
    owner.client.post(f"{key.path}/revoke")
    return owner.client.post(f"{key.path}/rotate")


def fence(key: str, owner: Owner) -> Heard:
    """A key with networks, asked for with that key."""
    asked = {"name": "x", "environment": "live", "allowed_ips": ["192.0.2.0/24"]}
    return owner.client.post("/api/keys", asked, key=key)


TABLE: list[tuple[int, str, str | None, str, Ask]] = [
    (400, "BAD_REQUEST", None, "unreadable JSON", lambda _, o: o.client.call("POST", "/api/keys", body=b"{")),
    (400, "BAD_REQUEST", None, "bad cursor", lambda _, o: o.client.get("/api/keys?cursor=x")),
    (401, "UNAUTHORIZED", INVALID, "no key", lambda _, o: o.client.get("/api/keys", headers=[("Authorization", "")])),
    (401, "UNAUTHORIZED", INVALID, "malformed", lambda _, o: o.client.get("/api/keys", key="nonsense")),
    (403, "FORBIDDEN", FORBIDDEN, "unknown campaign", lambda _, o: o.client.get("/api/campaigns/cmp_0000000000000000")),
    (403, "FORBIDDEN", FORBIDDEN, "missing scope", lambda s, o: o.client.get("/api/keys", key=key_without(s, o))),
    (403, "FORBIDDEN", FORBIDDEN, "plan", lambda s, o: fence(free(s), o)),
    (403, "FORBIDDEN", FORBIDDEN, "network", lambda s, o: o.client.get("/api/keys", key=fenced(s, o))),
    (404, "NOT_FOUND", None, "unknown path", lambda _, o: o.client.get("/nowhere")),
    (404, "NOT_FOUND", None, "unknown key", lambda _, o: o.client.get("/api/keys/key_000000000")),
    (405, "METHOD_NOT_ALLOWED", None, "method", lambda _, o: o.client.call("DELETE", "/api/keys")),
    (409, "CONFLICT", None, "rotating a revoked key", rotated_when_revoked),
    (413, "PAYLOAD_TOO_LARGE", None, "body", lambda _, o: o.client.call("POST", "/api/keys", body=b"x" * 70_000)),
    (422, "VALIDATION_FAILED", None, "out of range", lambda _, o: o.client.get("/api/keys?limit=0")),
]


@pytest.mark.parametrize(
    ("status", "code", "message", "when", "ask"), TABLE, ids=[f"{row[0]} {row[3]}" for row in TABLE]
)
def test_an_error_is_that_of_its_row(  # noqa: PLR0913, PLR0917 - a row's columns
    server: HttpServer, owner: Owner, status: int, code: str, message: str | None, when: str, ask: Ask
) -> None:
    """Status, code and words as the table has them; `details` for validation alone."""
    heard = ask(server, owner)
    error = heard.json["error"]
    assert (heard.status, error["code"]) == (status, code), when
    assert message in {None, error["message"]}
    assert ("details" in error) is (status == 422)


def test_the_rows_of_a_bad_day(conninfo: str, tmp_path: Path) -> None:
    """429 in its words, 500 that tells nothing, 503: each in the error body."""
    with (
        serving(conninfo, tmp_path / "log", failed_attempts_per_minute="1") as own,
        own.client(own.back.key(own.back.account()).secret) as client,
    ):
        here = [("X-Forwarded-For", "192.0.2.1")]
        told = [client.get("/api/keys", key="guess", headers=here) for _ in range(2)][1:]
        with own.renamed("views", "campaigns"):
            told.append(client.get("/api/campaigns"))
        with own.database_away():
            eventually(lambda: client.get("/api/keys").status == 503, "keys cannot be proven")
            told.append(client.get("/api/keys"))
    assert [heard.status for heard in told] == [429, 500, 503]
    assert [heard.json["error"]["code"] for heard in told] == ["RATE_LIMITED", "INTERNAL_ERROR", "UNAVAILABLE"]
    assert told[0].json["error"]["message"] == "Too many failed attempts"

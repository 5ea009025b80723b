"""`POST /api/verify` under bad input, and what a check leaves behind.

`test_http_verify.py` has the codes.
"""

from __future__ import annotations

from typing import Any

import pytest

from domain.credential import Environment
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import another_address
from tests.kit.http_server import HttpServer

NOT_FOUND = b'{"valid":false,"code":"NOT_FOUND"}'

BAD: list[tuple[Any, list[str]]] = [
    ({}, ["key"]),
    ({"key": None}, ["key"]),
    ({"key": 1}, ["key"]),
    ({"key": "k", "secret": "x"}, ["secret"]),
    ({"key": "k", "environment": "production"}, ["environment"]),
    ({"key": "k", "environment": "LIVE"}, ["environment"]),
    ({"key": "k", "scopes": "campaigns:read"}, ["scopes"]),
    ({"key": "k", "scopes": ["campaigns:fly"]}, ["scopes"]),
    ({"key": "k", "scopes": ["campaigns:read"] * 33}, ["scopes"]),
    ({"key": "k", "scopes": [1]}, ["scopes[0]"]),
    ({"key": "k", "ip": "192.0.2.0/24"}, ["ip"]),
    ({"key": "k", "ip": "192.0.2.1:443"}, ["ip"]),
    ({"key": "k", "ip": ""}, ["ip"]),
    ({"key": "k", "method": "M" * 17}, ["method"]),
    ({"key": "k", "path": "/" * 2049}, ["path"]),
]


@pytest.mark.parametrize(("asked", "fields"), BAD, ids=[f"{fields[0]}-{n}" for n, (_, fields) in enumerate(BAD)])
def test_a_question_that_cannot_be_meant_is_told_so(
    server: HttpServer, owner: Owner, asked: Any, fields: list[str]
) -> None:
    """422 with the field; nothing is checked, so only the caller's own row is left."""
    heard = owner.client.post("/api/verify", asked)
    assert heard.fields == fields
    query = "SELECT key_id FROM usage.access_log WHERE request_id = %(id)s"
    assert server.rows(query, {"id": heard.request_id}) == [(owner.key.id,)]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"k"', b'{"key": "\xff"}', b'{"key": "\\ud800"}'])
def test_a_body_that_is_no_question_is_refused(owner: Owner, body: bytes) -> None:
    """Not JSON, not an object, not text: 400 or 422, never a check."""
    assert owner.client.post("/api/verify", body=body).status in {400, 422}


@pytest.mark.parametrize("asked", [{"ip": "2001:db8::1"}, {"ip": "::ffff:192.0.2.9"}, {}, {"scopes": []}])
def test_what_is_left_out_is_not_asked(owner: Owner, asked: dict[str, Any]) -> None:
    """Without environment, scopes or address a key without limits is VALID wherever it comes from."""
    told = owner.client.post("/api/verify", {"key": owner.key.secret, **asked}).json
    assert (told["valid"], told["code"], told["key_id"]) == (True, "VALID", owner.key.id)


def test_what_the_checked_key_may_not_do_does_not_matter_to_the_caller(server: HttpServer, owner: Owner) -> None:
    """A caller with `keys:verify` alone asks about scopes that it lacks, and about keys of other environments."""
    caller = server.back.key(owner.key.account_id, scopes=["keys:verify"])
    checked = server.back.key(owner.key.account_id, environment=Environment.DEV, scopes=["campaigns:*"])
    asked = {"key": checked.secret, "environment": "dev", "scopes": ["campaigns:write", "campaigns:read"]}
    told = owner.client.post("/api/verify", asked, key=caller.secret).json
    assert (told["code"], told["environment"], told["scopes"]) == ("VALID", "dev", ["campaigns:*"])


def test_a_check_of_anothers_key_leaves_nothing_with_its_owner(
    server: HttpServer, owner: Owner, stranger: Owner
) -> None:
    """Good, demanded in another environment or from elsewhere: NOT_FOUND, no row of the key, nothing counted on it."""
    fenced = server.back.key(stranger.key.account_id, networks=["192.0.2.0/24"], scopes=["usage:read"])
    for more in ({}, {"environment": "dev"}, {"scopes": ["keys:write"]}, {"ip": another_address()}):
        for key in (stranger.key, fenced):
            heard = owner.client.post("/api/verify", {"key": key.secret, **more})
            assert (heard.status, heard.body) == (200, NOT_FOUND)
    query = "SELECT count(*) FROM usage.access_log WHERE key_id = ANY(%(keys)s) OR account_id = %(account)s"
    of_stranger = {"keys": [stranger.key.id, fenced.id], "account": stranger.key.account_id}
    assert server.rows(query, of_stranger) == [(0,)]
    told = stranger.client.get(fenced.path).json
    assert (told["request_count"], told["failed_attempts"], told["last_used_at"]) == (0, 0, None)


def test_the_row_of_a_check_holds_no_key_and_no_query(server: HttpServer, owner: Owner) -> None:
    """A key in the path, however it is written, is logged by its prefix; a query and an origin are not logged."""
    key = owner.key.secret
    prefix = key.rpartition("_")[0]
    for path, logged in (
        (f"/x/{key}?{key}", f"/x/{prefix}\u2026"),
        (f"https://u:{key}@h/x/{key.replace('_', '%5F')}#{key}", f"/x/{prefix}\u2026"),
        ("/\x00\x1f", "/\ufffd\x1f"),
        ("", "/api/verify"),
    ):
        heard = owner.client.post("/api/verify", {"key": key, "path": path, "method": "GET"})
        query = "SELECT method, endpoint FROM usage.access_log WHERE request_id = %(id)s ORDER BY seq"
        assert server.rows(query, {"id": heard.request_id}) == [("GET", logged), ("POST", "/api/verify")]

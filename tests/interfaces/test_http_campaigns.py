"""`/api/campaigns`: the platform's own resource, in the environment of the key that asks."""

from __future__ import annotations

import pytest

from domain.credential import Environment
from tests.interfaces.conftest import Owner
from tests.kit.http_answers import TIME
from tests.kit.http_server import HttpServer

FORBIDDEN = b'{"error":{"code":"FORBIDDEN","message":"Insufficient permissions for this resource"}}'


def test_a_campaign_is_told_whole(owner: Owner) -> None:
    """201 with id, name, environment and time; the single answer and the list hold the same."""
    heard = owner.client.post("/api/campaigns", {"name": " Backend engineers "})
    body = heard.json
    assert heard.status == 201
    assert list(body) == ["id", "name", "environment", "created_at"]
    assert body["id"].startswith("cmp_")
    assert (body["name"], body["environment"]) == ("Backend engineers", "live")
    assert TIME.fullmatch(body["created_at"])
    assert owner.client.get(f"/api/campaigns/{body['id']}").json == body
    assert owner.client.get("/api/campaigns").json == {"data": [body], "next_cursor": None}


def test_campaigns_are_listed_newest_first(owner: Owner) -> None:
    """The newest stands first."""
    made = [owner.client.post("/api/campaigns", {"name": name}).json for name in "abc"]
    assert owner.client.get("/api/campaigns").json["data"] == made[::-1]


def test_a_campaign_that_is_not_the_callers_is_forbidden_like_one_that_never_was(
    server: HttpServer, owner: Owner, stranger: Owner
) -> None:
    """Another account's, another environment's, an unknown and a malformed id: 403 with the same bytes and headers."""
    theirs = stranger.client.post("/api/campaigns", {"name": "Theirs"}).json["id"]
    staging = server.back.key(owner.key.account_id, environment=Environment.STAGING)
    elsewhere = owner.client.post("/api/campaigns", {"name": "Staged"}, key=staging.secret).json
    assert elsewhere["environment"] == "staging"
    ids = [theirs, elsewhere["id"], "cmp_0000000000000000", "cmp_", "x", "%00", "%F0%9F%94%91", "a" * 10_000]
    answers = [owner.client.get(f"/api/campaigns/{campaign}").told() for campaign in ids]
    assert answers == [answers[0]] * len(ids)
    assert (answers[0][0], answers[0][2]) == (403, FORBIDDEN)
    assert "www-authenticate" not in answers[0][1]
    assert owner.client.get(f"/api/campaigns/{elsewhere['id']}", key=staging.secret).json == elsewhere


@pytest.mark.parametrize("environment", Environment)
def test_a_key_sees_the_campaigns_of_its_environment(
    server: HttpServer, owner: Owner, environment: Environment
) -> None:
    """Made and listed in the key's own environment, whichever others the account has campaigns in."""
    keys = {each: server.back.key(owner.key.account_id, environment=each).secret for each in Environment}
    made = {each: owner.client.post("/api/campaigns", {"name": each.value}, key=keys[each]).json for each in keys}
    assert owner.client.get("/api/campaigns", key=keys[environment]).json["data"] == [made[environment]]

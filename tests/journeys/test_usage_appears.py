"""Use of a key is counted exactly: at once from its rows, and with the same totals once they are settled."""

from typing import Any

import pytest

from tests.kit.http import Client
from tests.kit.service import Service, eventually

pytestmark = pytest.mark.journey

ROUNDS = 7


def counts(key: dict[str, Any]) -> tuple[int, int]:
    """A key's requests and failed attempts, as its body tells them."""
    return key["request_count"], key["failed_attempts"]


def settled(client: Client, key_id: str) -> list[dict[str, Any]]:
    """The settled uses in the key's history."""
    return [event for event in client.pages(f"/api/keys/{key_id}/events") if event["type"] == "key.used"]


def test_use_appears_at_once_and_settles_to_the_same_totals(service: Service) -> None:
    """Requests and failed attempts over both workers are in the very next listing, and as `key.used` in the history."""
    with service.client(service.demo_key) as owner:
        new = {"name": "Measured", "environment": "live", "scopes": ["campaigns:read"]}
        key = owner.done("POST", "/api/keys", new)
        assert (counts(key), key["last_used_at"]) == ((0, 0), None)
        forged = key["key"][:-1] + ("0" if key["key"][-1] != "0" else "1")
        requests = failed = 0
        listed: dict[str, Any] = {}
        workers = service.client_of_each_worker(service.demo_key)
        for _ in range(ROUNDS):
            for client in workers.values():
                assert client.get("/api/campaigns", key=key["key"]).status == 200
                assert client.get("/api/campaigns/cmp_0000000000000000", key=key["key"]).status == 403
                requests += 2  # the key was accepted; the campaign is not the account's
                assert client.get("/api/campaigns", key=forged).status == 401
                assert client.post("/api/campaigns", {"name": "No"}, key=key["key"]).status == 403
                failed += 2  # a wrong key of this id; a scope that it lacks
            listed = {entry["id"]: entry for entry in owner.pages("/api/keys")}
            assert counts(listed[key["id"]]) == (requests, failed)
        last_used_at = listed[key["id"]]["last_used_at"]
        assert last_used_at > key["created_at"]

        def is_settled() -> bool:
            uses = settled(owner, key["id"])
            return sum(use["data"]["requests"] + use["data"]["failed_attempts"] for use in uses) >= requests + failed

        eventually(is_settled, "all use of the key is settled")
        uses = [use["data"] for use in settled(owner, key["id"])]
        assert (sum(use["requests"] for use in uses), sum(use["failed_attempts"] for use in uses)) == (requests, failed)
        assert {use["run_id"] for use in uses} == set(workers)
        after = owner.done("GET", f"/api/keys/{key['id']}")
        assert counts(after) == (requests, failed)
        # A window of failures alone has no use, and so no last one.
        last_of_each = [use["last_used_at"] for use in uses if use["requests"]]
        assert after["last_used_at"] == last_used_at == max(last_of_each)
        for client in workers.values():
            client.close()

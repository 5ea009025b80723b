"""Webhooks over real processes: each delivery verified by its receiver, and bad receivers that cost nobody else."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.kit.http import Client
from tests.kit.service import Service, eventually
from tests.kit.webhooks import WebhookReceiver, listening

pytestmark = pytest.mark.journey

MEGABYTE = 2**20
RSS_GROWTH_MAX = 64 * MEGABYTE
ATTEMPT_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Story:
    """A service that may send to the loopback, its owner, and a receiver there."""

    service: Service
    owner: Client
    receiver: WebhookReceiver

    def endpoint(self, path: str, *events: str) -> dict[str, Any]:
        """A new endpoint at that path of the receiver."""
        body = {"url": self.receiver.url(path), "events": list(events or ("key.*",))}
        return self.owner.done("POST", "/api/webhooks", body)

    def deliveries(self, endpoint: dict[str, Any]) -> list[dict[str, Any]]:
        """The endpoint's deliveries, newest first."""
        return self.owner.pages(f"/api/webhooks/{endpoint['id']}/deliveries")

    def key(self) -> dict[str, Any]:
        """Something to tell."""
        return self.owner.done("POST", "/api/keys", {"name": "Told", "environment": "live"})

    def has(self, path: str, count: int) -> list[dict[str, Any]]:
        """The requests at that path, once there are as many."""
        eventually(lambda: len(self.receiver.hits(path)) >= count, f"{path} was sent {count}")
        return self.receiver.hits(path)

    def clean(self) -> None:
        """No endpoint is left."""
        for each in self.owner.pages("/api/webhooks"):
            assert self.owner.request("DELETE", f"/api/webhooks/{each['id']}").status == 204


@pytest.fixture(scope="module")
def running() -> Iterator[Story]:
    settings = {"webhook_allowed_networks": "127.0.0.0/8", "webhook_timeout_seconds": ATTEMPT_SECONDS}
    with TemporaryDirectory(prefix="keyledger-") as directory:
        place = Path(directory)
        with (
            WebhookReceiver(place / "receiver") as receiver,
            Service(place, **settings) as service,
            service.client(service.demo_key) as owner,
        ):
            yield Story(service, owner, receiver)


@pytest.fixture
def story(running: Story) -> Iterator[Story]:
    yield running
    running.clean()


def test_each_delivery_of_a_keys_life_verifies(story: Story) -> None:
    """Created, changed, rotated, revoked: the receiver's own package takes each, once, and the log says 204."""
    endpoint = story.endpoint("/life", "*")
    story.receiver.knows(endpoint["secret"])
    key = story.key()
    path = f"/api/keys/{key['id']}"
    story.owner.done("PATCH", path, {"name": "Renamed"})
    story.owner.done("POST", f"{path}/disable")
    story.owner.done("POST", f"{path}/enable")
    story.owner.done("POST", f"{path}/rotate")
    story.owner.done("POST", f"{path}/revoke", {"reason": "compromised"})
    hits = story.has("/life", 7)
    assert [hit["verified_by"] for hit in hits] == [0] * 7
    bodies = sorted((json.loads(hit["body"]) for hit in hits), key=lambda body: body["data"]["position"])
    assert sorted(body["type"] for body in bodies) == sorted(
        ["key.created", "key.updated", "key.updated", "key.updated", "key.rotated", "key.created", "key.revoked"]
    )
    assert len({hit["headers"]["webhook-id"] for hit in hits}) == 7

    def all_delivered() -> bool:
        return [each["status"] for each in story.deliveries(endpoint)] == ["delivered"] * 7

    eventually(all_delivered, "the log says so")
    attempts = [each["attempts"] for each in story.deliveries(endpoint)]
    assert [(len(made), made[0]["status"], made[0]["error"]) for made in attempts] == [(1, 204, None)] * 7
    assert all(key["key"].rpartition("_")[2] not in hit["body"] for hit in hits)


def test_tampering_replay_and_an_old_secret_are_refused(story: Story) -> None:
    """By the receiver, which answers 401: a changed body, a changed time, and after its grace the secret before."""
    endpoint = story.endpoint("/guarded")
    story.receiver.knows(endpoint["secret"])
    story.key()
    (hit,) = story.has("/guarded", 1)
    sent, body = dict(hit["headers"]), hit["body"]
    earlier = str(int(sent["webhook-timestamp"]) - 3600)
    assert say(story.receiver, sent, body) == 204
    assert say(story.receiver, sent, body.replace("Told", "Toll")) == 401
    assert say(story.receiver, sent | {"webhook-timestamp": earlier}, body) == 401
    assert say(story.receiver, sent | {"webhook-id": "msg_another"}, body) == 401
    path = f"/api/webhooks/{endpoint['id']}/rotate-secret"
    second = story.owner.done("POST", path, {"grace_seconds": 3600})["secret"]
    for known in (endpoint["secret"], second):
        story.receiver.knows(known)
        before = len(story.receiver.hits("/guarded"))
        story.key()
        assert story.has("/guarded", before + 1)[-1]["verified_by"] == 0
    third = story.owner.done("POST", path, {"grace_seconds": 0})["secret"]
    # The first one's grace goes on: no later rotation shortens it.
    for known, by in (((second, third), 1), ((endpoint["secret"], third), 0)):
        story.receiver.knows(*known)
        before = len(story.receiver.hits("/guarded"))
        story.key()
        assert story.has("/guarded", before + 1)[-1]["verified_by"] == by
    story.receiver.knows(second)
    assert say(story.receiver, story.receiver.hits("/guarded")[-1]["headers"], "{}") == 401


def say(receiver: WebhookReceiver, headers: dict[str, str], body: str) -> int:
    """What the receiver answers to that request."""
    connection = HTTPConnection("127.0.0.1", receiver.port, timeout=30)
    named = {name: value for name, value in headers.items() if name.startswith("webhook-")}
    connection.request("POST", "/said", body=body.encode(), headers=named)
    status = connection.getresponse().status
    connection.close()
    return status


BAD = {
    "/500": ("pending", 500),
    "/301": ("pending", 301),
    "/410": ("failed", 410),
    "/429": ("pending", 429),
    "/drip": ("delivered", 200),
    "/drip-head": ("pending", None),
    "/huge": ("delivered", 200),
    "/head": ("pending", None),
    "/bomb": ("delivered", 200),
}


def test_bad_receivers_are_held_to_the_promises(story: Story) -> None:
    """Each by its status: the schedule, `Retry-After`, an end; redirects go nowhere, and no memory is lost to them."""
    before = rss(story.service)
    with listening() as listener:
        asked = {"/301": f"?to=http://127.0.0.1:{listener.port}/", "/429": "?after=120"}
        endpoints = {path: story.endpoint(path + asked.get(path, "")) for path in BAD}
        good = story.endpoint("/good", "*")
        story.receiver.knows(good["secret"])
        story.key()
        story.has("/good", 1)
        found: dict[str, dict[str, Any]] = {}

        def all_tried() -> bool:
            for path, endpoint in endpoints.items():
                found[path] = story.deliveries(endpoint)[0]
            return all(each["attempts"] for each in found.values())

        eventually(all_tried, "each was tried")
    grown = rss(story.service) - before
    words = f"background process: {before / MEGABYTE:.0f} MB, {grown / MEGABYTE:+.1f} MB beside 1 GB and a bomb"
    print(f"\n{words}")  # noqa: T201 - a figure
    first = {path: delivery["attempts"][0] for path, delivery in found.items()}
    assert {path: attempt["status"] for path, attempt in first.items()} == {p: status for p, (_, status) in BAD.items()}
    assert {path: found[path]["status"] for path in BAD} == {path: state for path, (state, _) in BAD.items()}
    assert listener.accepted == 0
    assert grown < RSS_GROWTH_MAX
    for path, least, most in (("/500", 4.5, 5.5), ("/301", 4.5, 5.5), ("/429", 120, 120), ("/head", 4.5, 5.5)):
        if len(found[path]["attempts"]) == 1:  # others are past it, on a slow machine
            ended = instant(first[path]["at"]) + first[path]["latency_ms"] / 1000
            wait = instant(found[path]["next_attempt_at"]) - ended
            assert least - 0.1 <= wait <= most + 5, path

    def gone() -> bool:
        found = story.owner.done("GET", f"/api/webhooks/{endpoints['/410']['id']}")
        return (found["status"], found["disabled_reason"]) == ("disabled", "gone")

    eventually(gone, "the endpoint that is gone is disabled")


def instant(text: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def rss(service: Service) -> int:
    """What the background process holds, in bytes."""
    (process,) = service.background()
    return process.memory_info().rss


def test_a_delivery_can_be_tested_and_made_again_by_hand(story: Story) -> None:
    """`test` sends one `webhook.test` to its endpoint alone; `retry` repeats it under its id."""
    endpoint, other = story.endpoint("/tested", "key.revoked"), story.endpoint("/other", "*")
    story.receiver.knows(endpoint["secret"])
    promised = story.owner.request("POST", f"/api/webhooks/{endpoint['id']}/test")
    assert promised.status == 202
    delivery = promised.json()["id"]
    story.has("/tested", 1)

    def is_delivered() -> bool:
        return [each["status"] for each in story.deliveries(endpoint)] == ["delivered"]

    eventually(is_delivered, "the log says so")
    path = f"/api/webhooks/{endpoint['id']}/deliveries/{delivery}/retry"
    assert story.owner.request("POST", path).status == 202
    hits = story.has("/tested", 2)
    assert [(hit["headers"]["webhook-id"], json.loads(hit["body"])["type"]) for hit in hits] == [
        (delivery, "webhook.test")
    ] * 2
    eventually(is_delivered, "the log says so again")
    assert (len(story.deliveries(endpoint)[0]["attempts"]), story.deliveries(other)) == (2, [])


def test_the_api_answers_as_fast_beside_bad_receivers(story: Story, full: bool) -> None:
    """Requests while nothing is delivered, and while every place is taken by slow and endless receivers, in turns.

    The figures are for people; what is held is that each request is answered, and the good receiver served.
    """
    rounds, requests = (6, 1500) if full else (1, 100)
    good = story.endpoint("/beside", "*")
    story.receiver.knows(good["secret"])
    paths = ["/drip-head", "/drip", "/huge", "/bomb", "/500", "/head"]
    bad = [story.endpoint(paths[number % len(paths)]) for number in range(30 if full else 6)]
    times: dict[str, list[float]] = {"quiet": [], "beside": []}
    peak = begin = rss(story.service)
    told = 0
    for _ in range(rounds):
        for each in bad:
            story.owner.done("PATCH", f"/api/webhooks/{each['id']}", {"status": "disabled"})
        times["quiet"] += timed(lambda: story.owner.get("/api/campaigns").status, requests)
        for each in bad:
            story.owner.done("PATCH", f"/api/webhooks/{each['id']}", {"status": "enabled"})
        before = len(story.receiver.hits())
        for _ in range(10):
            story.key()
        told += 10
        eventually(lambda before=before: len(story.receiver.hits()) > before + 5, "bad receivers are at it")
        times["beside"] += timed(lambda: story.owner.get("/api/campaigns").status, requests)
        peak = max(peak, rss(story.service))
        story.has("/beside", told)
    p50 = {name: statistics.median(found) for name, found in times.items()}
    p99 = {name: statistics.quantiles(found, n=100)[98] for name, found in times.items()}
    if full:
        print(  # noqa: T201 - the figures of the round
            f"\nGET /api/campaigns, {rounds * requests} each: "
            f"p50 {p50['quiet']:.2f} ms quiet, {p50['beside']:.2f} ms beside ({p50['beside'] / p50['quiet']:.2f}x); "
            f"p99 {p99['quiet']:.2f} ms, {p99['beside']:.2f} ms ({p99['beside'] / p99['quiet']:.2f}x); "
            f"background {begin / MEGABYTE:.0f} MB, at most {(peak - begin) / MEGABYTE:+.1f} MB"
        )
    assert peak - begin < RSS_GROWTH_MAX


def timed(ask: Callable[[], int], count: int) -> list[float]:
    """The milliseconds of each of so many requests, all answered with 200."""
    found: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        assert ask() == 200
        found.append((time.perf_counter() - began) * 1000)
    return found

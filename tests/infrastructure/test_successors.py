"""Successors that nobody asks for: made when a key falls due, and handed over to the webhook that its owner chose."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest

from application.outbox import Message, Outcome
from application.webhooks import EndpointChange
from domain.api_key import ApiKey, GraceStart
from domain.destination import WebhookUrl
from domain.handover import LOST_AFTER
from domain.key_status import KeyStatus
from domain.webhook_endpoint import Subscriptions
from interfaces.bootstrap.background import jobs
from interfaces.bootstrap.workflow import successors
from tests.kit.http_server import Back, serving
from tests.kit.service import eventually
from tests.kit.successors import DAY, Owner, Told, back_ahead
from tests.kit.webhooks import WebhookReceiver

HOUR = timedelta(hours=1)


@pytest.fixture
def back(conninfo: str) -> Iterator[Back]:
    with back_ahead(conninfo) as opened:
        yield opened


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[WebhookReceiver]:
    with WebhookReceiver(tmp_path) as running:
        yield running


def test_the_receiver_gets_a_successor_that_counts(back: Back, receiver: WebhookReceiver, conninfo: str) -> None:
    """One signed delivery holds the key once; the predecessor is rotating; nothing that is stored holds the secret."""
    owner = Owner(back, receiver, conninfo, "/take")
    owner.run()
    owner.run()
    (hit,) = receiver.hits("/take")
    body = json.loads(hit["body"])
    assert (hit["verified_by"], body["type"], hit["body"].count(body["data"]["key"])) == (0, "key.successor_created", 1)
    assert body["data"]["replaces"] == owner.key.id
    key = back.core.ledger.load(ApiKey, owner.key.id)
    assert (key.status(back.origin().at), key.replaced_by, key.retires_at) == (
        KeyStatus.ROTATING,
        body["data"]["id"],
        None,
    )
    successor = back.core.ledger.load(ApiKey, body["data"]["id"])
    assert successor.status(back.origin().at) is KeyStatus.ACTIVE
    assert owner.story() == [
        "rotation.began", "rotation.handover_began", "rotation.successor_offered", "rotation.handed_over",
        "rotation.successor_created",
    ]  # fmt: skip
    assert body["data"]["key"].rpartition("_")[2] not in owner.all_that_is_stored()


def test_a_receiver_that_is_gone_leaves_the_rotation_to_its_owner(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """410: one attempt, whose successor is revoked; the key is due as before, and its owner is told so."""
    owner = Owner(back, receiver, conninfo, "/410")
    owner.run()
    owner.run()
    assert len(receiver.hits("/410")) == 1
    assert owner.story() == [
        "rotation.began", "rotation.handover_began", "rotation.successor_offered", "rotation.handover_failed",
        "rotation.notified",
    ]  # fmt: skip
    key = back.core.ledger.load(ApiKey, owner.key.id)
    assert (key.status(back.origin().at), key.replaced_by) == (KeyStatus.ROTATION_DUE, None)
    offered = json.loads(receiver.hits("/410")[0]["body"])["data"]["id"]
    assert back.core.ledger.load(ApiKey, offered).status(back.origin().at) is KeyStatus.REVOKED


def test_a_receiver_that_fails_is_tried_again_and_the_owner_is_not_told_yet(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """500: the next attempt is a timer of the process, with a successor of its own; the first one is then revoked."""
    owner = Owner(back, receiver, conninfo, "/500")
    owner.run()
    assert owner.story()[2:] == ["rotation.successor_offered", "rotation.handover_failed"]

    def tried_again() -> bool:
        owner.run()
        return len(receiver.hits("/500")) == 2

    eventually(tried_again, "the second attempt, five seconds later")
    first, second = (json.loads(hit["body"])["data"]["id"] for hit in receiver.hits("/500"))
    assert back.core.ledger.load(ApiKey, first).status(back.origin().at) is KeyStatus.REVOKED
    assert back.core.ledger.load(ApiKey, second).status(back.origin().at) is KeyStatus.ACTIVE
    assert "rotation.notified" not in owner.story()


def test_a_webhook_that_was_moved_is_handed_over_nothing(back: Back, receiver: WebhookReceiver, conninfo: str) -> None:
    """Who may change webhooks cannot have keys sent elsewhere: no successor is made, and the owner is told instead."""
    owner = Owner(back, receiver, conninfo, "/chosen")
    found = owner.endpoint.endpoint
    back.manage.webhooks.change(
        account_id=found.account_id,
        endpoint_id=found.endpoint_id,
        change=EndpointChange(url=WebhookUrl(receiver.url("/moved"))),
        by=back.origin(),
    )
    owner.run()
    assert receiver.hits() == []
    assert owner.story()[1:] == ["rotation.handover_began", "rotation.handover_failed", "rotation.notified"]
    assert back.core.ledger.load(ApiKey, owner.key.id).replaced_by is None


def test_after_the_last_attempt_nothing_is_left_of_them(back: Back, receiver: WebhookReceiver, conninfo: str) -> None:
    """Six attempts in seven hours: no successor lives, the key is due as before, and its owner is told so once."""
    owner = Owner(back, receiver, conninfo, "/500")
    owner.run()
    for wait in (HOUR / 720, HOUR / 60, HOUR / 6, HOUR, 6 * HOUR):
        assert "rotation.notified" not in owner.story()
        owner.later(wait)
        owner.run()
    owner.run()
    assert len(receiver.hits("/500")) == 6
    assert (owner.live_successors(), owner.story().count("rotation.notified")) == ([], 1)
    key = back.core.ledger.load(ApiKey, owner.key.id)
    assert (key.status(back.origin().at), key.replaced_by) == (KeyStatus.ROTATION_DUE, None)
    by_hand = back.manage.keys.rotate(
        account_id=owner.key.account_id, key_id=key.key_id, grace=DAY, grace_starts=GraceStart.NOW, by=back.origin()
    )
    owner.run()
    assert owner.live_successors() == [by_hand.key.view.key_id]
    assert owner.story()[-1] == "rotation.successor_created"


class Dead(BaseException):
    """The process is gone."""


class DeadlyHandover:
    """The port `SuccessorHandover`, whose process dies in its first call."""

    def deliver(self, message: Message, *, only_to: str) -> Outcome:
        """Dies."""
        del only_to
        raise Dead(message.id)

    def interrupt(self) -> None:
        """There is nothing to break off."""


def test_an_attempt_that_died_with_its_process_is_made_good(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """Between append and send: five minutes later another is handed over, which is the only one that is accepted."""
    owner = Owner(back, receiver, conninfo, "/take")
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    with pytest.raises(Dead):
        successors(back.core, handover=DeadlyHandover()).hand_over_due()
    assert len(owner.live_successors()) == 1
    owner.run()
    assert receiver.hits() == []
    owner.later(LOST_AFTER)
    owner.run()
    (hit,) = receiver.hits("/take")
    assert owner.live_successors() == [json.loads(hit["body"])["data"]["id"]]
    assert owner.story().count("rotation.handed_over") == 1


def test_an_attempt_that_its_leader_breaks_off_is_made_good(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """No other is begun, the receiver is not said to have failed, and five minutes later each account has its turn."""
    owners = [Owner(back, receiver, conninfo, "/drip-head") for _ in range(2)]
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    job = todo["successors"]
    run = Thread(target=job.run)
    run.start()
    eventually(receiver.hits, "an attempt is under way")
    assert job.interrupt is not None
    while run.is_alive():
        job.interrupt()
        run.join(0.05)
    assert (len(receiver.hits()), owners[0].errors()) == (1, [])
    for owner in owners:
        owner.moves_to(receiver.url("/take"))
    owners[0].later(LOST_AFTER)
    owners[0].run()
    assert len(receiver.hits("/take")) == 2
    assert [len(owner.live_successors()) for owner in owners] == [1, 1]


def test_two_leaders_make_one_attempt(back: Back, receiver: WebhookReceiver, conninfo: str) -> None:
    """At the same time: one delivery, and one successor that is accepted."""
    owner = Owner(back, receiver, conninfo, "/take")
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    barrier = Barrier(2)

    def lead() -> None:
        made = successors(back.core)
        barrier.wait()
        made.hand_over_due()

    leaders = [Thread(target=lead) for _ in range(2)]
    for leader in leaders:
        leader.start()
    for leader in leaders:
        leader.join()
    (hit,) = receiver.hits("/take")
    assert owner.live_successors() == [json.loads(hit["body"])["data"]["id"]]


def test_the_owner_hears_of_the_successor_that_arrived_alone(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """Of an attempt that failed there is no mail and no webhook; of the one that arrived there is one of each."""
    owner = Owner(back, receiver, conninfo, "/500")
    found = owner.endpoint.endpoint
    told = Told(back, conninfo)
    back.manage.webhooks.create(
        account_id=found.account_id,
        url=WebhookUrl(receiver.url("/told")),
        events=Subscriptions.parse(["key.*"]),
        description=None,
        by=back.origin(),
    )
    before = told.messages()
    owner.run()
    assert (len(receiver.hits("/500")), told.messages()) == (1, before)
    owner.moves_to(receiver.url("/204"))
    owner.later(HOUR)
    owner.run()
    (successor_id,) = owner.live_successors()
    news = [each for each in told.messages() if each not in before]
    assert news == [("key_created", successor_id), ("key.rotated", owner.key.id)]


def test_from_the_day_it_is_due_to_its_end(
    back: Back, receiver: WebhookReceiver, conninfo: str, tmp_path: Path
) -> None:
    """The key that was handed over works over HTTP; a day after its first use the old one is refused, and all is told.

    Its secret is in no log of the server, not on its metrics, and neither in the ledger nor in the outbox.
    """
    owner = Owner(back, receiver, conninfo, "/take")
    owner.run()
    (hit,) = receiver.hits("/take")
    assert hit["verified_by"] == 0
    secret = json.loads(hit["body"])["data"]["key"]
    with serving(conninfo, tmp_path / "log") as server, server.client() as client:
        assert [client.get("/api/campaigns", key=key).status for key in (secret, owner.key.secret)] == [200, 200]
        todo = jobs(back.core)
        for wait, names in ((HOUR, ("settlement", "workflow", "grace")), (DAY, ("retirement", "workflow", "workflow"))):
            owner.later(wait)
            for name in names:
                todo[name].run()
        assert [client.get("/api/campaigns", key=key).status for key in (secret, owner.key.secret)] == [200, 401]
        metrics = server.speak(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"keyledger_" in metrics
    assert owner.story()[-2:] == ["rotation.retired", "rotation.closed"]
    for text in (metrics, (tmp_path / "log").read_bytes(), owner.all_that_is_stored().encode()):
        assert secret.rpartition("_")[2].encode() not in text

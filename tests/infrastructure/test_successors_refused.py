"""Successors that come to nothing because of what their owner did, and one that is used just as it is given up."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from application.keys import KeyChange
from application.outbox import Delivered, Failed, Message, Outcome
from application.webhooks import EndpointChange
from application.workflow import WorkflowManagement
from domain.access import Plan
from domain.account import Handover
from domain.api_key import ApiKey, RevocationReason
from domain.destination import WebhookUrl
from domain.ids import RotationId
from domain.key_status import KeyStatus
from interfaces.bootstrap.background import jobs
from interfaces.bootstrap.workflow import successors
from tests.kit.http_server import Back, HttpServer, QuickVerifiers, serving
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


def without_webhooks(owner: Owner) -> None:
    """The account's plan has none any more."""
    owner.back.manage.accounts.change_plan(account_id=owner.key.account_id, plan=Plan.FREE, by=owner.back.origin())


def disabled(owner: Owner) -> None:
    """The webhook is switched off."""
    found = owner.endpoint.endpoint
    owner.back.manage.webhooks.change(
        account_id=found.account_id,
        endpoint_id=found.endpoint_id,
        change=EndpointChange(is_enabled=False),
        by=owner.back.origin(),
    )


def deleted(owner: Owner) -> None:
    """The webhook is no more."""
    found = owner.endpoint.endpoint
    owner.back.manage.webhooks.delete(
        account_id=found.account_id, endpoint_id=found.endpoint_id, by=owner.back.origin()
    )


def unwanted(owner: Owner) -> None:
    """The owner wants no successors handed over any more."""
    owner.back.manage.accounts.hand_over_to(account_id=owner.key.account_id, handover=None, by=owner.back.origin())


FALLBACKS: dict[Callable[[Owner], None], str] = {
    without_webhooks: "the account has no webhooks at present",
    disabled: "the webhook was deleted or is disabled",
    deleted: "the webhook was deleted or is disabled",
    unwanted: "the owner no longer wants successors handed over to this webhook",
}


@pytest.mark.parametrize("attempts", [0, 1])
@pytest.mark.parametrize("happens", FALLBACKS)
def test_the_owner_is_told_where_no_successor_can_be_handed_over(
    back: Back, receiver: WebhookReceiver, conninfo: str, happens: Callable[[Owner], None], attempts: int
) -> None:
    """Before the first attempt or after one: no other is made, no successor lives, the key is due, told of once."""
    owner = Owner(back, receiver, conninfo, "/500")
    told = Told(back, conninfo)
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    if attempts:
        todo["successors"].run()
        assert len(owner.live_successors()) == 1
    happens(owner)
    for _ in range(3):
        owner.later(HOUR)
        owner.run()
    assert len(receiver.hits()) == attempts
    assert owner.live_successors() == []
    key = back.core.ledger.load(ApiKey, owner.key.id)
    assert (key.status(back.origin().at), key.replaced_by) == (KeyStatus.ROTATION_DUE, None)
    assert owner.story()[2:] == [
        *["rotation.successor_offered", "rotation.handover_failed"] * attempts,
        "rotation.handover_failed", "rotation.notified",
    ]  # fmt: skip
    assert owner.errors()[-1] == FALLBACKS[happens]
    assert [about for kind, about in told.messages() if kind == "rotation_due"] == [owner.key.id]


class MovingVerifiers(QuickVerifiers):
    """The port `Verifiers`, which takes its time: the webhook has another URL when a key's verifier is made."""

    def __init__(self, owner: Owner, url: str) -> None:
        self._owner = owner
        self._url = url

    def hash(self, raw: bytes) -> str:
        """A verifier; then the webhook has moved."""
        found = self._owner.endpoint.endpoint
        self._owner.back.manage.webhooks.change(
            account_id=found.account_id,
            endpoint_id=found.endpoint_id,
            change=EndpointChange(url=WebhookUrl(self._url)),
            by=self._owner.back.origin(),
        )
        return super().hash(raw)


def test_a_webhook_that_moves_between_the_choice_and_the_post_gets_no_secret(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """Moved once the check is over: nothing is sent to either URL, the successor is taken back, the owner is told."""
    owner = Owner(back, receiver, conninfo, "/chosen")
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    verifiers = MovingVerifiers(owner, receiver.url("/thief"))
    successors(replace(back.core, verifiers=cast("Any", verifiers))).hand_over_due()
    assert receiver.hits() == []
    assert owner.errors() == ["the webhook has another URL than when it was chosen for successors"]
    assert owner.live_successors() == []
    todo["workflow"].run()
    key = back.core.ledger.load(ApiKey, owner.key.id)
    assert (key.status(back.origin().at), key.replaced_by) == (KeyStatus.ROTATION_DUE, None)
    assert owner.story()[-3:] == ["rotation.successor_offered", "rotation.handover_failed", "rotation.notified"]


class UsedAtOnce:
    """The port `SuccessorHandover`: a receiver that uses the key that it was sent, and whose answer is lost."""

    def __init__(self, server: HttpServer, *, permanent: bool) -> None:
        self._server = server
        self._permanent = permanent
        self.sent: list[str] = []

    def deliver(self, message: Message, *, only_to: str) -> Outcome:
        """One accepted request with the key; then the failure."""
        del only_to
        key = json.loads(json.dumps(message.payload))["data"]
        self.sent.append(key["id"])
        with self._server.client(key["key"]) as client:
            assert client.get("/api/campaigns").status == 200
        return Failed("the connection was lost", permanent=self._permanent)

    def interrupt(self) -> None:
        """There is nothing to break off."""


@pytest.mark.parametrize("permanent", [True, False])
def test_a_successor_that_is_used_as_it_is_given_up_is_not_taken_back(
    back: Back, receiver: WebhookReceiver, conninfo: str, tmp_path: Path, *, permanent: bool
) -> None:
    """Neither after the last attempt nor by the next: it is accepted, the old key ends, nobody is told it is due."""
    owner = Owner(back, receiver, conninfo, "/never")
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    with serving(conninfo, tmp_path / "log") as server:
        handover = UsedAtOnce(server, permanent=permanent)
        made = successors(back.core, handover=handover)
        made.hand_over_due()
        if not permanent:
            owner.later(HOUR)
            made.hand_over_due()
        assert owner.live_successors() == handover.sent
        assert len(handover.sent) == 1
        assert owner.errors() == [
            "the connection was lost",
            *([] if permanent else ["The key's successor is already in use; rotate the successor instead"]),
        ]
        for wait, names in ((HOUR, ("settlement", "workflow", "grace")), (DAY, ("retirement", "workflow", "workflow"))):
            owner.later(wait)
            for name in names:
                todo[name].run()
    key, successor = (back.core.ledger.load(ApiKey, key_id) for key_id in (owner.key.id, *handover.sent))
    now = back.origin().at
    assert (key.status(now), key.replaced_by) == (KeyStatus.REVOKED, successor.key_id)
    assert successor.status(now) is KeyStatus.ACTIVE
    story = owner.story()
    assert "rotation.notified" not in story
    assert story[-5:] == [
        "rotation.successor_created", "rotation.successor_used", "rotation.grace_began", "rotation.retired",
        "rotation.closed",
    ]  # fmt: skip
    assert receiver.hits() == []


def revoked(owner: Owner) -> None:
    """The key is revoked as compromised."""
    owner.back.manage.keys.revoke(
        account_id=owner.key.account_id,
        key_id=owner.key.id,
        reason=RevocationReason.COMPROMISED,
        note=None,
        by=owner.back.origin(),
    )


def cancelled(owner: Owner) -> None:
    """An operator cancels the rotation."""
    rotation_id = RotationId.of_key(owner.key.id)
    WorkflowManagement(ledger=owner.back.core.ledger).cancel(rotation_id, by=owner.back.origin())


ENDS: dict[Callable[[Owner], None], tuple[str, KeyStatus]] = {
    revoked: ("the key is revoked", KeyStatus.REVOKED),
    cancelled: ("the rotation was cancelled", KeyStatus.ROTATION_DUE),
}


@pytest.mark.parametrize("happens", ENDS)
def test_a_hand_over_that_is_over_leaves_no_successor(
    back: Back, receiver: WebhookReceiver, conninfo: str, happens: Callable[[Owner], None]
) -> None:
    """Between two attempts the key ends, or the rotation is cancelled: the next run revokes what was offered."""
    owner = Owner(back, receiver, conninfo, "/500")
    owner.run()
    assert len(owner.live_successors()) == 1
    happens(owner)
    owner.run()
    assert owner.live_successors() == []
    error, status = ENDS[happens]
    assert owner.errors()[1:] == [error]
    assert back.core.ledger.load(ApiKey, owner.key.id).status(back.origin().at) is status
    over = owner.story()
    owner.later(30 * DAY)
    owner.run()
    assert (owner.story(), len(receiver.hits())) == (over, 1)


@pytest.mark.parametrize(("before", "kind"), [(None, "retired"), (cancelled, "revoked")], ids=["running", "cancelled"])
@pytest.mark.parametrize("reason", [RevocationReason.ROTATED, RevocationReason.OTHER])
def test_whoever_revokes_a_key_between_two_attempts_is_told_once(  # noqa: PLR0913, PLR0917 - what may have been before
    back: Back,
    receiver: WebhookReceiver,
    conninfo: str,
    reason: RevocationReason,
    before: Callable[[Owner], None] | None,
    kind: str,
) -> None:
    """As rotated it is retired, and the mail names no successor; otherwise, and once cancelled, it is revoked."""
    owner = Owner(back, receiver, conninfo, "/500")
    owner.run()
    if before is not None:
        before(owner)
    back.manage.keys.revoke(
        account_id=owner.key.account_id, key_id=owner.key.id, reason=reason, note=None, by=back.origin()
    )
    owner.run()
    owner.run()
    assert owner.live_successors() == []
    ends = [(what, about) for what, about in Told(back, conninfo).messages() if what in {"retired", "revoked"}]
    assert ends == [(kind if reason is RevocationReason.ROTATED else "revoked", owner.key.id)]
    with psycopg.connect(conninfo) as connection:
        retired = connection.execute(
            "SELECT state ->> 'successor_id', state ->> 'reason' FROM ("
            " SELECT convert_from(state, 'UTF8')::jsonb AS state FROM ledger.events WHERE topic = 'rotation.retired'"
            ") AS retired"
        ).fetchall()
    assert retired == ([(None, "at_once")] if ends[0][0] == "retired" else [])


class Meanwhile:
    """The port `SuccessorHandover`: something happens while the receiver takes the successor, or refuses it."""

    def __init__(self, owner: Owner, happens: Callable[[Owner], None], outcome: Outcome | None = None) -> None:
        self._owner = owner
        self._happens = happens
        self._outcome: Outcome = outcome or Delivered(200)
        self.sent: list[str] = []

    def deliver(self, message: Message, *, only_to: str) -> Outcome:
        """Looked at, too, before the receiver answers."""
        del only_to
        self.sent.append(cast("Any", message.payload)["data"]["id"])
        self._happens(self._owner)
        jobs(self._owner.back.core)["workflow"].run()
        return self._outcome


@pytest.mark.parametrize("happens", ENDS)
def test_a_successor_that_arrives_as_its_key_ends_is_kept_and_told(
    back: Back, receiver: WebhookReceiver, conninfo: str, happens: Callable[[Owner], None]
) -> None:
    """The receiver has it: it is not taken back behind the attempt, and the owner hears of it."""
    owner = Owner(back, receiver, conninfo, "/never")
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    handover = Meanwhile(owner, happens)
    successors(back.core, handover=handover).hand_over_due()
    owner.later(HOUR)
    owner.run()
    assert owner.live_successors() == handover.sent
    assert ("key_created", handover.sent[0]) in Told(back, conninfo).messages()


def put_off(owner: Owner) -> None:
    """The key is to be rotated nine days from now."""
    change = KeyChange(rotation_due_days=100)
    owner.back.manage.keys.change(
        account_id=owner.key.account_id, key_id=owner.key.id, change=change, by=owner.back.origin()
    )


def due_again(owner: Owner) -> None:
    """They have passed."""
    owner.later(10 * DAY)


def stopped(owner: Owner) -> None:
    """The key is disabled."""
    owner.back.manage.keys.disable(account_id=owner.key.account_id, key_id=owner.key.id, by=owner.back.origin())


def started(owner: Owner) -> None:
    """It is enabled again."""
    owner.back.manage.keys.enable(account_id=owner.key.account_id, key_id=owner.key.id, by=owner.back.origin())


WHILE_IT_FAILS: dict[Callable[[Owner], None], str] = {
    revoked: "the key is revoked",
    cancelled: "the rotation was cancelled",
    put_off: "the key is not due any more",
    stopped: "the key is disabled",
}


@pytest.mark.parametrize("happens", WHILE_IT_FAILS)
def test_a_successor_that_does_not_arrive_as_its_key_ends_is_taken_back_at_once(
    back: Back, receiver: WebhookReceiver, conninfo: str, happens: Callable[[Owner], None]
) -> None:
    """Ended, cancelled, put off or disabled during an attempt that fails: the next run revokes what was offered."""
    owner = Owner(back, receiver, conninfo, "/never")
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    handover = Meanwhile(owner, happens, Failed("not accepted (500)"))
    successors(back.core, handover=handover).hand_over_due()
    assert owner.live_successors() == handover.sent
    todo["successors"].run()
    assert owner.live_successors() == []
    assert owner.errors() == ["not accepted (500)", WHILE_IT_FAILS[happens]]
    owner.run()
    over = owner.story()
    owner.run()
    assert (owner.story(), receiver.hits()) == (over, [])


@pytest.mark.parametrize("attempts", [0, 1])
@pytest.mark.parametrize(("happens", "ends"), [(put_off, due_again), (stopped, started)])
def test_a_hand_over_waits_for_its_key(  # noqa: PLR0913, PLR0917 - what may be in the way of it
    back: Back,
    receiver: WebhookReceiver,
    conninfo: str,
    happens: Callable[[Owner], None],
    ends: Callable[[Owner], None],
    attempts: int,
) -> None:
    """Put off or disabled, before the first attempt or after it: no successor lives; then one is handed over."""
    owner = Owner(back, receiver, conninfo, "/500")
    todo = jobs(back.core)
    todo["rotation"].run()
    todo["workflow"].run()
    if attempts:
        todo["successors"].run()
    happens(owner)
    owner.run()
    owner.run()
    assert (owner.live_successors(), len(receiver.hits())) == ([], attempts)
    assert back.core.ledger.load(ApiKey, owner.key.id).replaced_by is None
    owner.moves_to(receiver.url("/take"))
    ends(owner)
    owner.run()
    owner.run()
    (hit,) = receiver.hits("/take")
    assert owner.live_successors() == [json.loads(hit["body"])["data"]["id"]]
    assert "rotation.notified" not in owner.story()


def test_each_due_date_has_a_hand_over_of_its_own(back: Back, receiver: WebhookReceiver, conninfo: str) -> None:
    """Told of the first one, since they wanted none, the owner puts the key off and chooses a receiver for the next."""
    owner = Owner(back, receiver, conninfo, "/take")
    unwanted(owner)
    owner.run()
    assert owner.story()[-1] == "rotation.notified"
    put_off(owner)
    owner.run()
    found = owner.endpoint.endpoint
    wanted = Handover(found.endpoint_id, found.url)
    back.manage.accounts.hand_over_to(account_id=owner.key.account_id, handover=wanted, by=back.origin())
    due_again(owner)
    owner.run()
    assert len(receiver.hits("/take")) == 1
    assert owner.story().count("rotation.notified") == 1


def test_a_key_that_is_put_off_before_the_first_look_is_handed_over_on_its_day(
    back: Back, receiver: WebhookReceiver, conninfo: str
) -> None:
    """Flagged, put off, and only then looked at."""
    owner = Owner(back, receiver, conninfo, "/take")
    jobs(back.core)["rotation"].run()
    put_off(owner)
    owner.run()
    assert (owner.story()[-1], receiver.hits()) == ("rotation.postponed", [])
    due_again(owner)
    owner.run()
    assert len(receiver.hits("/take")) == 1

"""Webhooks from the ledger to the receiver's door: who is told what, signed with which secret, and when it ends."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from application.outbox import Failed, MessageId
from application.webhook_delivery import HOLD, RETRIES, RETRY_AFTER_MAX, Answered, Unanswered, judge
from application.webhooks import DeliveryView, EndpointChange
from domain.access import Plan
from domain.api_key import ApiKey, RevocationReason
from domain.credential import Secret
from domain.destination import WebhookUrl
from domain.errors import NotFoundError
from domain.webhook_endpoint import Disabled
from infrastructure.hashing import SecretRing
from infrastructure.postgres.outbox import PostgresOutbox
from infrastructure.postgres.pool import Database
from infrastructure.projections import Rebuilder
from tests.kit.builders import a_key, account_id, an_account, origin
from tests.kit.hooks import RING, Hooks

DAY = timedelta(days=1)


@pytest.fixture
def hooks(database: Database, conninfo: str) -> Iterator[Hooks]:
    made = Hooks(database, conninfo)
    with made.ledger:
        yield made


def verifies(secret: Secret, sent: tuple[WebhookUrl, Mapping[str, str], bytes]) -> bool:
    """By the reference package, within its own tolerance of the time."""
    with suppress(WebhookVerificationError):
        Webhook(secret.reveal()).verify(sent[2], dict(sent[1]))
        return True
    return False


def test_an_endpoint_is_told_what_it_has_subscribed_to(hooks: Hooks) -> None:
    """One type, a family, and everything; a key's whole life in order."""
    one, family, every = hooks.endpoint("key.revoked"), hooks.endpoint("key.*"), hooks.endpoint("*")
    key = a_key(at=hooks.clock.now())
    key.disable(by=origin(hooks.clock.now()))
    key.revoke(reason=RevocationReason.COMPROMISED, note=None, by=origin(hooks.clock.now()))
    hooks.ledger.append(key)
    assert hooks.bring() == 7
    found = {
        each.endpoint.endpoint_id: [
            delivery.type
            for delivery in reversed(
                hooks.manage.deliveries(account_id=account_id(), endpoint_id=each.endpoint.endpoint_id, limit=10)
            )
        ]
        for each in (one, family, every)
    }
    life = ["key.created", "key.updated", "key.revoked"]
    assert list(found.values()) == [["key.revoked"], life, life]


def test_the_body_names_the_key_and_what_happened(hooks: Hooks) -> None:
    """Type, time and data; the id, the key's facts and the event's own, and no hash."""
    hooks.endpoint("key.created")
    key = a_key(number=7, at=hooks.clock.now())
    hooks.ledger.append(key)
    hooks.bring()
    body = json.loads(hooks.sender.sent[0][2])
    at = hooks.clock.now().isoformat().replace("+00:00", "Z")
    assert list(body) == ["type", "timestamp", "data"]
    assert (body["type"], body["timestamp"]) == ("key.created", at)
    due = (hooks.clock.now() + 90 * DAY).isoformat().replace("+00:00", "Z")
    assert body["data"] == {
        "id": key.id,
        "name": "Production API",
        "environment": "live",
        "prefix": key.prefix,
        "lineage_id": key.id,
        "replaces": None,
        "event": "key.created",
        "position": 3,
        "actor": "cli:tester",
        "scopes": None,
        "allowed_ips": None,
        "expires_at": None,
        "rotation_due_at": due,
    }


def test_nobody_else_is_told(hooks: Hooks) -> None:
    """Not another account, not one without the feature, not an endpoint of later, none that is disabled or deleted."""
    hooks.ledger.append(an_account(number=2, plan=Plan.TEAM), an_account(number=3, plan=Plan.FREE))
    hooks.endpoint(owner=account_id(2))
    hooks.endpoint(owner=account_id(3))
    off, gone = hooks.endpoint().endpoint.endpoint_id, hooks.endpoint().endpoint.endpoint_id
    by = origin(hooks.clock.now())
    hooks.manage.change(account_id=account_id(), endpoint_id=off, change=EndpointChange(is_enabled=False), by=by)
    hooks.manage.delete(account_id=account_id(), endpoint_id=gone, by=by)
    hooks.ledger.append(a_key(), a_key(owner=account_id(3)))
    hooks.endpoint()
    assert hooks.bring() == 0


def test_each_delivery_verifies_and_a_copy_of_it_does_not_for_long(hooks: Hooks) -> None:
    """The reference package takes it as it was sent, and refuses it changed, under another id, and ten minutes old."""
    secret = hooks.endpoint().secret
    hooks.ledger.append(a_key())
    hooks.bring()
    url, headers, body = hooks.sender.sent[0]
    assert verifies(secret, (url, headers, body))
    assert not verifies(secret, (url, headers, body.replace(b"Production", b"production")))
    assert not verifies(secret, (url, {**headers, "webhook-id": "msg_0"}, body))
    later = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}
    assert not verifies(secret, (url, later, body))
    hooks.clock.advance(-timedelta(minutes=10))
    hooks.ledger.append(a_key())
    hooks.bring()
    assert not verifies(secret, hooks.sender.sent[1])


def test_both_secrets_sign_through_the_grace_period_and_then_one(hooks: Hooks) -> None:
    """Each verifies until its own grace is over and never after, whatever was rotated since; five at most."""
    first = hooks.endpoint()
    endpoint_id, by = first.endpoint.endpoint_id, origin(hooks.clock.now())
    second = hooks.manage.rotate_secret(account_id=account_id(), endpoint_id=endpoint_id, grace=DAY, by=by)

    def accepted() -> list[bool]:
        hooks.ledger.append(a_key())
        assert hooks.bring() == 1
        return [verifies(each.secret, hooks.sender.sent[-1]) for each in issued]

    issued = [first, second]
    assert accepted() == [True, True]
    issued.append(hooks.manage.rotate_secret(account_id=account_id(), endpoint_id=endpoint_id, grace=DAY, by=by))
    assert accepted() == [True, True, True]
    # The package looks at the machine's clock, so the grace ends by another rotation, with none.
    over = origin(hooks.clock.now() - DAY)
    issued.append(hooks.manage.rotate_secret(account_id=account_id(), endpoint_id=endpoint_id, grace=DAY, by=over))
    assert accepted() == [True, True, False, True]
    issued.append(hooks.manage.rotate_secret(account_id=account_id(), endpoint_id=endpoint_id, grace=DAY, by=by))
    issued.append(hooks.manage.rotate_secret(account_id=account_id(), endpoint_id=endpoint_id, grace=DAY, by=by))
    assert accepted() == [False, True, False, True, True, True]


def test_secrets_are_sealed_for_their_row(hooks: Hooks) -> None:
    """The vault holds neither text nor bytes; what is sealed for one row opens in no other, nor by another key."""
    issued = hooks.endpoint()
    endpoint_id = issued.endpoint.endpoint_id
    sealed = hooks.webhooks.sealed(endpoint_id)[1]
    opened = RING.sealer.open(sealed, f"webhook_secrets/{endpoint_id}/1")
    assert opened is not None
    assert opened not in sealed
    assert RING.sealer.open(sealed, f"webhook_secrets/{endpoint_id}/2") is None
    assert RING.sealer.open(sealed[:-1] + bytes((sealed[-1] ^ 1,)), f"webhook_secrets/{endpoint_id}/1") is None
    assert SecretRing([bytes(32)]).sealer.open(sealed, f"webhook_secrets/{endpoint_id}/1") is None
    newer = SecretRing([bytes(32), bytes(range(32))])
    assert newer.sealer.open(sealed, f"webhook_secrets/{endpoint_id}/1") == opened
    assert repr(issued.secret) == "whsec_…"


def test_secrets_that_sign_no_more_are_deleted(hooks: Hooks) -> None:
    """Those before the last two whose grace is over, and all but the newest five; with the endpoint, all."""
    endpoint_id, by = hooks.endpoint().endpoint.endpoint_id, origin(hooks.clock.now())
    none, kept = timedelta(), ({1, 2}, {1, 2, 3}, {1, 2, 3, 4}, {1, 2, 4, 5}, {2, 4, 5, 6}, {4, 5, 6, 7})
    for versions, grace in zip(kept, (DAY, DAY, none, DAY, DAY, DAY), strict=True):
        hooks.manage.rotate_secret(account_id=account_id(), endpoint_id=endpoint_id, grace=grace, by=by)
        assert set(hooks.webhooks.sealed(endpoint_id)) == versions
    hooks.manage.delete(account_id=account_id(), endpoint_id=endpoint_id, by=by)
    assert hooks.webhooks.sealed(endpoint_id) == {}


def test_retries_are_data_and_the_last_one_disables(hooks: Hooks) -> None:
    """Ten attempts over 75 hours, each in the log with its status; then `webhook.disabled`, and nothing more."""
    endpoint_id = hooks.endpoint().endpoint.endpoint_id
    hooks.sender.answers = [Answered(500, None), Unanswered("the receiver was too slow"), Answered(301, None)]
    hooks.ledger.append(a_key())
    hooks.bring()
    waits = []
    for _ in RETRIES:
        (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
        assert delivery.next_at is not None
        waits.append(delivery.next_at - hooks.clock.now())
        hooks.clock.at = delivery.next_at
        assert hooks.bring() == 1
    assert all(0.9 * delay <= wait <= 1.1 * delay for delay, wait in zip(RETRIES, waits, strict=True))
    (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
    assert [(each.status, each.error) for each in delivery.attempts][:3] == [
        (500, "not accepted (500)"),
        (None, "the receiver was too slow"),
        (301, "redirects are not followed (301)"),
    ]
    assert (len(delivery.attempts), delivery.state.value, delivery.next_at) == (10, "failed", None)
    assert len({headers["webhook-id"] for _, headers, _ in hooks.sender.sent}) == 1
    assert len({body for _, _, body in hooks.sender.sent}) == 1
    hooks.look()
    endpoint = hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id)
    assert (endpoint.disabled_reason, endpoint.disabled_at) == ("failing", hooks.clock.now())
    hooks.ledger.append(a_key())
    assert hooks.bring() == 0


def test_gone_disables_at_once_and_drops_what_waits(hooks: Hooks) -> None:
    """410: no other attempt, the reason on record, and what was pending for it is cancelled."""
    endpoint_id = hooks.endpoint().endpoint.endpoint_id
    hooks.ledger.append(a_key(), a_key())
    hooks.sender.answers = [Answered(410, None)]
    hooks.bring()
    hooks.look()
    hooks.clock.advance(HOLD)
    hooks.bring()
    assert len(hooks.sender.sent) == 1
    deliveries = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=5)
    assert [each.state.value for each in deliveries] == ["cancelled", "failed"]
    with psycopg.connect(hooks.conninfo) as connection:
        rows = connection.execute("SELECT state FROM ledger.events WHERE topic = %s", [Disabled.TOPIC]).fetchall()
    assert [json.loads(bytes(state))["reason"] for (state,) in rows] == ["gone"]


ANSWERS = [
    (Answered(200, None), (True, False, None)),
    (Answered(299, "60"), (True, False, None)),
    (Answered(302, "60"), (False, False, None)),
    (Answered(400, "60"), (False, False, None)),
    (Answered(410, None), (False, True, None)),
    (Answered(429, None), (False, False, None)),
    (Answered(429, "60"), (False, False, 60)),
    (Answered(503, " 60 "), (False, False, 60)),
    (Answered(503, "99999999999999999999"), (False, False, 86400)),
    (Answered(429, "-1"), (False, False, None)),
    (Answered(429, "soon"), (False, False, None)),
    (Answered(429, "Sun, 01 Mar 2026 12:02:00 GMT"), (False, False, 120)),
    (Answered(429, "Sun, 01 Mar 2020 12:02:00 GMT"), (False, False, 0)),
    (Answered(429, "Sun, 01 Mar 9999 12:02:00 GMT"), (False, False, 86400)),
    (Answered(429, "Mon, 01 Jan 2024 99999999999:00:00 GMT"), (False, False, None)),
    (Answered(503, "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"), (False, False, None)),
]


@pytest.mark.parametrize(("answer", "expected"), ANSWERS, ids=[f"{a.status} {a.retry_after}" for a, _ in ANSWERS])
def test_an_answer_is_judged_by_its_status(answer: Answered, expected: tuple[bool, bool, int | None]) -> None:
    """2xx succeeds, 410 is final, all else is tried again; `Retry-After` counts with 429 and 503, a day at most."""
    outcome = judge(answer, origin().at)
    wait = getattr(outcome, "retry_after", None)
    seconds = None if wait is None else int(wait.total_seconds())
    assert (not hasattr(outcome, "error"), getattr(outcome, "permanent", False), seconds) == expected


dates = st.from_regex(
    r"(Mon, )?[0-9]{1,4} (Jan|Dec) [0-9]{1,11} [0-9]{1,11}(:[0-9]{1,9}){0,2} ([+-][0-9]{1,20}|GMT)", fullmatch=True
)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=80), dates, st.from_regex(r"[0-9A-Za-z ,:.+-]{0,70}", fullmatch=True)))
def test_no_retry_after_breaks_an_attempt(text: str) -> None:
    """Whatever the header says, the wait is None, or between nothing and a day."""
    outcome = judge(Answered(503, text), origin().at)
    assert isinstance(outcome, Failed)
    assert outcome.retry_after is None or timedelta() <= outcome.retry_after <= RETRY_AFTER_MAX


def test_a_retry_by_hand_is_one_attempt_under_the_same_id(hooks: Hooks) -> None:
    """Of a failed delivery, and of one that was taken; it fails again without a word to the endpoint."""
    endpoint_id = hooks.endpoint().endpoint.endpoint_id
    hooks.ledger.append(a_key())
    hooks.bring()
    (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
    again = hooks.manage.retry(
        account_id=account_id(),
        endpoint_id=endpoint_id,
        delivery_id=delivery.delivery_id,
        now=hooks.clock.now(),
    )
    assert (again.state.value, again.next_at) == ("pending", hooks.clock.now())
    assert hooks.bring() == 1
    (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
    assert (delivery.state.value, len(delivery.attempts)) == ("delivered", 2)
    assert len({headers["webhook-id"] for _, headers, _ in hooks.sender.sent}) == 1
    with pytest.raises(NotFoundError):
        hooks.manage.retry(
            account_id=account_id(),
            endpoint_id=hooks.endpoint().endpoint.endpoint_id,
            delivery_id=MessageId(delivery.delivery_id),
            now=hooks.clock.now(),
        )


@pytest.mark.parametrize("first", [Answered(204, None), Answered(410, None)], ids=["taken", "gone"])
@pytest.mark.parametrize("again", [Answered(500, None), Answered(410, None)], ids=["broken", "gone"])
def test_a_retry_by_hand_that_fails_decides_nothing(hooks: Hooks, first: Answered, again: Answered) -> None:
    """It is on record, no other follows it, and the endpoint stays enabled; also when its process died with it."""
    endpoint_id = hooks.endpoint().endpoint.endpoint_id
    hooks.ledger.append(a_key())
    hooks.sender.answers = [first]
    hooks.bring()
    hooks.look()
    by = origin(hooks.clock.now())
    hooks.manage.change(account_id=account_id(), endpoint_id=endpoint_id, change=EndpointChange(is_enabled=True), by=by)
    (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
    hooks.manage.retry(
        account_id=account_id(), endpoint_id=endpoint_id, delivery_id=delivery.delivery_id, now=hooks.clock.now()
    )
    hooks.sender.answers = [again]
    assert taken_and_lost(hooks) == 2
    assert hooks.bring() == 1
    hooks.look()
    (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
    assert (delivery.state.value, len(delivery.attempts), delivery.next_at) == ("failed", 2, None)
    assert hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id).disabled_at is None


def retried(hooks: Hooks) -> DeliveryView:
    """The only delivery of the only endpoint, one more attempt asked for."""
    (endpoint,) = hooks.manage.page(account_id=account_id(), limit=2)
    by = {"account_id": account_id(), "endpoint_id": endpoint.endpoint_id}
    return hooks.manage.retry(**by, delivery_id=only_delivery(hooks).delivery_id, now=hooks.clock.now())


def only_delivery(hooks: Hooks) -> DeliveryView:
    (endpoint,) = hooks.manage.page(account_id=account_id(), limit=2)
    (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint.endpoint_id, limit=2)
    return delivery


@pytest.mark.parametrize("again", [Answered(500, None), Answered(410, None)], ids=["broken", "gone"])
def test_retries_by_hand_leave_the_schedule_as_it_stands(hooks: Hooks, again: Answered) -> None:
    """Nine of what is pending, one lost with its process among them: the other nine of the schedule come in time."""
    endpoint_id = hooks.endpoint().endpoint.endpoint_id
    hooks.ledger.append(a_key())
    hooks.sender.answers = [Answered(500, None)]
    hooks.bring()
    hooks.clock.at = only_delivery(hooks).next_at or hooks.clock.at
    hooks.bring()
    stands = only_delivery(hooks).next_at
    hooks.sender.answers = [again]
    for number in range(9):
        hooks.clock.advance(timedelta(seconds=1))
        assert retried(hooks).next_at == hooks.clock.now()
        if number == 5:
            taken_and_lost(hooks)
        assert hooks.bring() == 1
        assert (only_delivery(hooks).state.value, only_delivery(hooks).next_at) == ("pending", stands)
        hooks.look()
    assert len(only_delivery(hooks).attempts) == 11
    hooks.sender.answers = [Answered(500, None)]
    waits = []
    for _ in RETRIES[1:]:
        assert hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id).disabled_at is None
        next_at = only_delivery(hooks).next_at
        assert next_at is not None
        waits.append(next_at - hooks.clock.now())
        hooks.clock.at = next_at
        assert hooks.bring() == 1
        hooks.look()
    assert all(0.9 * delay <= wait <= 1.1 * delay for delay, wait in zip(RETRIES[2:], waits[1:], strict=True))
    assert (only_delivery(hooks).state.value, len(only_delivery(hooks).attempts)) == ("failed", 19)
    assert hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id).disabled_reason == "failing"


def test_a_retry_by_hand_that_is_postponed_counts_nowhere(hooks: Hooks) -> None:
    """Held while the endpoint's failure is dealt with, until the schedule's own attempt is due: it is that one."""
    hooks.endpoint()
    hooks.ledger.append(a_key())
    hooks.sender.answers = [Answered(500, None)]
    hooks.bring()
    retried(hooks)
    with hooks.database.cursor() as cursor:
        cursor.execute("UPDATE views.webhooks SET failure_id = 'whf_'")
    assert hooks.bring() == 1
    with hooks.database.cursor() as cursor:
        cursor.execute("UPDATE views.webhooks SET failure_id = NULL")
    hooks.clock.advance(HOLD)
    assert hooks.bring() == 1
    after = only_delivery(hooks).next_at
    assert after is not None
    assert (len(only_delivery(hooks).attempts), len(hooks.sender.sent)) == (2, 2)
    assert 0.9 * RETRIES[1] <= after - hooks.clock.now() <= 1.1 * RETRIES[1]


def test_a_retry_by_hand_that_is_taken_delivers(hooks: Hooks) -> None:
    """A pending delivery, and no other attempt follows."""
    hooks.endpoint()
    hooks.ledger.append(a_key())
    hooks.sender.answers = [Answered(500, None), Answered(204, None)]
    hooks.bring()
    retried(hooks)
    assert hooks.bring() == 1
    assert (only_delivery(hooks).state.value, only_delivery(hooks).next_at) == ("delivered", None)
    hooks.clock.advance(DAY)
    assert hooks.bring() == 0


def taken_and_lost(hooks: Hooks) -> int:
    """Some process takes what is due and dies: which attempt it was, whose lease is over."""
    outbox, lease = PostgresOutbox(hooks.database), timedelta(minutes=1)
    taken = outbox.take("webhook", now=hooks.clock.now(), lease=lease, busy_targets=(), busy_accounts=())
    assert taken is not None
    hooks.clock.advance(lease)
    return taken.attempt


def test_a_last_attempt_that_was_lost_with_its_process_is_made_again_and_disables(hooks: Hooks) -> None:
    """It counts as the schedule's, not as one more that somebody asked for."""
    endpoint_id = hooks.endpoint().endpoint.endpoint_id
    hooks.ledger.append(a_key())
    hooks.sender.answers = [Answered(500, None)]
    hooks.bring()
    for _ in RETRIES[1:]:
        (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
        assert delivery.next_at is not None
        hooks.clock.at = delivery.next_at
        hooks.bring()
    (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
    assert delivery.next_at is not None
    hooks.clock.at = delivery.next_at
    assert taken_and_lost(hooks) == len(RETRIES) + 1
    assert hooks.bring() == 1
    hooks.look()
    assert hooks.manage.get(account_id=account_id(), endpoint_id=endpoint_id).disabled_at is not None


def test_a_test_goes_to_its_endpoint_alone(hooks: Hooks) -> None:
    """Whatever that has subscribed to; the answer names the delivery that comes of it."""
    hooks.endpoint("*")
    endpoint_id = hooks.endpoint("key.revoked").endpoint.endpoint_id
    promised = hooks.manage.test(account_id=account_id(), endpoint_id=endpoint_id, by=origin(hooks.clock.now()))
    hooks.clock.advance(timedelta(seconds=1))
    assert hooks.bring() == 1
    assert hooks.told() == ["webhook.test"]
    (delivery,) = hooks.manage.deliveries(account_id=account_id(), endpoint_id=endpoint_id, limit=2)
    assert delivery.delivery_id == promised.delivery_id == hooks.sender.sent[0][1]["webhook-id"]
    assert delivery.created_at == promised.created_at


def test_the_view_is_the_same_when_it_is_made_anew(hooks: Hooks) -> None:
    """From the ledger alone; the vault keeps its secrets, and nothing is sent again."""
    kept, gone = hooks.endpoint("key.*"), hooks.endpoint()
    by = origin(hooks.clock.now())
    for _ in range(3):
        hooks.manage.rotate_secret(account_id=account_id(), endpoint_id=kept.endpoint.endpoint_id, grace=DAY, by=by)
    hooks.manage.delete(account_id=account_id(), endpoint_id=gone.endpoint.endpoint_id, by=by)
    key = a_key()
    hooks.ledger.append(key)
    hooks.bring()
    before = hooks.manage.page(account_id=account_id(), limit=10)
    sealed = hooks.webhooks.sealed(kept.endpoint.endpoint_id)
    Rebuilder(hooks.database, hooks.recorder, hooks.views, []).rebuild()
    assert hooks.manage.page(account_id=account_id(), limit=10) == before
    assert hooks.webhooks.sealed(kept.endpoint.endpoint_id) == sealed
    assert hooks.bring() == 0
    hooks.ledger.change(ApiKey, key.id, lambda each: each.disable(by=by))
    assert hooks.bring() == 1

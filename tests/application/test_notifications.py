"""What an event tells its account's owner."""

import pytest

from application.notifications import RETRIES, TOPICS, KnownKey, Notice, notice_of
from domain.api_key import RevocationReason
from domain.notices import NoticeKind
from domain.webhook_endpoint import DisabledReason
from tests.architecture.test_golden_events import specimens
from tests.kit.builders import a_key, a_webhook, account_id, origin

TOLD = {
    "account.notices_changed": NoticeKind.NOTICES_CHANGED,
    "key.attacked": NoticeKind.ATTACKED,
    "key.created": NoticeKind.KEY_CREATED,
    "key.expiring": NoticeKind.EXPIRING,
    "key.presented_after_end": NoticeKind.PRESENTED_AFTER_END,
    "key.revoked": NoticeKind.COMPROMISED,
    "rotation.handed_over": NoticeKind.KEY_CREATED,
    "rotation.notified": NoticeKind.ROTATION_DUE,
    "rotation.reminded": NoticeKind.ROTATION_REMINDER,
    "rotation.retired": NoticeKind.RETIRED,
    "rotation.retiring_soon": NoticeKind.RETIRING_SOON,
    "webhook.disabled": NoticeKind.WEBHOOK_DISABLED,
}


def find_key(key_id: str) -> KnownKey:
    """The same key for each id."""
    return KnownKey("Production API", f"sk_live_{key_id.removeprefix('key_')}")


def told() -> dict[str, Notice]:
    """By topic, what the first specimen of it tells."""
    found: dict[str, Notice] = {}
    for aggregate in specimens():
        for event in aggregate.pending_events:
            notice = notice_of(event, find_key=find_key)
            if notice is not None:
                found.setdefault(event.TOPIC, notice)
    return found


def test_each_event_tells_what_it_is_to_tell_and_others_nothing() -> None:
    """Of every kind of event there is; the topics that are read are those that tell something."""
    assert {topic: notice.kind for topic, notice in told().items()} == TOLD
    assert set(TOLD) == TOPICS


@pytest.mark.parametrize("topic", sorted(TOLD))
def test_a_notice_names_its_key_and_its_account(topic: str) -> None:
    """Its id, name and prefix, whichever event it is made of; and all that its words need is text."""
    notice = told()[topic]
    assert notice.account_id == account_id()
    if topic.startswith("account."):
        assert notice.thing_id == account_id()
    elif topic.startswith("webhook."):
        assert notice.thing_id.startswith("whe_")
        assert notice.name.startswith("https://")
    else:
        assert notice.thing_id.startswith("key_")
        assert notice.name
        assert notice.prefix == f"sk_live_{notice.thing_id.removeprefix('key_')}"
    assert all(type(value) is str and value for value in notice.details.values())


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (RevocationReason.COMPROMISED, NoticeKind.COMPROMISED),
        (RevocationReason.UNUSED, NoticeKind.REVOKED),
        (RevocationReason.OTHER, NoticeKind.REVOKED),
        (RevocationReason.ROTATED, NoticeKind.REVOKED),
    ],
)
def test_a_revoke_is_told_by_its_reason(reason: RevocationReason, kind: NoticeKind) -> None:
    """Compromised is a matter of security; rotated is a reason like others for a key that is not being rotated."""
    key = a_key()
    key.revoke(reason=reason, note=None, by=origin())
    notice = notice_of(key.pending_events[-1], find_key=find_key)
    assert notice is not None
    assert notice.kind is kind


@pytest.mark.parametrize(
    ("actor", "is_replaced"),
    [("key:key_000000009", True), ("system:retirement", False), ("system:workflow", False)],
)
def test_the_end_of_a_rotation_is_told_by_the_rotation(actor: str, *, is_replaced: bool) -> None:
    """Of a key that has a successor, or that the service retires."""
    key = a_key()
    key.revoke(reason=RevocationReason.ROTATED, note=None, by=origin(actor=actor))
    known = KnownKey("Production API", "sk_live_000000001", is_replaced=is_replaced)
    assert notice_of(key.pending_events[-1], find_key=lambda _: known) is None


@pytest.mark.parametrize("actor", ["key:key_000000009", "system:retirement"])
def test_the_end_of_a_rotation_that_was_cancelled_is_told_as_a_revoke(actor: str) -> None:
    """The rotation tells nothing any more, whoever ends the key."""
    key = a_key()
    key.revoke(reason=RevocationReason.ROTATED, note=None, by=origin(actor=actor))
    known = KnownKey("Production API", "sk_live_000000001", is_replaced=True, is_rotation_cancelled=True)
    notice = notice_of(key.pending_events[-1], find_key=lambda _: known)
    assert notice is not None
    assert notice.kind is NoticeKind.REVOKED


def test_a_webhook_that_its_owner_disabled_is_no_news() -> None:
    """One that the service disabled is; its address is told without what may stand in the query."""
    told: dict[DisabledReason, Notice | None] = {}
    for reason in DisabledReason:
        webhook = a_webhook()
        webhook.disable(reason=reason, by=origin())
        event = webhook.pending_events[-1]
        secret = type(event)(**(vars(event) | {"url": "https://hooks.example/in?token=hunter22#x"}))
        told[reason] = notice_of(secret, find_key=find_key)
    assert told[DisabledReason.OWNER] is None
    for reason in (DisabledReason.GONE, DisabledReason.FAILING):
        notice = told[reason]
        assert notice is not None
        assert notice.name == "https://hooks.example/in"


def test_a_mail_is_tried_for_three_days() -> None:
    """A relay that is away over a weekend loses nothing, and one that greylists is asked again in time."""
    hours = sum(delay.total_seconds() for delay in RETRIES) / 3600
    assert 70 <= hours <= 80
    assert list(RETRIES) == sorted(RETRIES)

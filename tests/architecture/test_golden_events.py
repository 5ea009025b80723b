"""Stored events are a public schema: what is in a ledger today is read by every later release, to the byte.

When an event class changes, this test shows how its stored form would; a new event adds its line to the golden file
with `KEYLEDGER_WRITE_GOLDEN=1 pytest tests/architecture/test_golden_events.py`, and no line is ever edited.
"""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from eventsourcing.persistence import StoredEvent

from application.event_json import EventJson
from domain.access import Networks, Plan, Scopes
from domain.api_key import GraceStart, RevocationReason
from domain.destination import WebhookUrl
from domain.events import RETIRED_TOPICS, Aggregate, Event
from domain.mail_address import MailAddress
from domain.naming import Name, Note
from domain.notices import NoticeKind
from domain.webhook_endpoint import DisabledReason, Subscriptions
from tests.kit.builders import NOON, a_campaign, a_key, a_webhook, an_account, an_imported_key, key_id, origin
from tests.kit.hooks import a_failed_webhook
from tests.kit.rotations import rotations_of_every_kind
from tests.kit.usage import a_purge, a_usage_run

GOLDEN = Path(__file__).parent / "golden_events.jsonl"
DAY = timedelta(days=1)


def specimens() -> list[Aggregate]:
    """Aggregates that between them have recorded every kind of event."""
    account = an_account()
    account.change_plan(Plan.TEAM, by=origin())
    account.suspend(by=origin())
    account.reinstate(by=origin())
    muted = [NoticeKind.ROTATION_REMINDER, NoticeKind.ATTACKED]
    account.change_notices(email=MailAddress("keys@acme.example"), muted=muted, by=origin())
    key = a_key(number=1, expires_at=NOON + 200 * DAY)
    key.rename(Name("Billing"), by=origin())
    key.rescope(Scopes.parse(["campaigns:*", "keys:read"]), by=origin())
    key.restrict(Networks.parse(["203.0.113.0/24", "2001:db8::/32"]), by=origin())
    key.disable(by=origin())
    key.enable(by=origin())
    key.fall_due(by=origin(NOON + 90 * DAY))
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(NOON + 91 * DAY))
    key.begin_grace(first_use=NOON + 92 * DAY, by=origin(NOON + 92 * DAY))
    key.revoke(reason=RevocationReason.COMPROMISED, note=Note("seen in a log"), by=origin(NOON + 92 * DAY))
    expired = a_key(number=3, expires_at=NOON + DAY)
    expired.expire(by=origin(NOON + DAY))
    expired.note_attack(failed_attempts=60, since=NOON, by=origin(NOON + DAY, actor="system:suspicion"))
    expired.note_presented_after_end(attempts=3, last_at=NOON + DAY, by=origin(NOON + DAY, actor="system:suspicion"))
    imported = an_imported_key(number=4, external_id=Name("k-17"), created_at=NOON - DAY)
    webhook = a_webhook(description=Note("rota"))
    moved, less = WebhookUrl("https://hooks.acme.example/2"), Subscriptions.parse(["key.*"])
    webhook.update(url=moved, events=less, description=None, by=origin())
    webhook.rotate_secret(grace=DAY, by=origin())
    webhook.test(by=origin())
    webhook.disable(reason=DisabledReason.FAILING, by=origin(actor="system:webhooks"))
    webhook.enable(by=origin())
    webhook.delete(by=origin())
    others = [a_usage_run(), a_purge(), *rotations_of_every_kind(), webhook, *a_failed_webhook()]
    return [account, a_campaign(), key, expired, imported, *others]


def lines() -> dict[str, str]:
    """The stored form of the first specimen of each topic, as one line of JSON."""
    mapper = EventJson()
    found: dict[str, str] = {}
    for aggregate in specimens():
        for event in aggregate.pending_events:
            stored = mapper.to_stored_event(event)
            line = {
                "topic": stored.topic,
                "stream_id": stored.originator_id,
                "version": stored.originator_version,
                "state": json.loads(stored.state),
            }
            found.setdefault(stored.topic, json.dumps(line, ensure_ascii=False))
    return found


def all_topics() -> set[str]:
    """The topics of every event class there is."""
    found: set[str] = set()
    kinds: list[type[Any]] = [Event]
    while kinds:
        kind = kinds.pop()
        kinds.extend(kind.__subclasses__())
        if "TOPIC" in kind.__dict__:
            found.add(kind.TOPIC)
    return found


def golden() -> dict[str, str]:
    """The file, by topic."""
    if os.environ.get("KEYLEDGER_WRITE_GOLDEN") == "1":
        GOLDEN.write_text("".join(f"{line}\n" for _, line in sorted(lines().items())), encoding="utf-8")
    return {json.loads(line)["topic"]: line for line in GOLDEN.read_text(encoding="utf-8").splitlines()}


def test_every_kind_of_event_has_a_golden_line() -> None:
    """No event is without its pinned form, and no retired topic is used again."""
    assert all_topics() == set(golden())
    assert not all_topics() & RETIRED_TOPICS


@pytest.mark.parametrize("topic", sorted(all_topics()))
def test_an_event_is_stored_as_it_always_was(topic: str) -> None:
    """The stored form of each event is the golden one."""
    assert lines()[topic] == golden()[topic]


@pytest.mark.parametrize("topic", sorted(all_topics()))
def test_a_golden_event_is_read_and_written_back_the_same(topic: str) -> None:
    """What was stored long ago still becomes an event, and loses nothing on the way."""
    line = json.loads(golden()[topic])
    state = json.dumps(line["state"], separators=(",", ":"), ensure_ascii=False).encode()
    mapper = EventJson()
    stored = StoredEvent(originator_id=line["stream_id"], originator_version=line["version"], topic=topic, state=state)
    assert mapper.to_stored_event(mapper.to_domain_event(stored)) == stored


def test_fields_of_a_newer_release_are_ignored() -> None:
    """The previous release runs on events that the next one writes."""
    mapper = EventJson()
    line = json.loads(golden()["key.renamed"])
    stored = StoredEvent(
        originator_id=line["stream_id"],
        originator_version=line["version"],
        topic="key.renamed",
        state=json.dumps(line["state"] | {"added_later": [1, 2]}).encode(),
    )
    assert mapper.to_domain_event(stored).name == "Billing"  # type: ignore[attr-defined]

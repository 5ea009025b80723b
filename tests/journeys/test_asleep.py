"""A service that slept: stopped, and opened again 91 days later by the clock of its machine (Debian's `faketime`)."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from domain.access import Plan
from domain.mail_address import MailAddress
from domain.naming import Name
from tests.kit.faketime import IS_AVAILABLE
from tests.kit.http_server import Key
from tests.kit.inside import inside
from tests.kit.mail_receiver import MailReceiver
from tests.kit.service import HOST, Service, eventually
from tests.kit.webhooks import WebhookReceiver

pytestmark = [
    pytest.mark.journey,
    pytest.mark.skipif(not IS_AVAILABLE, reason="faketime or a C compiler is not installed"),
]

ASLEEP = timedelta(days=91)
OWNERS = 5
EVERYTHING = {("email", "delivered"), ("webhook", "delivered")}


def owners(service: Service) -> dict[str, Key]:
    """By address, owners with a key each."""
    found: dict[str, Key] = {}
    with inside(service) as back:
        for number in range(OWNERS):
            address = MailAddress(f"owner{number}@example.com")
            account = back.manage.accounts.open(name=Name("Acme"), email=address, plan=Plan.SCALE, by=back.origin())
            found[address] = back.key(account.account_id)
    return found


def mails_of(receiver: MailReceiver, list_id: str) -> Counter[str]:
    """How many mails of that kind each address has received."""
    return Counter(
        mail.recipients[0] for mail in receiver.mails if str(mail.message["List-Id"]).startswith(f"<{list_id}.")
    )


def topics(service: Service, topic: str) -> Counter[str]:
    """How often each account's ledger says that."""
    with psycopg.connect(service.conninfo) as connection:
        rows = connection.execute(
            "SELECT convert_from(state, 'UTF8')::jsonb ->> 'account_id' FROM ledger.events WHERE topic = %s", [topic]
        )
        return Counter(account for (account,) in rows)


def endpoints(service: Service, receiver: WebhookReceiver, keys: dict[str, Key]) -> None:
    """Gives each owner an endpoint, made with the owner's key: at the receiver's path of that key, told what is due."""
    secrets: list[str] = []
    for key in keys.values():
        with service.client(key.secret) as client:
            body = {"url": receiver.url(f"/{key.id}"), "events": ["key.rotation_due"]}
            secrets.append(client.done("POST", "/api/webhooks", body)["secret"])
    receiver.knows(*secrets)


def sent(service: Service) -> set[tuple[str, str]]:
    """In which states the messages of each way to the outside are."""
    with psycopg.connect(service.conninfo) as connection:
        return set(connection.execute("SELECT channel, state FROM outbox.messages"))


def seen(service: Service, key: Key) -> Any:
    """A key as its owner sees it, by means of itself: it is accepted."""
    with service.client(key.secret) as client:
        return client.done("GET", key.path)


def test_opened_again_after_91_days(place: Path) -> None:
    """Every key is flagged and accepted still, every owner mailed and every webhook called, once; no more later."""
    with MailReceiver(place / "mail") as receiver, WebhookReceiver(place / "hooks", ahead=ASLEEP) as hooks:
        settings = {
            "smtp_url": f"smtp://{HOST}:{receiver.port}",
            "mail_from": "keyledger@acme.example",
            "webhook_allowed_networks": "127.0.0.0/8",
        }
        with Service(place, **settings) as service:
            keys = owners(service)
            endpoints(service, hooks, keys)
            receiver.await_mails(OWNERS + 1)  # of each new key one, and one of the demo's
            assert {seen(service, key)["status"] for key in keys.values()} == {"active"}
            for _ in range(2):
                service.stop()
                service.start(ahead=ASLEEP)
                assert service.demo_key

                def are_told() -> bool:
                    return len(topics(service, "rotation.notified")) == OWNERS + 1

                eventually(are_told, "every rotation has told its owner")
                receiver.await_mails(2 * (OWNERS + 1))
                eventually(lambda: len(hooks.hits()) >= OWNERS, "every webhook is called")
                eventually(lambda: sent(service) == EVERYTHING, "and that is on record")
                assert {seen(service, key)["status"] for key in keys.values()} == {"rotation_due"}
            service.stop()
            service.start(ahead=ASLEEP + timedelta(hours=1))
            assert sent(service) == EVERYTHING
            assert set(topics(service, "rotation.notified").values()) == {1}
        once = dict.fromkeys([*keys, "demo@example.com"], 1)
        assert mails_of(receiver, "key-created") == once
        assert mails_of(receiver, "rotation-due") == once
        assert len(receiver.mails) == 2 * (OWNERS + 1)
        calls = [(hit["path"], json.loads(hit["body"])["type"], hit["verified_by"]) for hit in hooks.hits()]
        # Each by its own endpoint's secret, within the five minutes that its receiver tolerates.
        assert sorted(calls) == sorted((f"/{key.id}", "key.rotation_due", at) for at, key in enumerate(keys.values()))

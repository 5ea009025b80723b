"""A service that slept: stopped, and opened again 91 days later by the clock of its machine (Debian's `faketime`)."""

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

pytestmark = [
    pytest.mark.journey,
    pytest.mark.skipif(not IS_AVAILABLE, reason="faketime or a C compiler is not installed"),
]

ASLEEP = timedelta(days=91)
OWNERS = 5


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


def seen(service: Service, key: Key) -> Any:
    """A key as its owner sees it, by means of itself: it is accepted."""
    with service.client(key.secret) as client:
        return client.done("GET", key.path)


def test_opened_again_after_91_days(place: Path) -> None:
    """Every key is flagged, every owner mailed once, every key accepted still; and the next start says nothing more."""
    with MailReceiver(place / "mail") as receiver:
        settings = {"smtp_url": f"smtp://{HOST}:{receiver.port}", "mail_from": "keyledger@acme.example"}
        with Service(place, **settings) as service:
            keys = owners(service)
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
                assert {seen(service, key)["status"] for key in keys.values()} == {"rotation_due"}
            service.stop()
            service.start(ahead=ASLEEP + timedelta(hours=1))
            with psycopg.connect(service.conninfo) as connection:
                states = connection.execute("SELECT DISTINCT state FROM outbox.messages WHERE channel = 'email'")
                assert states.fetchall() == [("delivered",)]
            assert set(topics(service, "rotation.notified").values()) == {1}
        once = dict.fromkeys([*keys, "demo@example.com"], 1)
        assert mails_of(receiver, "key-created") == once
        assert mails_of(receiver, "rotation-due") == once
        assert len(receiver.mails) == 2 * (OWNERS + 1)

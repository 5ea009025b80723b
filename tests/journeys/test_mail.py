"""Mail to owners over a real SMTP server that comes, goes, stalls, refuses and forgets: each arrives, under one id.

The long round also says what the API's answers cost meanwhile, beside what they cost when all is well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from statistics import quantiles
from threading import Event as Flag
from threading import Thread
from time import monotonic, perf_counter

import psycopg
import pytest

from domain.access import Plan
from domain.ids import AccountId
from domain.mail_address import MailAddress
from domain.naming import Name
from tests.kit.http import Client
from tests.kit.http_server import Back
from tests.kit.inside import inside
from tests.kit.mail_receiver import MailReceiver
from tests.kit.service import HOST, Service, eventually

pytestmark = pytest.mark.journey

DOMAIN = "acme.example"
TWO = 2
"""Less has no quantiles."""
OF_THE_DEMO = 1
"""The first start makes a key, too."""
REFUSED = "550 5.7.1 not this one"


@dataclass(frozen=True, slots=True)
class Size:
    """How long a round lasts at least, and how much happens in it; a stalled server says nothing for so long."""

    seconds: float
    stall_seconds: float
    keys: int
    accounts: int

    @property
    def mails(self) -> int:
        """How many mails a round makes."""
        return 2 * self.keys * self.accounts

    def troubles(self) -> dict[str, str]:
        """What befalls the mail server, one after another, each as it is told."""
        return {
            "down": "down",
            f"stalled {self.stall_seconds:g} s": f"stall {self.stall_seconds:g}",
            "4xx": "451 4.3.2 try again",
            "5xx": REFUSED,
            "accepted, then dropped": "drop",
            "hangs up": "hang up",
        }

    def lasts(self, word: str) -> float:
        """How long, at least, the server does that; a stalled one until it has said something."""
        return self.seconds and self.seconds + (self.stall_seconds if word.startswith("stall") else 0)


SHORT = Size(seconds=0, stall_seconds=1, keys=1, accounts=2)
LONG = Size(seconds=20, stall_seconds=30, keys=6, accounts=6)


class Probe(Thread):
    """Uses a key on one connection until it is told to stop; ``milliseconds``: what each answer took."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.milliseconds: list[float] = []
        self.statuses: set[int] = set()
        self._client = client
        self._done = Flag()

    def run(self) -> None:
        """One request after another."""
        while len(self.milliseconds) < TWO or not self._done.is_set():
            began = perf_counter()
            self.statuses.add(self._client.get("/api/campaigns").status)
            self.milliseconds.append((perf_counter() - began) * 1000)

    def end(self) -> list[float]:
        """Each request was answered; the hundredths of what they took."""
        self._done.set()
        self.join()
        self._client.close()
        assert self.statuses == {200}
        return quantiles(self.milliseconds, n=100)


@dataclass
class Town:
    """A service, its mail server, and accounts with an address each."""

    service: Service
    receiver: MailReceiver
    back: Back
    accounts: list[AccountId]

    def happenings(self, count: int) -> None:
        """Two mails for each of so many keys of each account."""
        for account in self.accounts:
            for _ in range(count):
                key = self.back.key(account)
                with self.service.client(key.secret) as client:
                    client.done("POST", f"{key.path}/revoke", {"reason": "compromised"})

    def mails(self) -> dict[str, tuple[str, int]]:
        """Every mail's state and attempts made, by its Message-ID."""
        with psycopg.connect(self.service.conninfo) as connection:
            rows = connection.execute(
                """
                SELECT m.id, m.state, (SELECT count(*) FROM outbox.attempts AS a WHERE a.message_id = m.id)
                FROM outbox.messages AS m WHERE m.channel = 'email'
                """
            )
            return {f"<{message}@{DOMAIN}>": (state, attempts) for message, state, attempts in rows}

    def befall(self, word: str) -> None:
        """From now on the mail server does that."""
        self.receiver.stop()
        if word != "down":
            self.receiver.start()
            self.receiver.will(then=word)

    def await_mails(self, count: int) -> None:
        """Returns once that many mails are made."""
        eventually(lambda: len(self.mails()) == count, f"{count} mails are made")

    def await_attempts(self, known: set[str], *, at_least: float) -> None:
        """Returns once that share of the mails that were not known before has been tried."""

        def are_tried() -> bool:
            tried = [attempts > 0 for message, (_, attempts) in self.mails().items() if message not in known]
            return sum(tried) >= at_least * len(tried)

        eventually(are_tried, "they were tried")

    def round(self, word: str, size: Size) -> tuple[list[float], set[str]]:
        """The server does that while keys come and go: what the API's answers took, and the mails that were made."""
        known = set(self.mails())
        self.befall(word)
        began, probe = monotonic(), Probe(self.service.client(self.service.demo_key))
        probe.start()
        self.happenings(size.keys)
        self.await_mails(len(known) + size.mails)
        # One that stalls for long stalls a few at once: the others wait their turn.
        self.await_attempts(known, at_least=0.05 if size.seconds and word.startswith("stall") else 1)
        eventually(lambda: monotonic() >= began + size.lasts(word), "the round is over")
        made = set(self.mails()) - known
        if word == REFUSED:
            self.await_ends()
        took = probe.end()
        self.befall("accept")
        self.await_ends()
        return took, made

    def await_ends(self) -> None:
        """Lets time pass, so that what waits for its next attempt is due, until every mail has come to its end."""

        def have_ended() -> bool:
            with psycopg.connect(self.service.conninfo) as connection:
                connection.execute("UPDATE outbox.messages SET next_at = now() WHERE state = 'pending'")
            return all(state != "pending" for state, _ in self.mails().values())

        eventually(have_ended, "every mail has come to its end")


@contextmanager
def a_town(place: Path, accounts: int) -> Iterator[Town]:
    """All of it, running."""
    with MailReceiver(place / "mail") as receiver:
        settings = {
            "smtp_url": f"smtp://{HOST}:{receiver.port}",
            "mail_from": f"Keyledger <keyledger@{DOMAIN}>",
            "public_url": "https://keys.acme.example",
        }
        with Service(place, **settings) as service, inside(service) as back:
            opened = [
                back.manage.accounts.open(
                    name=Name("Acme"), email=MailAddress(f"owner{n}@example.com"), plan=Plan.SCALE, by=back.origin()
                ).account_id
                for n in range(accounts)
            ]
            yield Town(service, receiver, back, opened)


def test_without_a_mail_server_mail_is_in_the_mailbox_and_its_link_works(service: Service) -> None:
    """A new key's mail is a file with a link that, once confirmed, stops mails of its kind."""
    mailbox = service.data_dir / "mailbox"
    with service.client(service.demo_key) as owner, service.client() as reader:
        prefix = owner.done("POST", "/api/keys", {"name": "Mailed", "environment": "live"})["prefix"]

        def found() -> list[EmailMessage]:
            read = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in mailbox.glob("*.eml")]
            return [mail for mail in read if isinstance(mail, EmailMessage) and prefix in mail["Subject"]]

        eventually(found, "the mail is in the mailbox")
        [mail] = found()
        assert (mail["To"], mail["Subject"]) == ("demo@example.com", f"New API key “Mailed” ({prefix})")
        link = mail["List-Unsubscribe"].strip("<>").removeprefix(service.url)
        assert reader.get(link).status == 200
        assert owner.done("GET", "/api/notifications")["notices"]["key_created"] is True
        assert reader.post(link).status == 200
        assert owner.done("GET", "/api/notifications")["notices"]["key_created"] is False
        back = {"notices": {"key_created": True}}
        assert owner.done("PATCH", "/api/notifications", back)["notices"]["key_created"] is True


def test_mail_arrives_whatever_befalls_its_server(place: Path, full: bool) -> None:
    """Each mail that was not refused for good arrives under its one id; what was refused is on record as failed."""
    size = LONG if full else SHORT
    made: dict[str, set[str]] = {}
    with a_town(place, size.accounts) as town:
        town.await_mails(OF_THE_DEMO)
        well, made["well"] = town.round("accept", size)
        for name, word in size.troubles().items():
            if full:  # next to one another, since other work on the machine comes and goes
                well, made[f"well before {name}"] = town.round("accept", size)
            ill, made[name] = town.round(word, size)
            if not full:  # too few answers for figures
                continue
            print(  # noqa: T201 - the figures of the round
                f"{name:<23}p50 {ill[49]:6.2f} ms (well: {well[49]:6.2f}, ratio {ill[49] / well[49]:.2f}), "
                f"p99 {ill[98]:6.2f} ms (well: {well[98]:6.2f}, ratio {ill[98] / well[98]:.2f})"
            )
        mails, times = town.mails(), town.receiver.times_by_id()
    again = {message for message, count in times.items() if count > 1}
    print(f"{len(times)} mails arrived, {len(again)} more than once, {len(made['5xx'])} refused for good")  # noqa: T201 - as above
    assert {message for message, (state, _) in mails.items() if state == "failed"} == made["5xx"]
    assert {message for message, (state, _) in mails.items() if state == "delivered"} == set(times)
    assert len(mails) == len(times) + size.mails == OF_THE_DEMO + size.mails * len(made)
    assert again >= made["accepted, then dropped"], "what was taken and then dropped came again, under the same id"

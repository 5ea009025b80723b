"""Mail to owners over a real SMTP server that comes, goes, stalls, refuses and forgets: each arrives, under one id.

The long round also says what the API's answers cost meanwhile, beside what they cost when all is well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

    def troubles(self) -> dict[str, tuple[str, float]]:
        """What befalls the mail server, one after another: its word, and how long it lasts."""
        stall = f"stall {self.stall_seconds:g}"
        return {
            "well": ("accept", self.seconds),
            "down": ("down", self.seconds),
            f"{stall} s": (stall, self.seconds and self.stall_seconds + self.seconds),
            "4xx": ("451 4.3.2 try again", self.seconds),
            "5xx": (REFUSED, self.seconds),
            "accepted, then dropped": ("drop", self.seconds),
            "hangs up": ("hang up", self.seconds),
            "well again": ("accept", self.seconds),
        }


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

    def end(self, name: str) -> None:
        """Says what its requests took; each must have been answered."""
        self._done.set()
        self.join()
        self._client.close()
        cuts = quantiles(self.milliseconds, n=100)
        print(f"{name:<24}p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms of {len(self.milliseconds)}")  # noqa: T201 - figures
        assert self.statuses == {200}


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
        """Returns once that many mails are made, and each has been tried."""
        eventually(lambda: len(self.mails()) == count, f"{count} mails are made")
        eventually(lambda: all(attempts for _, attempts in self.mails().values()), "each was tried")

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


def test_mail_arrives_whatever_befalls_its_server(place: Path, full: bool) -> None:
    """Each mail that was not refused for good arrives under its one id; what was refused is on record as failed."""
    size = LONG if full else SHORT
    refused: set[str] = set()
    with a_town(place, size.accounts) as town:
        town.await_mails(OF_THE_DEMO)
        for name, (word, seconds) in size.troubles().items():
            known = set(town.mails())
            town.befall(word)
            began, probe = monotonic(), Probe(town.service.client(town.service.demo_key))
            probe.start()
            town.happenings(size.keys)
            town.await_mails(len(known) + size.mails)
            eventually(lambda until=began + seconds: monotonic() >= until, "the round is over")
            probe.end(name)
            if word == REFUSED:
                town.await_ends()
                refused = set(town.mails()) - known
            town.befall("accept")
            town.await_ends()
        mails, times = town.mails(), town.receiver.times_by_id()
    again = sum(count > 1 for count in times.values())
    print(f"{len(times)} mails arrived, {again} more than once, {len(refused)} refused for good")  # noqa: T201 - a figure
    assert {message for message, (state, _) in mails.items() if state == "failed"} == refused
    assert {message for message, (state, _) in mails.items() if state == "delivered"} == set(times)
    assert len(mails) == len(times) + len(refused) == OF_THE_DEMO + size.mails * len(size.troubles())
    assert len(refused) == size.mails
    assert again >= size.mails, "what was taken and then dropped came again, under the same id"

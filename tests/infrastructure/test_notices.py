"""Notices from the ledger to the post office: each once, by the account's preferences, and again while it fails."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from application.ledger import Ledger
from application.mail import Posted, Posting
from application.notifications import RETRIES, NoticeCarrier
from domain.account import Account
from domain.api_key import ApiKey, RevocationReason
from domain.mail_address import MailAddress
from domain.notices import NoticeKind
from infrastructure.eventstore import PostgresLedgerFactory, PostgresRecorder
from infrastructure.hashing import SecretRing
from infrastructure.outbox import Channel, OutboxDelivery, OutboxFollower
from infrastructure.postgres.accounts import AccountsView, PostgresAccounts
from infrastructure.postgres.keys import KeysView
from infrastructure.postgres.notices import NoticeSource
from infrastructure.postgres.outbox import PostgresOutbox
from infrastructure.postgres.pool import Database
from infrastructure.system import SystemEntropy
from tests.kit.builders import NOON, SettableClock, a_key, account_id, an_account, key_id, origin
from tests.kit.post_offices import ScriptedPostOffice

URL = "https://keys.acme.example"
LONG = timedelta(days=5)


@dataclass
class Post:
    """A ledger with one account, and the way of its notices, step by step."""

    database: Database
    ledger: Ledger
    recorder: PostgresRecorder
    office: ScriptedPostOffice = field(default_factory=ScriptedPostOffice)
    clock: SettableClock = field(default_factory=SettableClock)

    def __post_init__(self) -> None:
        carrier = NoticeCarrier(
            post_office=self.office,
            accounts=PostgresAccounts(self.database),
            seals=SecretRing([b"s" * 32]),
            public_url=URL,
        )
        channel = Channel("email", NoticeSource(), carrier)
        self._follower = OutboxFollower(self.database, self.recorder, channel, self.clock)
        self._delivery = OutboxDelivery(
            PostgresOutbox(self.database),
            channel,
            clock=self.clock,
            entropy=SystemEntropy(),
            count=lambda _channel, _result, _seconds: None,
        )

    def make(self) -> None:
        """Makes the mails of what has happened."""
        while self._follower.catch_up():
            pass

    def deliver(self) -> None:
        """And hands over what is due."""
        self.make()
        self._delivery.deliver_due()

    def rows(self) -> list[tuple[str, str, str, int]]:
        """Kind, address, state and attempts of every mail, in the order of their making."""
        with self.database.cursor() as cursor:
            return cursor.execute(
                "SELECT kind, target, state, attempts FROM outbox.messages ORDER BY number"
            ).fetchall()

    def errors(self) -> list[str]:
        """What went wrong, attempt by attempt."""
        with self.database.cursor() as cursor:
            rows = cursor.execute("SELECT error FROM outbox.attempts ORDER BY at, message_id, number").fetchall()
        return [error for (error,) in rows if error is not None]

    def change_notices(self, *, email: str | None = None, muted: Sequence[NoticeKind] = ()) -> None:
        """The account's say."""
        address = None if email is None else MailAddress(email)
        self.ledger.change(Account, account_id(), lambda it: it.change_notices(email=address, muted=muted, by=origin()))

    def revoke(self, number: int, reason: RevocationReason = RevocationReason.COMPROMISED) -> None:
        """A key's end."""
        self.ledger.change(ApiKey, key_id(number), lambda key: key.revoke(reason=reason, note=None, by=origin()))


@pytest.fixture
def post(database: Database) -> Iterator[Post]:
    recorder = PostgresRecorder(database, [AccountsView(), KeysView()])
    with Ledger(PostgresLedgerFactory(recorder)) as ledger:
        ledger.append(an_account())
        yield Post(database, ledger, recorder)


def test_what_happens_to_a_key_is_mailed_once(post: Post) -> None:
    """Each event one mail to the account's address, however often the follower and the delivery run."""
    post.ledger.append(a_key(number=1))
    post.revoke(1)
    for _ in range(3):
        post.deliver()
    assert post.rows() == [
        ("key_created", "owner@example.com", "delivered", 1),
        ("compromised", "owner@example.com", "delivered", 1),
    ]
    created, compromised = post.office.mails
    assert created.subject == "New API key “Production API” (sk_live_000000001)"
    assert created.mute_url is not None
    assert created.mute_url.startswith(f"{URL}/notifications/mute?token=")
    assert compromised.mute_url is None
    assert f"{URL}/next/{key_id(1)}" in compromised.text
    assert created.id != compromised.id


def test_a_name_is_the_one_that_the_key_has(post: Post) -> None:
    """An event without a name is told with the key's."""
    key = a_key(number=1)
    post.ledger.append(key)
    key.rename(type(key.name)("Billing"), by=origin())
    post.ledger.append(key)
    post.revoke(1, RevocationReason.UNUSED)
    post.deliver()
    assert post.office.mails[-1].subject == "API key “Billing” (sk_live_000000001) was revoked"


def test_what_is_muted_is_not_made(post: Post) -> None:
    """The owner's say at the moment of the event counts; security notices stop only by name."""
    post.change_notices(muted=[NoticeKind.KEY_CREATED, NoticeKind.REVOKED])
    post.ledger.append(a_key(number=1), a_key(number=2))
    post.revoke(1)
    post.revoke(2, RevocationReason.OTHER)
    post.deliver()
    assert [kind for kind, *_ in post.rows()] == ["compromised"]


def test_what_is_muted_before_it_is_sent_is_cancelled(post: Post) -> None:
    """A mail that waits is not sent to somebody who has turned its kind off since."""
    post.ledger.append(a_key(number=1))
    post.make()
    post.change_notices(muted=[NoticeKind.KEY_CREATED])
    post.deliver()
    assert post.rows() == [("key_created", "owner@example.com", "cancelled", 1)]
    assert post.office.mails == []


def test_notices_go_to_the_address_of_the_moment_and_the_former_one_is_told(post: Post) -> None:
    """The one mail that says that they moved goes where they went before; so does one about silenced security."""
    post.change_notices(email="keys@acme.example")
    post.ledger.append(a_key(number=1))
    post.change_notices(email="keys@acme.example", muted=[NoticeKind.RETIRED])
    post.change_notices(email="keys@acme.example", muted=[NoticeKind.RETIRED, NoticeKind.ATTACKED])
    post.deliver()
    assert [(kind, target) for kind, target, *_ in post.rows()] == [
        ("notices_changed", "owner@example.com"),
        ("key_created", "keys@acme.example"),
        ("notices_changed", "keys@acme.example"),
    ]


def test_notices_that_are_made_late_are_those_of_their_moment(post: Post) -> None:
    """While the follower is away somebody moves the notices and mutes some, then unmutes: neither concerns the past."""
    post.change_notices(email="keys@acme.example", muted=[NoticeKind.KEY_CREATED])
    post.ledger.append(a_key(number=1))
    post.revoke(1)
    post.change_notices(email="thief@evil.example", muted=[NoticeKind.RETIRED])
    post.ledger.append(a_key(number=2))
    post.change_notices(email="thief@evil.example")
    post.make()
    assert [(kind, target) for kind, target, *_ in post.rows()] == [
        ("notices_changed", "owner@example.com"),
        ("compromised", "keys@acme.example"),
        ("notices_changed", "keys@acme.example"),
        ("key_created", "thief@evil.example"),
    ]


def test_notices_of_before_any_choice_go_to_the_accounts_own_address(post: Post) -> None:
    """Also when they are made once it has been moved."""
    post.ledger.append(a_key(number=1))
    post.change_notices(email="thief@evil.example", muted=[NoticeKind.KEY_CREATED])
    post.make()
    assert [(kind, target) for kind, target, *_ in post.rows()] == [
        ("key_created", "owner@example.com"),
        ("notices_changed", "owner@example.com"),
    ]


def test_a_notice_of_a_suspended_account_knows_that_it_is(post: Post) -> None:
    """So it does not say that a key works that is refused."""
    key = a_key(number=1)
    key.note_attack(failed_attempts=60, since=NOON, by=origin())
    post.ledger.change(Account, account_id(), lambda account: account.suspend(by=origin()))
    post.ledger.append(key)
    post.deliver()
    assert "still works" not in post.office.mails[-1].text


def answering(*postings: Posting) -> Callable[..., Posted]:
    """An office that answers so in turn, and takes what comes after."""
    left = list(postings)
    return lambda _: Posted(left.pop(0) if left else Posting.ACCEPTED, "450 not now", 450)


def test_a_mail_that_fails_for_now_is_tried_again_the_same(post: Post) -> None:
    """By the schedule; every attempt has the same id, date, words and link."""
    post.office.answer = answering(*[Posting.LATER] * len(RETRIES))
    post.ledger.append(a_key(number=1))
    for _ in range(len(RETRIES) + 1):
        post.deliver()
        post.clock.advance(LONG)
    assert post.rows() == [("key_created", "owner@example.com", "delivered", len(RETRIES) + 1)]
    assert len(post.office.mails) == len(RETRIES) + 1
    assert all(mail == post.office.mails[0] for mail in post.office.mails)
    assert post.errors() == ["450 not now"] * len(RETRIES)


def test_it_is_given_up_after_its_last_retry(post: Post) -> None:
    """And that is on record."""
    post.office.answer = answering(*[Posting.LATER] * 100)
    post.ledger.append(a_key(number=1))
    for _ in range(len(RETRIES) + 5):
        post.deliver()
        post.clock.advance(LONG)
    assert post.rows() == [("key_created", "owner@example.com", "failed", len(RETRIES) + 1)]


def test_a_mail_that_fails_for_good_is_not_tried_again(post: Post) -> None:
    """It is on record, with what the server said, and holds nothing up."""
    post.office.answer = answering(Posting.NEVER)
    post.ledger.append(a_key(number=1), a_key(number=2))
    post.deliver()
    post.clock.advance(LONG)
    post.deliver()
    assert sorted(state for _, _, state, _ in post.rows()) == ["delivered", "failed"]
    assert post.errors() == ["450 not now"]


def test_an_account_whose_address_is_none_fails_and_says_so(post: Post) -> None:
    """An address from before addresses were checked: no mail, nothing sent elsewhere, the others go on."""
    other = Account.open(
        account_id(2), by=origin(), name=post.ledger.load(Account, account_id()).name, email="not one> at all",
        plan=post.ledger.load(Account, account_id()).plan,
    )  # fmt: skip
    post.ledger.append(other, a_key(number=1, owner=account_id(2)), a_key(number=2))
    post.deliver()
    assert [(target, state) for _, target, state, _ in post.rows()] == [
        ("not one> at all", "failed"),
        ("owner@example.com", "delivered"),
    ]
    assert post.errors() == ["the account's address is not an e-mail address"]

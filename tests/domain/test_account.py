"""An account's notices: where they go, which are not sent, and what the former address is to be told."""

from domain.account import Account, NoticesChanged
from domain.mail_address import MailAddress
from domain.notices import MUTABLE, NoticeKind
from tests.kit.builders import an_account, origin

ELSEWHERE = MailAddress("keys@acme.example")


def changes(account: Account) -> list[NoticesChanged]:
    """What was recorded about notices."""
    return [event for event in account.pending_events if isinstance(event, NoticesChanged)]


def test_notices_go_to_the_accounts_own_address_until_told_otherwise() -> None:
    """And come back to it; the event names where they went before."""
    account = an_account()
    assert account.notices_go_to == "owner@example.com"
    account.change_notices(email=ELSEWHERE, muted=(), by=origin())
    assert account.notices_go_to == ELSEWHERE
    account.change_notices(email=None, muted=(), by=origin())
    assert account.notices_go_to == "owner@example.com"
    assert [change.former_email for change in changes(account)] == ["owner@example.com", ELSEWHERE]


def test_the_same_preferences_record_nothing() -> None:
    """In whatever order they are given."""
    account = an_account()
    account.change_notices(email=None, muted=(), by=origin())
    assert changes(account) == []
    for muted in ([NoticeKind.RETIRED, NoticeKind.EXPIRING], [NoticeKind.EXPIRING, NoticeKind.RETIRED]):
        account.change_notices(email=None, muted=muted, by=origin())
    assert [change.muted for change in changes(account)] == [("retired", "expiring")]


def test_the_event_names_the_security_notices_that_have_stopped() -> None:
    """Those newly muted alone."""
    account = an_account()
    account.change_notices(email=None, muted=[NoticeKind.RETIRED], by=origin())
    account.change_notices(email=None, muted=[NoticeKind.RETIRED, NoticeKind.ATTACKED], by=origin())
    account.change_notices(email=None, muted=[NoticeKind.ATTACKED, NoticeKind.COMPROMISED], by=origin())
    assert [change.silenced for change in changes(account)] == [(), ("attacked",), ("compromised",)]


def test_what_tells_of_the_change_itself_cannot_be_muted() -> None:
    """Asked for, it is left out."""
    account = an_account()
    account.change_notices(email=None, muted=list(NoticeKind), by=origin())
    assert account.muted == frozenset(MUTABLE)
    assert NoticeKind.NOTICES_CHANGED not in account.muted


def test_a_kind_that_a_newer_release_knows_is_passed_over() -> None:
    """Its event is read, and the rest of it holds."""
    account = an_account()
    account.change_notices(email=None, muted=[NoticeKind.RETIRED], by=origin())
    [change] = changes(account)
    newer = NoticesChanged(**(vars(change) | {"muted": ("retired", "of_tomorrow")}))
    newer.apply(account)
    assert account.muted == {NoticeKind.RETIRED}

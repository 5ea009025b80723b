"""A key's life: what each command records, and what it refuses."""

from datetime import UTC, datetime, timedelta

import pytest

from domain.access import Networks, Scopes
from domain.api_key import ApiKey, GraceStart, KeyStateError, RevocationReason
from domain.api_key_events import (
    Created,
    Disabled,
    Enabled,
    Expired,
    GraceBegan,
    NetworksChanged,
    Renamed,
    Rescoped,
    Revoked,
    Rotated,
    RotationFellDue,
)
from domain.errors import ConflictError
from domain.events import Event, Origin
from domain.key_status import KeyStatus, revoked_since
from domain.naming import Name, Note
from tests.kit.builders import NOON, a_key, key_id, origin

DAY = timedelta(days=1)


def recorded(key: ApiKey) -> list[type[Event]]:
    """The kinds of the events that the key has recorded since its creation, in order."""
    return [type(event) for event in key.pending_events[1:]]  # type: ignore[misc]


def revoke_compromised(key: ApiKey, by: Origin) -> None:
    """Its owner revokes it."""
    key.revoke(reason=RevocationReason.COMPROMISED, note=None, by=by)


def test_a_new_key_is_active_and_due_after_ninety_days() -> None:
    """Creation records one event, and the rotation date follows from it."""
    key = a_key()
    assert [type(event) for event in key.pending_events] == [Created]
    assert key.rotation_due_at == NOON + 90 * DAY
    assert key.status(NOON + 90 * DAY - timedelta(microseconds=1)) is KeyStatus.ACTIVE
    assert key.status(NOON + 90 * DAY) is KeyStatus.ROTATION_DUE


def test_every_event_carries_actor_request_account_and_time() -> None:
    """An auditor reads from each event who did what, in which request, for whom, and when."""
    key = a_key()
    key.rename(Name("Billing"), by=origin(NOON + DAY, actor="key:key_abc"))
    renamed = key.pending_events[-1]
    assert isinstance(renamed, Renamed)
    assert (renamed.actor, renamed.request_id) == ("key:key_abc", "req_0000000000000000000001")
    assert (renamed.account_id, renamed.timestamp) == (key.account_id, NOON + DAY)


def test_changes_record_what_changed_and_nothing_else() -> None:
    """The same value again is no event."""
    key = a_key()
    scopes, networks = Scopes.parse(["campaigns:read"]), Networks.parse(["203.0.113.0/24"])
    for _ in range(2):
        key.rename(Name("Billing"), by=origin())
        key.rescope(scopes, by=origin())
        key.restrict(networks, by=origin())
    assert recorded(key) == [Renamed, Rescoped, NetworksChanged]
    assert (key.name, key.scopes, key.networks) == ("Billing", scopes, networks)
    key.rescope(None, by=origin())
    key.restrict(None, by=origin())
    assert key.scopes is None
    assert key.networks is None


def test_disable_and_enable_are_reversible_and_idempotent() -> None:
    """A disabled key is refused until it is enabled; saying it twice records it once."""
    key = a_key()
    key.disable(by=origin())
    key.disable(by=origin())
    assert key.status(NOON) is KeyStatus.DISABLED
    key.enable(by=origin())
    key.enable(by=origin())
    assert key.status(NOON) is KeyStatus.ACTIVE
    assert recorded(key) == [Disabled, Enabled]


def test_revocation_is_for_ever_and_recorded_once() -> None:
    """Nothing leaves revoked, and a second revocation changes nothing."""
    key = a_key()
    key.revoke(reason=RevocationReason.COMPROMISED, note=Note("found in a log"), by=origin())
    key.revoke(reason=RevocationReason.OTHER, note=None, by=origin(NOON + DAY))
    assert recorded(key) == [Revoked]
    assert (key.status(NOON), key.revoked_at) == (KeyStatus.REVOKED, NOON)
    for command in (key.disable, key.enable):
        with pytest.raises(KeyStateError, match="revoked"):
            command(by=origin())
    with pytest.raises(KeyStateError, match="revoked"):
        key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.NOW, by=origin())


def test_expiry_holds_from_its_instant_and_is_recorded_once() -> None:
    """The clock alone ends the key; the event follows, once."""
    key = a_key(expires_at=NOON + DAY)
    key.expire(by=origin(NOON + DAY - timedelta(microseconds=1)))
    assert recorded(key) == []
    assert key.status(NOON + DAY) is KeyStatus.EXPIRED
    for _ in range(2):
        key.expire(by=origin(NOON + DAY))
    assert recorded(key) == [Expired]
    with pytest.raises(KeyStateError, match="expired"):
        key.rename(Name("Late"), by=origin(NOON + 2 * DAY))


def test_a_successor_is_to_live_as_long_as_its_predecessor() -> None:
    """The same length of life anew, from the rotation on; a key without expiry has a successor without."""
    assert a_key().successor_expires_at(NOON + DAY) is None
    assert a_key(expires_at=NOON + 30 * DAY).successor_expires_at(NOON + 29 * DAY) == NOON + 59 * DAY
    last = datetime(9999, 12, 31, tzinfo=UTC)
    assert a_key(expires_at=last).successor_expires_at(NOON + DAY) == last


def test_rotation_keeps_the_key_through_its_grace_and_then_retires_it() -> None:
    """The predecessor is accepted until its grace period ends; then it is revoked, and the sweep records it once."""
    key = a_key()
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.NOW, by=origin())
    assert (key.status(NOON), key.replaced_by, key.retires_at) == (KeyStatus.ROTATING, key_id(2), NOON + DAY)
    key.retire(by=origin(NOON + DAY - timedelta(microseconds=1)))
    assert recorded(key) == [Rotated]
    assert key.status(NOON + DAY) is KeyStatus.REVOKED
    for _ in range(2):
        key.retire(by=origin(NOON + DAY))
    assert recorded(key) == [Rotated, Revoked]
    assert key.pending_events[-1].reason == "rotated"  # type: ignore[attr-defined]


def test_a_retired_key_ended_with_its_grace_period_whoever_puts_it_on_record() -> None:
    """A revoke between that end and the sweep records the retirement, and the instant that is shown stays."""
    for end in (lambda key, by: key.retire(by=by), revoke_compromised):
        key = a_key()
        key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.NOW, by=origin())
        assert revoked_since(key, NOON + DAY / 2) is None
        assert revoked_since(key, NOON + DAY) == NOON + DAY
        end(key, origin(NOON + 2 * DAY))
        revoke_compromised(key, origin(NOON + 3 * DAY))
        assert recorded(key) == [Rotated, Revoked]
        assert key.revoked_for == "rotated"
        assert revoked_since(key, NOON + 4 * DAY) == NOON + DAY


def test_a_key_that_was_revoked_within_its_grace_period_ended_then() -> None:
    """The end of the grace period changes nothing any more."""
    key = a_key()
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.NOW, by=origin())
    revoke_compromised(key, origin(NOON + DAY / 2))
    key.retire(by=origin(NOON + 2 * DAY))
    assert (key.revoked_for, revoked_since(key, NOON + 2 * DAY)) == ("compromised", NOON + DAY / 2)


@pytest.mark.parametrize("starts", list(GraceStart))
def test_rotation_without_grace_ends_the_key_at_once(starts: GraceStart) -> None:
    """A grace of zero leaves no moment in which both are accepted."""
    key = a_key()
    key.rotate(key_id(2), grace=timedelta(0), grace_starts=starts, by=origin())
    assert recorded(key) == [Rotated, Revoked]


def test_grace_that_waits_for_the_first_use_ends_after_it() -> None:
    """Until the successor is used the predecessor stays; then the period counts from that use."""
    key = a_key()
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin())
    assert key.status(NOON + 300 * DAY) is KeyStatus.ROTATING
    for _ in range(2):
        key.begin_grace(first_use=NOON + 5 * DAY, by=origin(NOON + 6 * DAY))
    assert recorded(key) == [Rotated, GraceBegan]
    assert key.retires_at == NOON + 6 * DAY


@pytest.mark.parametrize("starts", list(GraceStart))
def test_no_grace_period_goes_beyond_the_keys_own_expiry(starts: GraceStart) -> None:
    """Not at the rotation, not by the successor's first use, not by an extension; and it ends as retired, once."""
    key = a_key(expires_at=NOON + 2 * DAY)
    key.rotate(key_id(2), grace=5 * DAY, grace_starts=starts, by=origin())
    key.begin_grace(first_use=NOON + DAY, by=origin(NOON + DAY))
    assert key.retires_at == NOON + 2 * DAY
    with pytest.raises(ConflictError, match="until the key expires"):
        key.extend_grace(9 * DAY, by=origin(NOON + DAY))
    for _ in range(2):
        key.expire(by=origin(NOON + 2 * DAY))
        key.retire(by=origin(NOON + 2 * DAY))
    assert recorded(key)[-1] is Revoked
    assert Expired not in recorded(key)


def test_a_key_that_has_expired_begins_no_grace_period() -> None:
    """It stays expired when its successor is used at last."""
    key = a_key(expires_at=NOON + 2 * DAY)
    key.rotate(key_id(2), grace=5 * DAY, grace_starts=GraceStart.FIRST_USE, by=origin())
    key.expire(by=origin(NOON + 2 * DAY))
    key.begin_grace(first_use=NOON + 3 * DAY, by=origin(NOON + 3 * DAY))
    assert recorded(key) == [Rotated, Expired]
    assert key.status(NOON + 9 * DAY) is KeyStatus.EXPIRED


def test_a_second_rotation_never_prolongs_a_running_grace() -> None:
    """Naming another successor keeps an end that is already nearer."""
    key = a_key()
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.NOW, by=origin())
    key.rotate(key_id(3), grace=9 * DAY, grace_starts=GraceStart.NOW, by=origin(NOON + DAY / 2))
    assert (key.replaced_by, key.retires_at) == (key_id(3), NOON + DAY)
    key.rotate(key_id(4), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(NOON + DAY / 2))
    assert (key.replaced_by, key.retires_at) == (key_id(4), NOON + DAY)


def test_a_key_is_flagged_for_rotation_once_and_only_when_due() -> None:
    """The flag is an event of its own; a key that rotates already needs none."""
    key = a_key()
    key.fall_due(by=origin(NOON + 89 * DAY))
    assert recorded(key) == []
    for _ in range(2):
        key.fall_due(by=origin(NOON + 90 * DAY))
    assert recorded(key) == [RotationFellDue]
    rotating = a_key()
    rotating.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin())
    rotating.fall_due(by=origin(NOON + 90 * DAY))
    assert recorded(rotating) == [Rotated]


def test_a_successor_shares_the_lineage_of_what_it_replaces() -> None:
    """All keys of one lineage carry the first one's id."""
    first = a_key(number=1)
    second = a_key(number=2, replaces=first)
    third = a_key(number=3, replaces=second)
    assert {first.lineage_id, second.lineage_id, third.lineage_id} == {key_id(1)}
    assert (first.replaces, second.replaces, third.replaces) == (None, key_id(1), key_id(2))

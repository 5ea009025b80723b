"""A rotation, looked at: what it records, when it wants to be looked at again, and what it commands."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from domain.api_key import ApiKey, GraceStart, RevocationReason
from domain.handover import LOST_AFTER, Traffic
from domain.ids import WebhookEndpointId
from domain.key_status import KeyStatus
from domain.rotation import Retire, Rotation, Withdraw
from domain.rotation_events import newest_reminder
from domain.workflow import RETRIES, ProcessState, Scheduled
from tests.kit.builders import NOON, a_key, entropy, key_id, origin
from tests.kit.rotations import DAY, DUE, NONE, SUCCESSOR_REVOKED


def happened(rotation: Rotation) -> list[Any]:
    """The events recorded since last asked, without when it is looked at."""
    return [event for event in rotation.collect_events() if not isinstance(event, Scheduled)]


def told(rotation: Rotation) -> list[str]:
    """Their topics."""
    return [event.TOPIC.removeprefix("rotation.") for event in happened(rotation)]


def rotating(grace: timedelta, *, starts: GraceStart = GraceStart.NOW) -> tuple[ApiKey, Rotation]:
    """A key rotated by hand at NOON, and its rotation, looked at for the first time."""
    key = a_key()
    key.rotate(key_id(2), grace=grace, grace_starts=starts, by=origin(NOON))
    rotation = Rotation.of(key, by=origin(NOON))
    rotation.look(key, NONE, by=origin(NOON))
    assert told(rotation) == ["began", "successor_created"]
    return key, rotation


def timers(rotation: Rotation) -> dict[str, timedelta]:
    """When it is to be looked at, from NOON."""
    return {timer.step: timer.due_at - NOON for timer in rotation.timers}


@pytest.mark.parametrize(
    ("days", "day"),
    [(0, 0), (6, 0), (7, 7), (13, 7), (14, 14), (29, 14), (30, 30), (59, 30), (60, 60), (365, 360)],
)
def test_reminders_come_on_day_7_14_30_and_then_monthly(days: int, day: int) -> None:
    """The newest reminder that has come."""
    assert newest_reminder(timedelta(days=days, hours=23)) == day


def test_the_notice_is_said_once_for_a_due_date() -> None:
    """Again and again, on the day and later: one notice; put off, it is said again when the new day comes."""
    key = a_key()
    rotation = Rotation.of(key, by=origin(DUE))
    for hours in range(3):
        rotation.look(key, NONE, by=origin(DUE + timedelta(hours=hours)))
    assert told(rotation) == ["began", "notified"]
    key.reschedule_rotation(DUE + 20 * DAY, by=origin(DUE + DAY))
    rotation.look(key, NONE, by=origin(DUE + DAY))
    assert (told(rotation), timers(rotation)) == (["postponed"], {"due": 110 * DAY})
    rotation.look(key, NONE, by=origin(DUE + 20 * DAY))
    rotation.look(key, NONE, by=origin(DUE + 27 * DAY))
    assert told(rotation) == ["notified", "reminded"]


def test_a_key_that_is_put_off_and_back_is_reminded_of_as_before() -> None:
    """The owner knows of that day: no notice is said again, and the reminders go on where they stood."""
    key = a_key()
    rotation = Rotation.of(key, by=origin(DUE))
    rotation.look(key, NONE, by=origin(DUE))
    key.reschedule_rotation(DUE + 20 * DAY, by=origin(DUE + DAY))
    rotation.look(key, NONE, by=origin(DUE + DAY))
    key.reschedule_rotation(DUE, by=origin(DUE + 2 * DAY))
    for _ in range(2):
        rotation.look(key, NONE, by=origin(DUE + 2 * DAY))
    assert told(rotation) == ["began", "notified", "postponed", "continued"]
    assert timers(rotation) == {"reminder 7": 97 * DAY}
    rotation.look(key, NONE, by=origin(DUE + 7 * DAY))
    assert (told(rotation), timers(rotation)) == (["reminded"], {"reminder 14": 104 * DAY})


def test_nobody_is_reminded_of_a_disabled_key() -> None:
    """Paused while it is disabled, with nothing to wait for; enabled, it is reminded of where it stands."""
    key = a_key()
    rotation = Rotation.of(key, by=origin(DUE))
    rotation.look(key, NONE, by=origin(DUE))
    key.disable(by=origin(DUE + DAY))
    rotation.look(key, NONE, by=origin(DUE + DAY))
    assert rotation.timers == ()
    key.enable(by=origin(DUE + 8 * DAY))
    rotation.look(key, NONE, by=origin(DUE + 8 * DAY))
    assert told(rotation) == ["began", "notified", "paused", "continued", "reminded"]


def test_a_silent_predecessor_is_retired_before_its_end() -> None:
    """Eight days without a use while the successor is in use, and no sooner: a use in between puts it off."""
    key, rotation = rotating(60 * DAY)
    used = Traffic(predecessor_last=NOON + 2 * DAY, successor_first=NOON + DAY)
    rotation.look(key, used, by=origin(NOON + 2 * DAY))
    assert timers(rotation)["silence"] == 10 * DAY
    later = Traffic(predecessor_last=NOON + 9 * DAY, successor_first=NOON + DAY)
    assert rotation.look(key, later, by=origin(NOON + 10 * DAY)) == ()
    assert timers(rotation)["silence"] == 17 * DAY
    assert rotation.look(key, later, by=origin(NOON + 17 * DAY)) == (Retire(key.key_id),)
    assert told(rotation) == ["successor_used", "still_in_use", "retired", "closed"]
    assert (rotation.state, rotation.timers) == (ProcessState.ENDED, ())
    key.end_grace(by=origin(NOON + 17 * DAY))
    assert key.status(NOON + 17 * DAY) is KeyStatus.REVOKED


def test_a_weekly_job_that_comes_late_is_not_cut_off() -> None:
    """Used each week, some hours later each time: the old key stays until its end."""
    key, rotation = rotating(60 * DAY)
    for week in range(8):
        last = NOON + week * (7 * DAY + timedelta(hours=6))
        used = Traffic(predecessor_last=last, successor_first=NOON)
        for at in (last, last + 7 * DAY + timedelta(hours=5)):
            assert rotation.look(key, used, by=origin(at)) == ()


def test_a_predecessor_that_is_disabled_is_not_silent() -> None:
    """Nobody can use it: it is not ended for that, and has eight days from the time on at which it is enabled."""
    key, rotation = rotating(60 * DAY)
    used = Traffic(predecessor_last=NOON + DAY, successor_first=NOON + DAY)
    rotation.look(key, used, by=origin(NOON + DAY))
    key.disable(by=origin(NOON + 2 * DAY))
    rotation.look(key, used, by=origin(NOON + 2 * DAY))
    assert timers(rotation) == {"warning": 57 * DAY}
    assert rotation.look(key, used, by=origin(NOON + 30 * DAY)) == ()
    key.enable(by=origin(NOON + 30 * DAY))
    assert rotation.look(key, used, by=origin(NOON + 30 * DAY)) == ()
    assert timers(rotation) == {"silence": 38 * DAY, "warning": 57 * DAY}
    assert rotation.look(key, used, by=origin(NOON + 38 * DAY)) == (Retire(key.key_id),)
    assert told(rotation) == ["successor_used", "retired", "closed"]


def test_a_predecessor_of_a_suspended_account_is_not_silent() -> None:
    """It is looked at again and again, since no event tells the end of that; eight days count from there."""
    key, rotation = rotating(60 * DAY)
    last: dict[str, Any] = {"predecessor_last": NOON + DAY, "successor_first": NOON + DAY}
    rotation.look(key, Traffic(**last), by=origin(NOON + DAY))
    suspended = Traffic(**last, is_suspended=True)
    for day in (5, 9, 10):
        assert rotation.look(key, suspended, by=origin(NOON + day * DAY)) == ()
    assert timers(rotation) == {"silence": 17 * DAY, "warning": 57 * DAY}
    reinstated = Traffic(**last, reinstated_at=NOON + 12 * DAY)
    assert rotation.look(key, reinstated, by=origin(NOON + 17 * DAY)) == ()
    assert timers(rotation) == {"silence": 20 * DAY, "warning": 57 * DAY}
    assert rotation.look(key, reinstated, by=origin(NOON + 20 * DAY)) == (Retire(key.key_id),)
    assert told(rotation) == ["successor_used", "retired", "closed"]


def test_a_predecessor_is_not_silenced_while_its_successor_is_unused() -> None:
    """However long nobody uses either: the end of grace decides, and the owner is warned of it."""
    key, rotation = rotating(40 * DAY)
    assert rotation.look(key, NONE, by=origin(NOON + 36 * DAY)) == ()
    assert timers(rotation) == {"warning": 37 * DAY}
    rotation.look(key, NONE, by=origin(NOON + 37 * DAY))
    rotation.look(key, NONE, by=origin(NOON + 38 * DAY))
    [warning] = happened(rotation)
    assert (warning.TOPIC, warning.successor_used) == ("rotation.retiring_soon", False)


@pytest.mark.parametrize(("last", "warned"), [(5, ["retiring_soon"]), (0, [])], ids=["in use", "not used any more"])
def test_the_owner_is_warned_when_the_old_key_is_still_needed(last: int, warned: list[str]) -> None:
    """A quarter of the grace before its end, and only if the old key was used after the new one."""
    key, rotation = rotating(8 * DAY)
    traffic = Traffic(predecessor_last=NOON + last * DAY, successor_first=NOON + DAY)
    rotation.look(key, traffic, by=origin(NOON + DAY))
    told(rotation)
    rotation.look(key, traffic, by=origin(NOON + 6 * DAY))
    warnings = happened(rotation)
    assert [warning.TOPIC.removeprefix("rotation.") for warning in warnings] == warned
    assert all(warning.successor_used for warning in warnings)


def test_an_extension_brings_a_warning_of_its_own() -> None:
    """Warned of one end, put off, and warned of the next."""
    key, rotation = rotating(4 * DAY)
    rotation.look(key, NONE, by=origin(NOON + 3 * DAY))
    key.extend_grace(8 * DAY, by=origin(NOON + 3 * DAY))
    rotation.look(key, NONE, by=origin(NOON + 3 * DAY))
    assert timers(rotation) == {"warning": 9 * DAY}
    rotation.look(key, NONE, by=origin(NOON + 9 * DAY))
    assert told(rotation) == ["retiring_soon", "extended", "retiring_soon"]


def test_a_grace_period_that_waits_for_the_first_use() -> None:
    """No end and no warning before the successor's first use; then both."""
    key, rotation = rotating(8 * DAY, starts=GraceStart.FIRST_USE)
    assert timers(rotation) == {}
    key.begin_grace(first_use=NOON + 20 * DAY, by=origin(NOON + 20 * DAY))
    used = Traffic(predecessor_last=NOON, successor_first=NOON + 20 * DAY)
    rotation.look(key, used, by=origin(NOON + 20 * DAY))
    assert told(rotation) == ["grace_began", "successor_used"]
    assert timers(rotation) == {"warning": 26 * DAY, "silence": 28 * DAY}


def test_a_lost_successor_is_replaced_in_the_same_rotation() -> None:
    """The second successor names the first, unseen one."""
    key, rotation = rotating(8 * DAY)
    key.rotate(key_id(3), grace=8 * DAY, grace_starts=GraceStart.NOW, by=origin(NOON + DAY))
    rotation.look(key, NONE, by=origin(NOON + DAY))
    created: Any = rotation.collect_events()[0]
    assert (created.unseen_id, created.successor_id) == (key_id(2), key_id(3))


@pytest.mark.parametrize(
    ("grace", "compromised", "reason", "ended"),
    [(timedelta(), False, "at_once", NOON), (DAY, True, "compromised", NOON), (DAY, False, "grace_over", NOON + DAY)],
)
def test_a_rotation_ends_with_its_key(grace: timedelta, compromised: bool, reason: str, ended: datetime) -> None:
    """At once, compromised, or at the end of grace: retired then, with that reason, closed, never looked at again."""
    key = a_key()
    key.rotate(key_id(2), grace=grace, grace_starts=GraceStart.NOW, by=origin(NOON), compromised=compromised)
    rotation = Rotation.of(key, by=origin(NOON))
    rotation.look(key, NONE, by=origin(NOON + 2 * DAY))
    retired = [event for event in happened(rotation) if event.TOPIC == "rotation.retired"]
    assert [(event.reason, event.retired_at) for event in retired] == [(reason, ended)]
    assert (rotation.step, rotation.state) == ("closed", ProcessState.ENDED)


def test_a_key_that_ends_without_a_successor_closes_its_rotation() -> None:
    """Revoked while it was due."""
    key = a_key()
    rotation = Rotation.of(key, by=origin(DUE))
    rotation.look(key, NONE, by=origin(DUE))
    key.revoke(reason=RevocationReason.UNUSED, note=None, by=origin(DUE + DAY))
    rotation.look(key, NONE, by=origin(DUE + DAY))
    assert told(rotation) == ["began", "notified", "closed"]
    assert rotation.timers == ()


def test_a_key_whose_successor_is_revoked_unused_is_due_again() -> None:
    """Where nothing else would end it: the rotation is withdrawn, and its owner is reminded as if there had been none.

    Rotated once more, the two overlap as before.
    """
    key = a_key()
    rotation = Rotation.of(key, by=origin(DUE))
    rotation.look(key, NONE, by=origin(DUE))
    key.rotate(key_id(2), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(DUE + DAY))
    rotation.look(key, NONE, by=origin(DUE + DAY))
    assert rotation.look(key, SUCCESSOR_REVOKED, by=origin(DUE + 2 * DAY)) == (Withdraw(key.key_id),)
    assert timers(rotation) == {"go on": 92 * DAY}
    key.withdraw_rotation(by=origin(DUE + 2 * DAY))
    rotation.look(key, NONE, by=origin(DUE + 2 * DAY))
    assert timers(rotation) == {"reminder 7": 97 * DAY}
    rotation.look(key, NONE, by=origin(DUE + 7 * DAY))
    key.rotate(key_id(3), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(DUE + 8 * DAY))
    rotation.look(key, NONE, by=origin(DUE + 8 * DAY))
    assert told(rotation) == [
        "began", "notified", "successor_created", "successor_revoked", "reminded", "successor_created",
    ]  # fmt: skip


def test_a_key_that_was_rotated_early_and_is_without_a_successor_falls_due_in_time() -> None:
    """Its successor revoked, it waits for its day, and its owner is told then."""
    key, rotation = rotating(DAY, starts=GraceStart.FIRST_USE)
    rotation.look(key, SUCCESSOR_REVOKED, by=origin(NOON + DAY))
    key.withdraw_rotation(by=origin(NOON + DAY))
    rotation.look(key, NONE, by=origin(NOON + DAY))
    assert timers(rotation) == {"due": 90 * DAY}
    rotation.look(key, NONE, by=origin(DUE))
    assert told(rotation) == ["successor_revoked", "postponed", "notified"]


def test_a_key_with_an_end_keeps_it_when_its_successor_is_revoked() -> None:
    """Its owner is warned of the end as of any, and told that nothing has taken its place."""
    key, rotation = rotating(4 * DAY)
    assert rotation.look(key, SUCCESSOR_REVOKED, by=origin(NOON + DAY)) == ()
    assert timers(rotation) == {"warning": 3 * DAY}
    rotation.look(key, SUCCESSOR_REVOKED, by=origin(NOON + 3 * DAY))
    rotation.look(key, SUCCESSOR_REVOKED, by=origin(NOON + 4 * DAY))
    events: list[Any] = rotation.collect_events()
    assert [event.successor_id for event in events if event.TOPIC == "rotation.retired"] == [None]
    assert [event.TOPIC for event in events if event.TOPIC == "rotation.retiring_soon"]


def test_a_key_whose_successor_is_revoked_after_use_is_not_retired_as_silent() -> None:
    """It is the only one left: it keeps its end, once, and its owner is warned of that as of a key without another."""
    key, rotation = rotating(60 * DAY)
    last: dict[str, Any] = {"predecessor_last": NOON, "successor_first": NOON + DAY}
    rotation.look(key, Traffic(**last), by=origin(NOON + DAY))
    assert timers(rotation) == {"silence": 9 * DAY, "warning": 57 * DAY}
    revoked = Traffic(**last, is_successor_revoked=True)
    assert rotation.look(key, revoked, by=origin(NOON + 9 * DAY)) == ()
    assert timers(rotation) == {"warning": 57 * DAY}
    for day in (57, 58):
        assert rotation.look(key, revoked, by=origin(NOON + day * DAY)) == ()
    used, warning = happened(rotation)
    assert (used.TOPIC, warning.TOPIC) == ("rotation.successor_used", "rotation.retiring_soon")
    assert (warning.successor_id, warning.successor_used) == (None, False)
    rotation.look(key, revoked, by=origin(NOON + 60 * DAY))
    assert [event.successor_id for event in happened(rotation) if event.TOPIC == "rotation.retired"] == [None]


def test_a_key_that_expires_before_its_grace_begins_closes_its_rotation_as_expired() -> None:
    """It came to its own end: nobody retired it."""
    key = a_key(expires_at=NOON + 2 * DAY)
    key.rotate(key_id(2), grace=8 * DAY, grace_starts=GraceStart.FIRST_USE, by=origin(NOON))
    rotation = Rotation.of(key, by=origin(NOON))
    rotation.look(key, NONE, by=origin(NOON))
    told(rotation)
    rotation.look(key, NONE, by=origin(NOON + 2 * DAY))
    [closed] = happened(rotation)
    assert (closed.TOPIC, closed.outcome) == ("rotation.closed", "expired")


def handing_over() -> tuple[ApiKey, Rotation]:
    """A key that is due, and its rotation, whose first attempt to hand a successor over begins at DUE."""
    key = a_key()
    rotation = Rotation.of(key, by=origin(DUE))
    rotation.look(key, NONE, by=origin(DUE), hand_over_to=WebhookEndpointId.from_entropy(entropy(1)))
    offer(key, rotation, at=DUE, successor=2)
    told(rotation)
    return key, rotation


def offer(key: ApiKey, rotation: Rotation, *, at: datetime, successor: int) -> None:
    """An attempt begins."""
    key.rotate(key_id(successor), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(at))
    assert rotation.offer(key, by=origin(at))


def test_an_attempt_that_does_not_end_is_lost_after_five_minutes() -> None:
    """Then the next one is due; until then nothing else is."""
    key, rotation = handing_over()
    assert [(timer.step, timer.due_at) for timer in rotation.timers] == [("hand over", DUE + timedelta(minutes=5))]
    assert not rotation.offer(key, by=origin(DUE + timedelta(minutes=5, microseconds=-1)))
    assert rotation.offer(key, by=origin(DUE + timedelta(minutes=5)))


@pytest.mark.parametrize("attempts", range(1, 6))
@pytest.mark.parametrize("happens", ["nothing", "revoked", "disabled", "put off", "cancelled"])
def test_an_attempt_that_fails_when_no_other_is_wanted_has_its_successor_taken_back_at_once(
    happens: str, attempts: int
) -> None:
    """Whatever became of the key meanwhile, looked at then or not; otherwise the next attempt is waited for."""
    key, rotation = handing_over()
    at = DUE
    for attempt in range(2, attempts + 1):
        rotation.end_attempt(attempt - 1, key, error="not accepted (500)", final=False, by=origin(at))
        at = rotation.timers[0].due_at
        offer(key, rotation, at=at, successor=attempt + 1)
    match happens:
        case "revoked":
            key.revoke(reason=RevocationReason.UNUSED, note=None, by=origin(at))
        case "disabled":
            key.disable(by=origin(at))
        case "put off":
            key.reschedule_rotation(at + DAY, by=origin(at))
        case "cancelled":
            rotation.cancel(by=origin(at))
    if happens in {"revoked", "disabled"}:
        rotation.look(key, NONE, by=origin(at))
    ends = at + timedelta(seconds=30)
    rotation.end_attempt(attempts, key, error="not accepted (500)", final=False, by=origin(ends))
    due_at = ends + RETRIES[attempts - 1] if happens == "nothing" else ends
    assert [(timer.step, timer.due_at) for timer in rotation.timers] == [("hand over", due_at)]


@pytest.mark.parametrize("error", [None, "not accepted (500)"], ids=["accepted", "refused"])
def test_what_comes_of_an_attempt_that_was_lost_is_nothing(error: str | None) -> None:
    """There has been another, whose successor counts."""
    key, rotation = handing_over()
    again = DUE + LOST_AFTER
    offer(key, rotation, at=again, successor=3)
    rotation.collect_events()
    rotation.end_attempt(1, key, error=error, final=False, by=origin(again))
    assert not rotation.collect_events()
    rotation.end_attempt(2, key, error=None, final=False, by=origin(again))
    assert told(rotation) == ["handed_over"]


def test_a_successor_that_was_replaced_by_hand_on_its_way_is_not_told_as_handed_over() -> None:
    """The receiver has the first one; the owner, who made the second, is not told that it has that."""
    key, rotation = handing_over()
    key.rotate(key_id(3), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(DUE))
    rotation.end_attempt(1, key, error=None, final=True, by=origin(DUE))
    assert told(rotation) == []
    rotation.look(key, NONE, by=origin(DUE))
    [created] = happened(rotation)
    assert (created.TOPIC, created.successor_id) == ("rotation.successor_created", key_id(3))
    assert (created.unseen_id, rotation.timers) == (key_id(2), ())


def test_a_successor_that_was_handed_over_has_taken_the_place_of_none() -> None:
    """The overlap begins with it, and no unseen one is named."""
    key, rotation = handing_over()
    rotation.end_attempt(1, key, error=None, final=True, by=origin(DUE))
    rotation.look(key, NONE, by=origin(DUE))
    handed_over, created = happened(rotation)
    assert (handed_over.successor_id, created.successor_id, created.unseen_id) == (key_id(2), key_id(2), None)

"""Builders of rotations: a key, and a process that follows it."""

from datetime import timedelta

from domain.account import Handover
from domain.api_key import GraceStart
from domain.events import Aggregate
from domain.handover import Traffic
from domain.ids import WebhookEndpointId
from domain.key_status import KeyStatus
from domain.rotation import Rotation
from tests.kit.builders import NOON, a_key, an_account, entropy, key_id, origin

DAY = timedelta(days=1)
DUE = NOON + 90 * DAY
NONE = Traffic(predecessor_last=None, successor_first=None)
SUCCESSOR_REVOKED = Traffic(predecessor_last=None, successor_first=None, is_successor_revoked=True)


def rotations_of_every_kind() -> list[Aggregate]:
    """Rotations that between them have recorded every step and all that befalls a process, and what goes with them."""
    job = "system:workflow"
    key = a_key(number=11)
    rotation = Rotation.of(key, by=origin(DUE, actor=job))
    rotation.look(key, NONE, by=origin(DUE, actor=job))
    rotation.look(key, NONE, by=origin(DUE + 7 * DAY, actor=job))
    key.disable(by=origin(DUE + 8 * DAY))
    rotation.look(key, NONE, by=origin(DUE + 8 * DAY, actor=job))
    key.enable(by=origin(DUE + 9 * DAY))
    rotation.look(key, NONE, by=origin(DUE + 9 * DAY, actor=job))
    key.reschedule_rotation(DUE + 10 * DAY, by=origin(DUE + 9 * DAY))
    rotation.look(key, NONE, by=origin(DUE + 9 * DAY, actor=job))
    rotation.timers = ()  # as of the release that wrote the golden lines: what was postponed had none
    rotated = DUE + 11 * DAY
    key.rotate(key_id(12), grace=20 * DAY, grace_starts=GraceStart.FIRST_USE, by=origin(rotated))
    rotation.look(key, NONE, by=origin(rotated, actor=job))
    used = Traffic(predecessor_last=rotated, successor_first=rotated)
    rotation.look(key, used, by=origin(rotated + DAY, actor=job))
    key.begin_grace(first_use=rotated, by=origin(rotated + DAY))
    rotation.look(key, used, by=origin(rotated + DAY, actor=job))
    key.extend_grace(24 * DAY, by=origin(rotated + 2 * DAY))
    rotation.look(key, used, by=origin(rotated + 2 * DAY, actor=job))
    busy = Traffic(predecessor_last=rotated + 7 * DAY, successor_first=rotated)
    rotation.look(key, busy, by=origin(rotated + 8 * DAY, actor=job))
    still = Traffic(predecessor_last=rotated + 22 * DAY, successor_first=rotated)
    rotation.look(key, still, by=origin(rotated + 24 * DAY, actor=job))
    rotation.fail("OperationalError: the database went away", retry_after=timedelta(seconds=5), by=origin(rotated))
    rotation.recover(by=origin(rotated))
    rotation.fail("OperationalError: the database went away", retry_after=None, by=origin(rotated))
    rotation.resume(by=origin(rotated))
    assert key.status(rotated + 27 * DAY) is KeyStatus.REVOKED
    rotation.look(key, still, by=origin(rotated + 27 * DAY, actor=job))
    account = an_account(number=2)
    account.rotate_after(60, by=origin())
    expiring = a_key(number=14, at=NOON - 10 * DAY, expires_at=NOON + DAY)
    expiring.announce_expiry(by=origin())
    cancelled = Rotation.of(a_key(number=13), by=origin(DUE, actor=job))
    cancelled.cancel(by=origin(DUE))
    return [rotation, cancelled, key, account, expiring, *handovers()]


def handovers() -> list[Aggregate]:
    """A rotation whose successor was handed over at the second attempt, and the account that wanted it."""
    account, key = an_account(number=3), a_key(number=15)
    endpoint_id = WebhookEndpointId.from_entropy(entropy(1))
    account.hand_over_to(Handover(endpoint_id, "https://hooks.acme.example/keyledger"), by=origin())
    rotation = Rotation.of(key, by=origin(DUE))
    rotation.look(key, NONE, by=origin(DUE), hand_over_to=endpoint_id)
    for attempt, error in ((1, "not accepted (500)"), (2, None)):
        at = origin(DUE + attempt * DAY)
        key.rotate(key_id(15 + attempt), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=at)
        assert rotation.offer(key, by=at)
        assert not rotation.offer(key, by=at)
        rotation.end_attempt(attempt, key, error=error, final=False, by=at)
    in_vain = a_key(number=18)
    in_vain.rotate(key_id(19), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(DUE))
    in_vain.withdraw_rotation(by=origin(DUE + DAY))
    alone = a_key(number=20)
    alone.rotate(key_id(21), grace=DAY, grace_starts=GraceStart.FIRST_USE, by=origin(DUE))
    left = Rotation.of(alone, by=origin(DUE))
    left.look(alone, NONE, by=origin(DUE))
    left.look(alone, SUCCESSOR_REVOKED, by=origin(DUE + DAY))
    return [rotation, key, account, in_vain, left]

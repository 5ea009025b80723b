"""Owners who rotate on time, late, never or otherwise; and by hand, without the service's code, what each is told.

Days count from the first one. An owner acts at noon, the schedulers sweep after it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from domain.api_key import GraceStart

LONG = 10_000
MONTHLY = tuple(range(30, 400, 30))


@dataclass(frozen=True, slots=True)
class Owner:
    """What an owner does with each key; days from its due date, or from its rotation where it says so.

    ``told`` is the model: the day from the due date, and what the owner is told then. ``ends``: the day on which the
    key's status is what it says from then on.
    """

    told: tuple[tuple[int, str], ...]
    rotates: int | None = None
    grace_days: int = 0
    starts: GraceStart = GraceStart.NOW
    compromised: bool = False
    new_from: int = 1
    """Days from the rotation to the successor's first use; the old key is used to ``old_until``, both daily."""
    old_until: int = 0
    again: int | None = None
    """The rotation's answer was lost: rotated again that many days after it."""
    extends: tuple[int, int] | None = None
    """That many days after the rotation the old key gets that many days from then on."""
    disabled: tuple[int, int] | None = None
    revokes: int | None = None
    expires: int | None = None
    postpones: int | None = None
    """The day on which the age at rotation becomes 120 days; of the first key alone, ``then`` is the owner after it."""
    then: "Owner | None" = None
    ends: tuple[tuple[int, str], ...] = field(default=())


PUNCTUAL = Owner(
    rotates=2, grace_days=4,
    told=((0, "due"), (6, "retired grace_over")), ends=((0, "rotation_due"), (2, "rotating"), (6, "revoked")),
)  # fmt: skip
OWNERS: Mapping[str, Owner] = {
    "punctual": PUNCTUAL,
    "silent": Owner(
        rotates=5, grace_days=40, old_until=3,
        told=((0, "due"), (16, "retired silent")), ends=((0, "rotation_due"), (5, "rotating"), (16, "revoked")),
    ),
    "late": Owner(
        rotates=20, grace_days=8, starts=GraceStart.FIRST_USE, new_from=6, old_until=13,
        told=((0, "due"), (7, "reminder 7"), (14, "reminder 14"), (32, "soon in use"), (34, "retired grace_over")),
        ends=((0, "rotation_due"), (20, "rotating"), (34, "revoked")),
    ),
    "never": Owner(
        told=((0, "due"), (7, "reminder 7"), (14, "reminder 14"), *((day, f"reminder {day}") for day in MONTHLY)),
        ends=((0, "rotation_due"),),
    ),
    "forgetful": Owner(
        rotates=10, grace_days=12, again=1, new_from=3, old_until=2,
        told=((0, "due"), (7, "reminder 7"), (21, "retired silent")),
        ends=((0, "rotation_due"), (10, "rotating"), (21, "revoked")),
    ),
    "extending": Owner(
        rotates=3, grace_days=8, extends=(7, 8), new_from=14, old_until=LONG,
        told=((0, "due"), (9, "soon unused"), (16, "soon unused"), (18, "retired grace_over")),
        ends=((0, "rotation_due"), (3, "rotating"), (18, "revoked")),
    ),
    "compromised": Owner(rotates=-40, compromised=True, told=((-40, "retired compromised"),), ends=((-40, "revoked"),)),
    "disabling": Owner(
        disabled=(5, 20),
        told=((0, "due"), (20, "reminder 14"), *((day, f"reminder {day}") for day in MONTHLY)),
        ends=((0, "rotation_due"), (5, "disabled"), (20, "rotation_due")),
    ),
    "revoking": Owner(
        revokes=10, told=((0, "due"), (7, "reminder 7")), ends=((0, "rotation_due"), (10, "revoked")),
    ),
    "expiring": Owner(expires=3, told=((0, "due"),), ends=((0, "rotation_due"), (3, "expired"))),
    "postponing": Owner(
        postpones=3, rotates=32, grace_days=4, then=PUNCTUAL,
        told=((0, "due"), (30, "due"), (36, "retired grace_over")),
        ends=((0, "rotation_due"), (3, "active"), (30, "rotation_due"), (32, "rotating"), (36, "revoked")),
    ),
}  # fmt: skip
AGE, POSTPONED_AGE = 90, 120


@dataclass(slots=True)
class Generation:
    """One key of a line: the ``number``-th, born on a day, with its owner's manner and its age at rotation."""

    number: int
    born: int
    age: int
    owner: Owner

    @property
    def due(self) -> int:
        """The day on which it first falls due."""
        return self.born + self.age

    def told(self, last_day: int) -> list[tuple[int, str]]:
        """The days up to the last one, with what the owner is told."""
        return [(self.due + day, what) for day, what in self.owner.told if self.due + day <= last_day]

    def status(self, day: int) -> str:
        """The key's status on that day, after the sweep."""
        passed = [status for since, status in self.owner.ends if self.due + since <= day]
        if passed:
            return passed[-1]
        return "active"


def generations(owner: Owner, born: int, last_day: int) -> Iterator[Generation]:
    """The model of a line: each key and its successor, for as long as the owner rotates."""
    number, age = 0, AGE
    while born <= last_day:
        key = Generation(number, born, age, owner)
        yield key
        if owner.rotates is None:
            return
        born = key.due + owner.rotates + (owner.again or 0)
        number += 1
        if owner.postpones is not None:
            age = POSTPONED_AGE
        owner = owner.then or owner


DAY = timedelta(days=1)

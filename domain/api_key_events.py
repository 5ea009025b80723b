"""The facts of an API key's life, in the order of that life; ``domain/api_key.py`` decides when they happen."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from domain.access import Networks, Scopes
from domain.events import Event, FirstEvent
from domain.ids import KeyId
from domain.naming import Name

if TYPE_CHECKING:
    from domain.api_key import ApiKey


@dataclass(frozen=True)
class Created(FirstEvent):
    """A key came to be. ``verifier_digest`` is the SHA-256 (hex) of the stored bcrypt verifier, never the verifier."""

    TOPIC: ClassVar[str] = "key.created"

    name: str
    environment: str
    prefix: str
    verifier_digest: str
    scopes: tuple[str, ...] | None
    allowed_ips: tuple[str, ...] | None
    expires_at: datetime | None
    rotation_due_at: datetime
    lineage_id: str
    replaces: str | None


@dataclass(frozen=True)
class Imported(FirstEvent):
    """A key came from another system, hashed there by ``algorithm``; ``verifier_digest`` is as in Created.

    ``prefix`` are the first characters of the key, ``external_id`` its name there, ``created_at`` when it was made
    there; None where that is not known.
    """

    TOPIC: ClassVar[str] = "key.imported"

    name: str
    environment: str
    prefix: str
    algorithm: str
    verifier_digest: str
    external_id: str | None
    scopes: tuple[str, ...] | None
    allowed_ips: tuple[str, ...] | None
    created_at: datetime | None
    expires_at: datetime | None
    rotation_due_at: datetime
    lineage_id: str
    replaces: str | None


@dataclass(frozen=True)
class Renamed(Event):
    """The key's name changed."""

    TOPIC: ClassVar[str] = "key.renamed"

    name: str

    def apply(self, aggregate: "ApiKey") -> None:
        """Takes the new name."""
        aggregate.name = Name(self.name)


@dataclass(frozen=True)
class Rescoped(Event):
    """The key's scopes changed; None is full access."""

    TOPIC: ClassVar[str] = "key.rescoped"

    scopes: tuple[str, ...] | None

    def apply(self, aggregate: "ApiKey") -> None:
        """Takes the new scopes."""
        aggregate.scopes = scopes_of(self.scopes)


@dataclass(frozen=True)
class NetworksChanged(Event):
    """The networks that the key may be used from changed; None is anywhere."""

    TOPIC: ClassVar[str] = "key.networks_changed"

    allowed_ips: tuple[str, ...] | None

    def apply(self, aggregate: "ApiKey") -> None:
        """Takes the new networks."""
        aggregate.networks = networks_of(self.allowed_ips)


@dataclass(frozen=True)
class RotationFellDue(Event):
    """The key reached the age at which it is to be rotated."""

    TOPIC: ClassVar[str] = "key.rotation_due"

    def apply(self, aggregate: "ApiKey") -> None:
        """Remembers that the owner was to be told."""
        aggregate.rotation_flagged = True


@dataclass(frozen=True)
class RotationDueChanged(Event):
    """The day on which the key is to be rotated changed; it is flagged again when that comes."""

    TOPIC: ClassVar[str] = "key.rotation_due_changed"

    rotation_due_at: datetime

    def apply(self, aggregate: "ApiKey") -> None:
        """Takes the day."""
        aggregate.rotation_due_at = self.rotation_due_at
        aggregate.rotation_flagged = False


@dataclass(frozen=True)
class Rotated(Event):
    """A successor was created. ``retires_at`` is None until the grace period has begun."""

    TOPIC: ClassVar[str] = "key.rotated"

    successor_id: str
    grace_seconds: int
    grace_starts: str
    retires_at: datetime | None

    def apply(self, aggregate: "ApiKey") -> None:
        """Takes the successor and the end of the grace period."""
        aggregate.replaced_by = KeyId(self.successor_id)
        aggregate.grace = timedelta(seconds=self.grace_seconds)
        aggregate.retires_at = self.retires_at


@dataclass(frozen=True)
class RotationWithdrawn(Event):
    """The successor came to nobody and ends with this: the key has none any more, and is due as before."""

    TOPIC: ClassVar[str] = "key.rotation_withdrawn"

    successor_id: str

    def apply(self, aggregate: "ApiKey") -> None:
        """Forgets the successor and the grace period."""
        aggregate.replaced_by = None
        aggregate.grace = None
        aggregate.retires_at = None


@dataclass(frozen=True)
class GraceBegan(Event):
    """The successor was used for the first time, so the predecessor's grace period runs."""

    TOPIC: ClassVar[str] = "key.grace_began"

    retires_at: datetime

    def apply(self, aggregate: "ApiKey") -> None:
        """Takes the end of the grace period."""
        aggregate.retires_at = self.retires_at


@dataclass(frozen=True)
class GraceExtended(Event):
    """The owner put off the end of the grace period; ``retires_at`` is None while it waits for the first use."""

    TOPIC: ClassVar[str] = "key.grace_extended"

    grace_seconds: int
    retires_at: datetime | None

    def apply(self, aggregate: "ApiKey") -> None:
        """Takes the later end."""
        aggregate.grace = timedelta(seconds=self.grace_seconds)
        aggregate.retires_at = self.retires_at


@dataclass(frozen=True)
class Expiring(Event):
    """The key expires within a week, or within a day: recorded once for each, so that its owner is told."""

    TOPIC: ClassVar[str] = "key.expiring"

    expires_at: datetime

    def apply(self, aggregate: "ApiKey") -> None:
        """Remembers when it was said."""
        aggregate.expiry_announced_at = self.timestamp


@dataclass(frozen=True)
class Disabled(Event):
    """The key was stopped, reversibly."""

    TOPIC: ClassVar[str] = "key.disabled"

    def apply(self, aggregate: "ApiKey") -> None:
        """Stops the key."""
        aggregate.disabled = True


@dataclass(frozen=True)
class Enabled(Event):
    """The key runs again."""

    TOPIC: ClassVar[str] = "key.enabled"

    def apply(self, aggregate: "ApiKey") -> None:
        """Lets the key run, and remembers since when."""
        aggregate.disabled = False
        aggregate.enabled_at = self.timestamp


@dataclass(frozen=True)
class Revoked(Event):
    """The key is refused for ever, from ``timestamp`` on."""

    TOPIC: ClassVar[str] = "key.revoked"

    reason: str
    note: str | None = None

    def apply(self, aggregate: "ApiKey") -> None:
        """Ends the key."""
        aggregate.revoked_at = self.timestamp
        aggregate.revoked_for = self.reason


@dataclass(frozen=True)
class Expired(Event):
    """The key's ``expires_at`` passed; recorded once, by the sweep."""

    TOPIC: ClassVar[str] = "key.expired"

    def apply(self, aggregate: "ApiKey") -> None:
        """Remembers that the expiry is on record."""
        aggregate.expiry_recorded = True


@dataclass(frozen=True)
class Attacked(Event):
    """Failed attempts with this key's id passed the threshold between the two times; at most once a day.

    ``failed_attempts``: refused credentials and networks; not a missing scope, nor a feature that the plan lacks.
    """

    TOPIC: ClassVar[str] = "key.attacked"

    failed_attempts: int
    since: datetime
    until: datetime

    def apply(self, aggregate: "ApiKey") -> None:
        """Remembers when, so that it is said once a day."""
        aggregate.attacked_at = self.timestamp


@dataclass(frozen=True)
class PresentedAfterEnd(Event):
    """The key was presented after it had been revoked or had expired: a leak, or a stale deployment; once a day."""

    TOPIC: ClassVar[str] = "key.presented_after_end"

    attempts: int
    last_at: datetime

    def apply(self, aggregate: "ApiKey") -> None:
        """Remembers when, so that it is said once a day."""
        aggregate.presented_after_end_at = self.timestamp


def scopes_of(texts: tuple[str, ...] | None) -> Scopes | None:
    """The scopes that an event names; None is full access."""
    return None if texts is None else Scopes.parse(list(texts))


def networks_of(texts: tuple[str, ...] | None) -> Networks | None:
    """The networks that an event names; None is anywhere."""
    return None if texts is None else Networks.parse(list(texts))

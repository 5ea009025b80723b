"""The bodies of ``/api/keys``: what is asked, and what is answered."""

from datetime import datetime
from typing import Annotated, Any, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from application.keys import GRACE_DEFAULT, GRACE_MAX, ManagedKey
from application.ports import Freshness, HistoryEntry
from domain.account import ROTATION_DUE_DAYS_MAX
from domain.api_key import GraceStart, RevocationReason
from domain.credential import Environment
from domain.key_status import KeyStatus
from domain.naming import Note
from interfaces.http.caller import parsed

Expiry = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset, in the future.")]
Scoped = Annotated[list[str], Meta(examples=[["campaigns:read"]], description="null is full access.")]
Addresses = Annotated[
    list[str], Meta(examples=[["203.0.113.0/24"]], description="CIDRs or addresses; null is anywhere.")
]


Days = Annotated[
    int,
    Meta(ge=1, le=ROTATION_DUE_DAYS_MAX, description="Age at which it is to be rotated."),
]


class CreateKey(msgspec.Struct, forbid_unknown_fields=True):
    """A new key."""

    name: Annotated[str, Meta(examples=["Production API"])]
    environment: Environment
    scopes: Scoped | None = None
    allowed_ips: Addresses | None = None
    expires_at: Expiry | None = None
    rotation_due_days: Days | None = None


class ChangeKey(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; an absent field stays."""

    name: str | UnsetType = UNSET
    scopes: Scoped | UnsetType | None = UNSET
    allowed_ips: Addresses | UnsetType | None = UNSET
    rotation_due_days: Days | UnsetType = UNSET


class RotateKey(msgspec.Struct, forbid_unknown_fields=True):
    """How long the old key stays accepted, and from when; ``compromised``: not at all, and the history says why."""

    grace_seconds: Annotated[int, Meta(ge=0, le=int(GRACE_MAX.total_seconds()))] = int(GRACE_DEFAULT.total_seconds())
    grace_starts: GraceStart = GraceStart.NOW
    compromised: bool = False


class ExtendGrace(msgspec.Struct, forbid_unknown_fields=True):
    """How long the old key is to stay accepted from now on, or from the successor's first use while that is awaited."""

    grace_seconds: Annotated[int, Meta(ge=1, le=int(GRACE_MAX.total_seconds()))] = int(GRACE_DEFAULT.total_seconds())


class RevokeKey(msgspec.Struct, forbid_unknown_fields=True):
    """Why, for the history."""

    reason: RevocationReason = RevocationReason.OTHER
    note: str | None = None


class KeyBody(msgspec.Struct):
    """A key, without its secret."""

    id: str
    name: str
    environment: Environment
    prefix: str
    status: KeyStatus
    scopes: list[str] | None
    allowed_ips: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    request_count: int
    failed_attempts: int
    rotation_due_at: datetime
    rotation_due_days: int
    revoked_at: datetime | None
    lineage_id: str
    replaces: str | None
    replaced_by: str | None
    retires_at: datetime | None

    @classmethod
    def of(cls, managed: ManagedKey, /, **more: Any) -> Self:
        """The body of a managed key."""
        view = managed.view
        return cls(
            id=view.key_id,
            name=view.name,
            environment=view.environment,
            prefix=view.prefix,
            status=managed.status,
            scopes=None if view.scopes is None else list(view.scopes),
            allowed_ips=None if view.allowed_ips is None else list(view.allowed_ips),
            created_at=view.created_at,
            expires_at=view.expires_at,
            last_used_at=managed.usage.last_used_at,
            request_count=managed.usage.requests,
            failed_attempts=managed.usage.failed_attempts,
            rotation_due_at=view.rotation_due_at,
            rotation_due_days=(view.rotation_due_at - view.created_at).days,
            revoked_at=managed.revoked_since,
            lineage_id=view.lineage_id,
            replaces=view.replaces,
            replaced_by=view.replaced_by,
            retires_at=view.retires_at,
            **more,
        )


class IssuedKeyBody(KeyBody, kw_only=True):
    """A new key: the only answer that ever holds ``key``."""

    key: str


class ReceiptBody(msgspec.Struct):
    """How the revocation became true: its ledger position, the processes that applied it, and the wait for them."""

    position: int
    processes: int
    waited_ms: int

    @classmethod
    def of(cls, freshness: Freshness) -> Self:
        """The receipt of a change that holds everywhere."""
        return cls(freshness.position, freshness.processes, freshness.waited_ms)


class RevokedKeyBody(KeyBody, kw_only=True):
    """A revoked key with its receipt."""

    receipt: ReceiptBody


class EventBody(msgspec.Struct):
    """One event of a key's history. ``version`` is null for ``key.used``, which the usage stream tells of the key."""

    position: int
    version: int | None
    type: str
    occurred_at: datetime
    actor: str
    data: dict[str, Any]

    @classmethod
    def of(cls, entry: HistoryEntry) -> Self:
        """The body of an entry of the history."""
        return cls(entry.position, entry.version, entry.type, entry.occurred_at, entry.actor, entry.data)


class KeyPage(msgspec.Struct):
    """One page of keys; ``next_cursor`` is null on the last."""

    data: list[KeyBody]
    next_cursor: str | None


class EventPage(msgspec.Struct):
    """One page of a key's history; ``next_cursor`` is null on the last."""

    data: list[EventBody]
    next_cursor: str | None


def note_of(asked: RevokeKey) -> Note | None:
    """The note as the history keeps it; InvalidError when it cannot be read."""
    return None if asked.note is None else parsed("note", Note.parse, asked.note)

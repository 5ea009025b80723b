"""An API key's life, as events.

``active → rotation due → rotating → revoked (rotated)``, and from any of these ``→ disabled ⇄``, ``→ revoked``,
``→ expired``. Nothing leaves ``revoked`` or ``expired``. What the clock alone decides (expiry, the end of a rotation's
grace) holds from that instant; the event that records it follows.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from domain.access import Networks, Scopes
from domain.account import ROTATION_DUE_DAYS
from domain.api_key_events import (
    Attacked,
    Created,
    Disabled,
    Enabled,
    Expired,
    Expiring,
    GraceBegan,
    GraceExtended,
    Imported,
    NetworksChanged,
    PresentedAfterEnd,
    Renamed,
    Rescoped,
    Revoked,
    Rotated,
    RotationDueChanged,
    RotationFellDue,
    RotationWithdrawn,
    networks_of,
    scopes_of,
)
from domain.credential import Environment
from domain.errors import ConflictError
from domain.events import Aggregate, Origin
from domain.foreign_key import ForeignHash
from domain.ids import AccountId, KeyId
from domain.key_status import KeyStatus, status_of
from domain.naming import Name, Note

ROTATION_DUE_AFTER = timedelta(days=ROTATION_DUE_DAYS)
SAID_AGAIN_AFTER = timedelta(days=1)
EXPIRY_ANNOUNCED_BEFORE = (timedelta(days=7), timedelta(days=1))


class RevocationReason(StrEnum):
    """Why a key was revoked."""

    COMPROMISED = "compromised"
    UNUSED = "unused"
    ROTATED = "rotated"
    OTHER = "other"


class GraceStart(StrEnum):
    """When the predecessor's grace period begins: at the rotation, or at the successor's first use."""

    NOW = "now"
    FIRST_USE = "first_use"


class KeyStateError(ConflictError):
    """The key's state does not allow the command; the message says which state."""


class ApiKey(Aggregate, topic="api_key"):
    """One API key, without its secret."""

    def __init__(  # noqa: PLR0913 - the first event's fields
        self,
        *,
        account_id: str,
        name: str,
        environment: str,
        prefix: str,
        scopes: tuple[str, ...] | None,
        allowed_ips: tuple[str, ...] | None,
        expires_at: datetime | None,
        rotation_due_at: datetime,
        lineage_id: str,
        replaces: str | None,
        created_at: datetime | None = None,
    ) -> None:
        self.account_id = AccountId(account_id)
        self.name = Name(name)
        self.environment = Environment(environment)
        self.prefix = prefix
        self.scopes = scopes_of(scopes)
        self.networks = networks_of(allowed_ips)
        self.expires_at = expires_at
        self.rotation_due_at = rotation_due_at
        self.lineage_id = KeyId(lineage_id)
        self.replaces = None if replaces is None else KeyId(replaces)
        self.replaced_by: KeyId | None = None
        self.grace: timedelta | None = None
        self.retires_at: datetime | None = None
        self.revoked_at: datetime | None = None
        self.revoked_for: str | None = None
        self.disabled = False
        self.enabled_at: datetime | None = None
        self.rotation_flagged = False
        self.created_at = created_at or self.created_on
        self.expiry_announced_at: datetime | None = None
        self.expiry_recorded = False
        self.attacked_at: datetime | None = None
        self.presented_after_end_at: datetime | None = None

    @classmethod
    def create(  # noqa: PLR0913 - a key is created whole
        cls,
        key_id: KeyId,
        *,
        by: Origin,
        account_id: AccountId,
        name: Name,
        environment: Environment,
        prefix: str,
        verifier_digest: str,
        scopes: Scopes | None = None,
        networks: Networks | None = None,
        expires_at: datetime | None = None,
        rotation_due_after: timedelta = ROTATION_DUE_AFTER,
        replaces: "ApiKey | None" = None,
    ) -> Self:
        """A new key, or with ``replaces`` the next one of that key's lineage."""
        return cls.begin(
            Created,
            aggregate_id=key_id,
            by=by,
            account_id=account_id,
            name=name,
            environment=environment.value,
            prefix=prefix,
            verifier_digest=verifier_digest,
            scopes=_scope_texts(scopes),
            allowed_ips=_network_texts(networks),
            expires_at=expires_at,
            rotation_due_at=by.at + rotation_due_after,
            lineage_id=key_id if replaces is None else replaces.lineage_id,
            replaces=None if replaces is None else replaces.id,
        )

    @classmethod
    def import_(  # noqa: PLR0913 - as create
        cls,
        key_id: KeyId,
        *,
        by: Origin,
        account_id: AccountId,
        name: Name,
        environment: Environment,
        prefix: str,
        foreign: ForeignHash,
        external_id: Name | None = None,
        scopes: Scopes | None = None,
        networks: Networks | None = None,
        created_at: datetime | None = None,
        expires_at: datetime | None = None,
        rotation_due_after: timedelta = ROTATION_DUE_AFTER,
    ) -> Self:
        """A key that another system issued; its age counts from ``created_at``, or from now where that is None."""
        return cls.begin(
            Imported,
            aggregate_id=key_id,
            by=by,
            account_id=account_id,
            name=name,
            environment=environment.value,
            prefix=prefix,
            algorithm=foreign.algorithm.value,
            verifier_digest=foreign.verifier_digest,
            external_id=external_id,
            scopes=_scope_texts(scopes),
            allowed_ips=_network_texts(networks),
            created_at=created_at,
            expires_at=expires_at,
            rotation_due_at=(created_at or by.at) + rotation_due_after,
            lineage_id=key_id,
            replaces=None,
        )

    @property
    def key_id(self) -> KeyId:
        """The key's public id."""
        return KeyId(self.id)

    def status(self, now: datetime) -> KeyStatus:
        """The key's status at ``now``."""
        return status_of(self, now)

    def successor_expires_at(self, now: datetime) -> datetime | None:
        """When a successor made at ``now`` expires: it lives as long as this key from its making; None: for ever."""
        if self.expires_at is None:
            return None
        try:
            return now + (self.expires_at - self.created_at)
        except OverflowError:  # beyond the year 9999, and so is this key's own end, as good as
            return self.expires_at

    def rename(self, name: Name, *, by: Origin) -> None:
        """Changes the name; the same name records nothing."""
        self._refuse_ended(by)
        if name != self.name:
            self.record(Renamed, by=by, name=name)

    def rescope(self, scopes: Scopes | None, *, by: Origin) -> None:
        """Changes the scopes; None is full access; the same scopes record nothing."""
        self._refuse_ended(by)
        if _scope_texts(scopes) != _scope_texts(self.scopes):
            self.record(Rescoped, by=by, scopes=_scope_texts(scopes))

    def restrict(self, networks: Networks | None, *, by: Origin) -> None:
        """Changes the allowed networks; None is anywhere; the same networks record nothing."""
        self._refuse_ended(by)
        if _network_texts(networks) != _network_texts(self.networks):
            self.record(NetworksChanged, by=by, allowed_ips=_network_texts(networks))

    def reschedule_rotation(self, rotation_due_at: datetime, *, by: Origin) -> None:
        """Changes the day on which the key is to be rotated; the same day records nothing."""
        self._refuse_ended(by)
        if rotation_due_at != self.rotation_due_at:
            self.record(RotationDueChanged, by=by, rotation_due_at=rotation_due_at)

    def fall_due(self, *, by: Origin) -> None:
        """Flags the key for rotation, once, when it is old enough and not already rotating."""
        if not self.rotation_flagged and self.status(by.at) is KeyStatus.ROTATION_DUE:
            self.record(RotationFellDue, by=by)

    def rotate(
        self,
        successor_id: KeyId,
        *,
        grace: timedelta,
        grace_starts: GraceStart,
        by: Origin,
        compromised: bool = False,
    ) -> None:
        """Names the successor; this key stays accepted through the grace period, and ends at once when it is zero.

        The grace period never goes beyond the key's own expiry.
        ``compromised``: it ends at once, whatever the grace period, and the record says why.

        A second rotation names another successor (the first one's secret was lost before use) and keeps an end that
        is already nearer.
        """
        status = self.status(by.at)
        if status not in {KeyStatus.ACTIVE, KeyStatus.ROTATION_DUE, KeyStatus.ROTATING}:
            raise KeyStateError(f"A key that is {status} cannot be rotated")
        grace = timedelta() if compromised else grace
        ends = self._grace_end(by.at + grace) if grace_starts is GraceStart.NOW or not grace else None
        if ends is None or (self.retires_at is not None and self.retires_at < ends):
            ends = self.retires_at
        self.record(
            Rotated,
            by=by,
            successor_id=successor_id,
            grace_seconds=int(grace.total_seconds()),
            grace_starts=grace_starts.value,
            retires_at=ends,
        )
        if compromised:
            # By the command that retired it, too: `revoke` finds a key that its grace period has ended already.
            self.record(Revoked, by=by, reason=RevocationReason.COMPROMISED.value)
        self.retire(by=by)

    def withdraw_rotation(self, *, by: Origin) -> None:
        """Takes back a rotation whose successor came to nobody; without one, or with an end in sight, nothing.

        The successor is to be revoked in the same transaction.
        """
        if self.replaced_by is not None and self.retires_at is None and self.revoked_at is None:
            self.record(RotationWithdrawn, by=by, successor_id=self.replaced_by)

    def extend_grace(self, grace: timedelta, *, by: Origin) -> None:
        """Puts off the end of the grace period, to ``grace`` from now, or from the successor's first use.

        Raises KeyStateError for a key that is in no grace period, ConflictError for an end that is not later, also
        because it would be beyond the key's own expiry.
        """
        if self.replaced_by is None or self.status(by.at) not in {KeyStatus.ROTATING, KeyStatus.DISABLED}:
            raise KeyStateError("Only a key in its grace period can be extended")
        ends = None if self.retires_at is None else self._grace_end(by.at + grace)
        if ends is not None and ends == self.retires_at == self.expires_at:
            raise ConflictError("The grace period lasts until the key expires, and cannot go beyond")
        if grace <= (self.grace or timedelta()) if ends is None else ends <= (self.retires_at or ends):
            raise ConflictError("The grace period ends no earlier than that as it is")
        self.record(GraceExtended, by=by, grace_seconds=int(grace.total_seconds()), retires_at=ends)

    def end_grace(self, *, by: Origin) -> None:
        """Ends the grace period now, since nobody uses the key any more; without one, or again, records nothing."""
        if self.replaced_by is not None and self.revoked_at is None:
            self.record(Revoked, by=by, reason=RevocationReason.ROTATED.value)

    def begin_grace(self, *, first_use: datetime, by: Origin) -> None:
        """Starts a grace period that waited for the successor's first use; none once the expiry is on record."""
        if self.replaced_by is None or self.retires_at is not None:
            return
        if self.revoked_at is None and not self.expiry_recorded:
            self.record(GraceBegan, by=by, retires_at=self._grace_end(first_use + (self.grace or timedelta())))

    def _grace_end(self, end: datetime) -> datetime:
        """That end, or the key's own expiry where that is earlier: nothing is accepted beyond it."""
        return end if self.expires_at is None else min(end, self.expires_at)

    def retire(self, *, by: Origin) -> None:
        """Puts the end of the grace period on record, once it has passed."""
        if self.revoked_at is None and self.retires_at is not None and by.at >= self.retires_at:
            self.record(Revoked, by=by, reason=RevocationReason.ROTATED.value)

    def disable(self, *, by: Origin) -> None:
        """Stops the key, reversibly; again records nothing."""
        self._refuse_ended(by)
        if not self.disabled:
            self.record(Disabled, by=by)

    def enable(self, *, by: Origin) -> None:
        """Lets a disabled key run again; again records nothing."""
        self._refuse_ended(by)
        if self.disabled:
            self.record(Enabled, by=by)

    def revoke(self, *, reason: RevocationReason, note: Note | None, by: Origin) -> None:
        """Ends the key for ever; again records nothing, and of one that its grace period has ended, that."""
        self.retire(by=by)
        if self.revoked_at is None:
            self.record(Revoked, by=by, reason=reason.value, note=note)

    def announce_expiry(self, *, by: Origin) -> None:
        """Puts on record that the key expires within a week, and again within a day, unless it ends before.

        A moment that has passed unsaid is made good once; a key that was made after it lacks it.
        """
        at = self._next_expiry_notice()
        has_ended = self.status(by.at) in {KeyStatus.REVOKED, KeyStatus.EXPIRED}
        if at is not None and by.at >= at and self.replaced_by is None and not has_ended:
            self.record(Expiring, by=by, expires_at=self.expires_at)

    def _next_expiry_notice(self) -> datetime | None:
        if self.expires_at is None:
            return None
        said_at = self.expiry_announced_at or self.created_at
        moments = (self.expires_at - before for before in EXPIRY_ANNOUNCED_BEFORE)
        return next((moment for moment in moments if moment > said_at), None)

    def expire(self, *, by: Origin) -> None:
        """Puts the expiry on record, once it has passed."""
        if not self.expiry_recorded and self.status(by.at) is KeyStatus.EXPIRED:
            self.record(Expired, by=by)

    def note_attack(self, *, failed_attempts: int, since: datetime, by: Origin) -> None:
        """Puts an attack on record, at most once a day."""
        if _is_news(self.attacked_at, by.at):
            self.record(Attacked, by=by, failed_attempts=failed_attempts, since=since, until=by.at)

    def note_presented_after_end(self, *, attempts: int, last_at: datetime, by: Origin) -> None:
        """Puts on record that the ended key is still presented, at most once a day."""
        ended = self.status(by.at) in {KeyStatus.REVOKED, KeyStatus.EXPIRED}
        if ended and _is_news(self.presented_after_end_at, by.at):
            self.record(PresentedAfterEnd, by=by, attempts=attempts, last_at=last_at)

    def _refuse_ended(self, by: Origin) -> None:
        status = self.status(by.at)
        if status in {KeyStatus.REVOKED, KeyStatus.EXPIRED}:
            raise KeyStateError(f"A key that is {status} cannot be changed")


def _is_news(last_at: datetime | None, now: datetime) -> bool:
    return last_at is None or now - last_at >= SAID_AGAIN_AFTER


def _scope_texts(scopes: Scopes | None) -> tuple[str, ...] | None:
    return None if scopes is None else tuple(scopes.to_list())


def _network_texts(networks: Networks | None) -> tuple[str, ...] | None:
    return None if networks is None else tuple(networks.to_list())

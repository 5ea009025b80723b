"""Keys, as their owners manage them: create, list, change, rotate, revoke, and read a key's history."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import EllipsisType
from typing import Any, Self

from application.ledger import Ledger, NewVerifier, retried
from application.ports import (
    Accounts,
    Clock,
    CredentialHashes,
    Entropy,
    Freshness,
    History,
    HistoryEntry,
    KeyAnswers,
    KeyCache,
    Keys,
    KeyView,
    Verifiers,
)
from application.usage_ports import KeyUsage, UsageStats
from domain.access import Networks, Scopes
from domain.account import ROTATION_DUE_DAYS
from domain.api_key import ApiKey, GraceStart, RevocationReason
from domain.credential import Environment, Secret, mint_key
from domain.errors import ConflictError, InvalidError, NotFoundError
from domain.events import Aggregate, Origin
from domain.ids import AccountId, KeyId
from domain.key_status import KeyStatus, revoked_since, status_of
from domain.naming import Name, Note

UNKNOWN_KEY = "No such API key"
REPLACED_UNSEEN = Note("replaced before its first use")
NEVER_HANDED_OVER = Note("could not be handed over")
GRACE_DEFAULT = timedelta(hours=24)
GRACE_MAX = timedelta(days=90)
_NEVER_USED = KeyUsage(requests=0, failed_attempts=0, first_used_at=None, last_used_at=None)


@dataclass(frozen=True, slots=True)
class ManagedKey:
    """One key as its owner sees it, at one instant. ``revoked_since`` None: it is not revoked then."""

    view: KeyView
    status: KeyStatus
    revoked_since: datetime | None
    usage: KeyUsage

    @classmethod
    def of(cls, view: KeyView, usage: KeyUsage, now: datetime) -> Self:
        """The key at ``now``."""
        return cls(view, status_of(view, now), revoked_since(view, now), usage)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key with its secret, which exists in this record and nowhere else."""

    key: ManagedKey
    secret: Secret


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a new key is to be.

    ``scopes`` None is full access, ``networks`` None is anywhere, ``rotation_due_days`` None is what its account says.
    """

    name: Name
    environment: Environment
    scopes: Scopes | None = None
    networks: Networks | None = None
    expires_at: datetime | None = None
    rotation_due_days: int | None = None


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What is to change; an Ellipsis leaves a field as it is."""

    name: Name | EllipsisType = field(default=...)
    scopes: Scopes | EllipsisType | None = field(default=...)
    networks: Networks | EllipsisType | None = field(default=...)
    rotation_due_days: int | EllipsisType = field(default=...)


@dataclass(frozen=True, slots=True)
class _Minted:
    key_id: KeyId
    secret: Secret
    verifier: NewVerifier
    digest: str


class KeyManagement:
    """The owner's side of keys. Another account's key is the same NotFoundError as one that never was."""

    def __init__(  # noqa: PLR0913 - the ports it stands on
        self,
        *,
        ledger: Ledger,
        keys: Keys,
        accounts: Accounts,
        usage: UsageStats,
        history: History,
        cache: KeyCache,
        answers: KeyAnswers,
        hashes: CredentialHashes,
        verifiers: Verifiers,
        entropy: Entropy,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._accounts = accounts
        self._usage = usage
        self._history = history
        self._cache = cache
        self._answers = answers
        self._hashes = hashes
        self._verifiers = verifiers
        self._entropy = entropy
        self._clock = clock

    def create(self, *, account_id: AccountId, new: NewKey, by: Origin) -> IssuedKey:
        """Create API Key: copy the key, it is shown only once.

        Raises InvalidError for an expiry that is not in the future.
        """
        expires_at = None if new.expires_at is None else _expiry(new.expires_at, by.at)
        minted = self._mint(new.environment)
        key = ApiKey.create(
            minted.key_id,
            by=by,
            account_id=account_id,
            name=new.name,
            environment=new.environment,
            prefix=minted.secret.shown,
            verifier_digest=minted.digest,
            scopes=new.scopes,
            networks=new.networks,
            expires_at=expires_at,
            rotation_due_after=self._due_after(account_id, new.rotation_due_days),
        )
        self._ledger.append(key, verifiers=(minted.verifier,))
        return IssuedKey(self.get(account_id=account_id, key_id=minted.key_id), minted.secret)

    def get(self, *, account_id: AccountId, key_id: KeyId) -> ManagedKey:
        """One of the account's keys, without its secret."""
        found = self._keys.find_with_usage(key_id)
        if found is None or found[0].account_id != account_id:
            raise NotFoundError(UNKNOWN_KEY)
        view, usage = found
        return ManagedKey.of(view, usage, self._clock.now())

    def page(
        self,
        *,
        account_id: AccountId,
        environment: Environment | None = None,
        status: KeyStatus | None = None,
        before: int | None = None,
        limit: int,
    ) -> Sequence[ManagedKey]:
        """View all your API keys: name, created date, last used date, key prefix; newest first."""
        now = self._clock.now()
        views = self._keys.page(account_id, environment=environment, status=status, before=before, limit=limit, now=now)
        return self._managed(views)

    def change(self, *, account_id: AccountId, key_id: KeyId, change: KeyChange, by: Origin) -> ManagedKey:
        """Renames a key, or changes what it may do, from where, and its age at rotation; holds everywhere on return."""

        def command(key: ApiKey) -> None:
            if not isinstance(change.name, EllipsisType):
                key.rename(change.name, by=by)
            if not isinstance(change.scopes, EllipsisType):
                key.rescope(change.scopes, by=by)
            if not isinstance(change.networks, EllipsisType):
                key.restrict(change.networks, by=by)
            if not isinstance(change.rotation_due_days, EllipsisType):
                key.reschedule_rotation(key.created_at + timedelta(days=change.rotation_due_days), by=by)

        return self._command(account_id, key_id, command)[0]

    def disable(self, *, account_id: AccountId, key_id: KeyId, by: Origin) -> ManagedKey:
        """Stops a key reversibly; refused everywhere when it returns."""
        return self._command(account_id, key_id, lambda key: key.disable(by=by))[0]

    def enable(self, *, account_id: AccountId, key_id: KeyId, by: Origin) -> ManagedKey:
        """Lets a disabled key run again."""
        return self._command(account_id, key_id, lambda key: key.enable(by=by))[0]

    def revoke(
        self, *, account_id: AccountId, key_id: KeyId, reason: RevocationReason, note: Note | None, by: Origin
    ) -> tuple[ManagedKey, Freshness]:
        """Immediately revoke compromised keys: when this returns, no process accepts the key. Again: unchanged."""
        return self._command(account_id, key_id, lambda key: key.revoke(reason=reason, note=note, by=by))

    def extend_grace(self, *, account_id: AccountId, key_id: KeyId, grace: timedelta, by: Origin) -> ManagedKey:
        """Keeps a key that is being replaced in force for ``grace`` from now; holds everywhere when it returns.

        Raises ConflictError for a key that is not being replaced, and for an end that is no later than the present one.
        """
        return self._command(account_id, key_id, lambda key: key.extend_grace(grace, by=by))[0]

    def rotate(  # noqa: PLR0913 - what a rotation asks
        self,
        *,
        account_id: AccountId,
        key_id: KeyId,
        grace: timedelta,
        grace_starts: GraceStart,
        by: Origin,
        compromised: bool = False,
        beside: Callable[[ApiKey], Sequence[Aggregate]] = lambda _: (),
    ) -> IssuedKey:
        """Rotate keys every 90 days: a successor like the key, which itself stays accepted for the grace period.

        The successor of a key that expires lives as long as that one was to live from its making.
        Rotating again before the successor's first use replaces the successor, whose secret was lost; after it, or
        after the successor's own rotation, ConflictError. A successor that has ended counts as one that never was.
        Raises ConflictError for a key that is disabled or has ended.

        ``compromised``: when this returns, the successor exists and no process accepts the key.
        ``beside``: given the rotated key, what else is appended with it; it may be asked again, and may refuse.
        """
        minted = self._mint(self.get(account_id=account_id, key_id=key_id).view.environment)

        def attempt() -> int | None:
            predecessor = self._owned(account_id, key_id)
            unseen = self._unseen_successor(predecessor, by)
            successor = ApiKey.create(
                minted.key_id,
                by=by,
                account_id=account_id,
                name=predecessor.name,
                environment=predecessor.environment,
                prefix=minted.secret.shown,
                verifier_digest=minted.digest,
                scopes=predecessor.scopes,
                networks=predecessor.networks,
                expires_at=predecessor.successor_expires_at(by.at),
                rotation_due_after=predecessor.rotation_due_at - predecessor.created_at,
                replaces=predecessor,
            )
            predecessor.rotate(minted.key_id, grace=grace, grace_starts=grace_starts, by=by, compromised=compromised)
            changed = [predecessor, *unseen, successor, *beside(predecessor)]
            return self._ledger.append(*changed, verifiers=(minted.verifier,))

        position = retried(attempt)
        if position is not None:
            self._cache.await_applied(position)
        return IssuedKey(self.get(account_id=account_id, key_id=minted.key_id), minted.secret)

    def withdraw_rotation(
        self, *, account_id: AccountId, key_id: KeyId, by: Origin, beside: Callable[[ApiKey], Sequence[Aggregate]]
    ) -> None:
        """Takes back a rotation whose successor came to nobody: that one is revoked, and the key is due as before.

        Once the successor is used, ConflictError, as in `rotate`. ``beside``: as there. Holds everywhere on return.
        """

        def attempt() -> int | None:
            predecessor = self._owned(account_id, key_id)
            unseen = self._unseen_successor(predecessor, by, note=NEVER_HANDED_OVER)
            predecessor.withdraw_rotation(by=by)
            return self._ledger.append(predecessor, *unseen, *beside(predecessor))

        position = retried(attempt)
        if position is not None:
            self._cache.await_applied(position)

    def events(self, *, account_id: AccountId, key_id: KeyId, after: int, limit: int) -> Sequence[HistoryEntry]:
        """The key's history from the event log past that position, with its settled uses, in ledger order."""
        self.get(account_id=account_id, key_id=key_id)
        own = self._history.of_stream(key_id, after=after, limit=limit)
        uses = [
            HistoryEntry(
                position=window.position,
                version=None,
                type="key.used",
                occurred_at=window.ended_at,
                actor="system:settlement",
                data={
                    "run_id": window.run_id,
                    "window_start": window.started_at,
                    "window_end": window.ended_at,
                    "requests": window.requests,
                    "failed_attempts": window.failed_attempts,
                    "first_used_at": window.first_used_at,
                    "last_used_at": window.last_used_at,
                    "details_root": window.details_root,
                },
            )
            for window in self._usage.windows(key_id, after=after, limit=limit)
        ]
        return sorted([*own, *uses], key=lambda entry: entry.position)[:limit]

    def _due_after(self, account_id: AccountId, days: int | None) -> timedelta:
        if days is None:
            account = self._accounts.find(account_id)
            days = ROTATION_DUE_DAYS if account is None else account.rotation_due_days
        return timedelta(days=days)

    def _mint(self, environment: Environment) -> _Minted:
        key_id, secret = mint_key(
            environment,
            id_entropy=self._entropy.bytes(16),
            secret_entropy=self._entropy.bytes(32),
            tag=self._hashes.tag,
        )
        raw = secret.reveal().encode("ascii")
        verifier = self._verifiers.hash(raw)
        digest = hashlib.sha256(verifier.encode("ascii")).hexdigest()
        return _Minted(key_id, secret, NewVerifier(key_id, verifier, self._hashes.receipt(raw)), digest)

    def _command(
        self, account_id: AccountId, key_id: KeyId, command: Callable[[ApiKey], None]
    ) -> tuple[ManagedKey, Freshness]:
        def owned(key: ApiKey) -> None:
            if key.account_id != account_id:
                raise NotFoundError(UNKNOWN_KEY)
            command(key)

        answer = self._answers.of(key_id)
        try:
            self._ledger.change(ApiKey, key_id, owned, answer=answer)
        except NotFoundError as error:
            raise NotFoundError(UNKNOWN_KEY) from error
        found = answer.read()
        if found is None:
            raise NotFoundError(UNKNOWN_KEY)
        view, usage, freshness = found
        return ManagedKey.of(view, usage, self._clock.now()), freshness

    def _owned(self, account_id: AccountId, key_id: KeyId) -> ApiKey:
        key = self._ledger.load(ApiKey, key_id)
        if key.account_id != account_id:
            raise NotFoundError(UNKNOWN_KEY)
        return key

    def _unseen_successor(self, predecessor: ApiKey, by: Origin, note: Note = REPLACED_UNSEEN) -> list[ApiKey]:
        successor = self._living_successor(predecessor, by.at)
        if successor is None:
            return []
        if successor.key_id != predecessor.replaced_by or successor.replaced_by is not None:
            # Another one here would leave the lineage with two heads.
            raise ConflictError("The key's successor was rotated itself; rotate the newest key instead")
        if self._usage.of_keys([successor.key_id])[successor.key_id].requests:
            if successor.disabled:
                raise ConflictError(
                    "The key's successor is disabled, but was used; enable it and rotate it, or revoke it"
                )
            raise ConflictError("The key's successor is already in use; rotate the successor instead")
        successor.revoke(reason=RevocationReason.UNUSED, note=note, by=by)
        return [successor]

    def _living_successor(self, predecessor: ApiKey, now: datetime) -> ApiKey | None:
        """The successor, or where that has ended its own, and so on; None when none is left that has not ended."""
        successor_id = predecessor.replaced_by
        while successor_id is not None:
            successor = self._ledger.load(ApiKey, successor_id)
            if successor.status(now) not in {KeyStatus.REVOKED, KeyStatus.EXPIRED}:
                return successor
            if successor.revoked_at is not None and (ended := self._keys.find(successor_id)) is not None:
                # By somebody who may not have lived to wait for it.
                self._cache.await_applied(ended.position)
            successor_id = successor.replaced_by
        return None

    def _managed(self, views: Sequence[KeyView]) -> list[ManagedKey]:
        now = self._clock.now()
        usage: dict[KeyId, Any] = self._usage.of_keys([view.key_id for view in views]) if views else {}
        return [ManagedKey.of(view, usage.get(view.key_id, _NEVER_USED), now) for view in views]


def _expiry(given: datetime, now: datetime) -> datetime:
    """The instant in UTC, as events hold it; InvalidError when it is not in the future, or beyond the year 9999."""
    if given <= now:
        raise InvalidError.of("expires_at", "must be in the future")
    try:
        return given.astimezone(UTC)
    except OverflowError as error:
        raise InvalidError.of("expires_at", "must be before the year 10000 in UTC") from error

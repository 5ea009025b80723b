"""What requests leave behind, their rows and their counts; as `application.ports`, infrastructure supplies it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from domain.errors import UnavailableError
from domain.ids import AccountId, KeyId, RunId


class AccessKind(NamedTuple):
    """What requests to a protected route have in common when they are alike; made once for many of them.

    ``outcome`` is the verdict's text; ``key_id`` the id that was presented, also when the credential was refused
    (it may then belong to nobody); ``key_hash`` the keyed hash of the credential, None when none was sent.
    """

    method: str
    endpoint: str
    status: int
    outcome: str
    accepted: bool
    key_id: KeyId | None
    account_id: AccountId | None
    key_hash: str | None
    client_ip: str | None


class AccessRow(NamedTuple):
    """One request to a protected route, as the access log keeps it: no body, no query, no credential.

    Its fields between the time and the id are those of `AccessKind`, written out: a NamedTuple takes none over.
    """

    occurred_at: datetime
    method: str
    endpoint: str
    status: int
    outcome: str
    accepted: bool
    key_id: KeyId | None
    account_id: AccountId | None
    key_hash: str | None
    client_ip: str | None
    request_id: str


class AccessLog(Protocol):
    """The writer of access rows, one per serving process. Rows of one process are committed in order."""

    def queued(self) -> int:
        """How many rows wait to be written, without those of the batch in flight."""
        ...

    def submit(
        self,
        kind: AccessKind,
        occurred_at: datetime,
        request_id: str,
        waiter: object,
        deliver: Callable[[Sequence[Any], UnavailableError | None], None],
    ) -> None:
        """Queues the request's row; UnavailableError at once when the queue is full.

        ``deliver`` is called once for each batch, in another thread, with the batch's waiters and None when their rows
        are committed, or the error when they were given up.
        """
        ...

    def await_batch(self, waiter: object, deliver: Callable[[Sequence[Any], UnavailableError | None], None]) -> None:
        """Has ``waiter`` told when the next batch is written or given up. To be called before a row is submitted.

        UnavailableError at once when the queue is full.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """A key's counts, exact to the last committed row. The times are None before a first accepted use."""

    requests: int
    failed_attempts: int
    first_used_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class UseWindow:
    """One settled window of one key, as its history shows it: ``key.used``."""

    position: int
    run_id: RunId
    started_at: datetime
    ended_at: datetime
    requests: int
    failed_attempts: int
    first_used_at: datetime | None
    last_used_at: datetime | None
    details_root: str


class UsageStats(Protocol):
    """Counts and windows, read."""

    def of_keys(self, key_ids: Sequence[KeyId]) -> dict[KeyId, KeyUsage]:
        """The usage of each; a key never presented has zeros. One round-trip."""
        ...

    def windows(self, key_id: KeyId, *, after: int, limit: int) -> Sequence[UseWindow]:
        """The key's settled windows past that position, in ledger order."""
        ...


class RefusedAttempts(Protocol):
    """Refused attempts that named a key, from the access log."""

    def attacked(self, since: datetime, threshold: int, limit: int) -> Sequence[tuple[KeyId, int]]:
        """Existing keys with that many refused attempts or more since then, but for those on record as attacked.

        That counts for a day before ``since``. Refused credentials and networks count; a missing scope, or a feature
        that the plan lacks, does not.
        """
        ...

    def presented_after_end(self, since: datetime, limit: int) -> Sequence[tuple[KeyId, int, datetime]]:
        """Keys refused as revoked or expired since then, with how often and when last, but for those on record as that.

        That counts for a day before the last refusal.
        """
        ...

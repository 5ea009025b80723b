"""What the use cases need from outside, each a role; infrastructure supplies them, and its tests hold it to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from application.usage_ports import KeyUsage
from domain.account import ROTATION_DUE_DAYS
from domain.attempt_limit import Decision
from domain.credential import Environment
from domain.ids import AccountId, CampaignId, KeyId
from domain.key_status import KeyStatus
from domain.notices import NoticeKind
from domain.verdict import KeyFacts


class Clock(Protocol):
    """The time of decisions."""

    def now(self) -> datetime:
        """The current instant, aware UTC; never a local clock's naive time."""
        ...


class SteadyClock(Clock, Protocol):
    """A clock that is read once for several questions: what has elapsed, and which instant that was."""

    def elapsed(self) -> float:
        """Seconds of a clock that never steps and does not stop while the machine sleeps."""
        ...

    def at(self, elapsed: float) -> datetime:
        """The instant when ``elapsed`` was read, aware UTC."""
        ...


class Entropy(Protocol):
    """Randomness fit for credentials."""

    def bytes(self, count: int) -> bytes:
        """``count`` bytes from the operating system's generator."""
        ...


class CredentialHashes(Protocol):
    """Keyed hashes of credentials under subkeys that are not in the database."""

    def tag(self, signed: bytes) -> bytes:
        """The 11 base62 characters that end a credential, over all before them."""
        ...

    def tag_is_valid(self, signed: bytes, tag: bytes) -> bool:
        """Whether any accepted secret made this tag; constant time."""
        ...

    def receipt(self, raw: bytes) -> bytes:
        """32 bytes that let a later use be checked without bcrypt, under the newest secret."""
        ...

    def receipt_is_valid(self, raw: bytes, receipt: bytes) -> bool:
        """Whether any accepted secret made this receipt for this credential; constant time."""
        ...

    def log_hash(self, raw: bytes) -> str:
        """32 hex characters that name a credential in the access log to its owner, and cannot be guessed from it."""
        ...


class Verifiers(Protocol):
    """Slow hashes for storage (bcrypt)."""

    def hash(self, raw: bytes) -> str:
        """A salted verifier; takes about a quarter of a second. ``raw`` is at most 72 bytes."""
        ...

    def verify(self, raw: bytes, verifier: str) -> bool:
        """Whether ``verifier`` was made of ``raw``; as slow; False for a verifier that cannot be read."""
        ...

    def verify_foreign(self, raw: bytes, verifier: str) -> bool:
        """As ``verify``, for a bcrypt verifier that another system made, at its own cost, from 4 to 14."""
        ...


class Cursors(Protocol):
    """Opaque, authenticated places in a listing."""

    def seal_cursor(self, payload: bytes) -> str:
        """Text for the client."""
        ...

    def open_cursor(self, text: str) -> bytes | None:
        """The payload; None for anything that this service did not seal."""
        ...


@dataclass(frozen=True, slots=True)
class KeyView:
    """One key as listings show it, from the view that is written with each event.

    ``position`` is that of the newest event applied, ``created_position`` that of the first: the order of listings.
    """

    key_id: KeyId
    account_id: AccountId
    name: str
    environment: Environment
    prefix: str
    scopes: tuple[str, ...] | None
    allowed_ips: tuple[str, ...] | None
    created_at: datetime
    expires_at: datetime | None
    rotation_due_at: datetime
    disabled: bool
    revoked_at: datetime | None
    retires_at: datetime | None
    lineage_id: KeyId
    replaces: KeyId | None
    replaced_by: KeyId | None
    created_position: int
    position: int


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What authentication reads in one snapshot: the facts, and the proofs.

    ``receipt`` None: the next use pays bcrypt. ``read_at`` is the ledger's last position in that snapshot.
    """

    facts: KeyFacts
    verifier: str
    receipt: bytes | None
    read_at: int


class Keys(Protocol):
    """The keys' view: true in the database the moment an event commits."""

    def find(self, key_id: KeyId) -> KeyView | None:
        """One key, whoever owns it; None when there is none."""
        ...

    def find_with_usage(self, key_id: KeyId) -> "tuple[KeyView, KeyUsage] | None":
        """As ``find``, with its counts, in one round-trip."""
        ...

    def page(  # noqa: PLR0913 - a filter
        self,
        account_id: AccountId,
        *,
        environment: Environment | None,
        status: KeyStatus | None,
        before: int | None,
        limit: int,
        now: datetime,
    ) -> Sequence[KeyView]:
        """The account's keys created before that position, newest first; ``status`` is taken at ``now``."""
        ...

    def stored(self, key_id: KeyId) -> StoredKey | None:
        """What authentication needs; None for an id that was never given out."""
        ...

    def imported(self, digest: str, prefixes: Sequence[str]) -> Sequence[StoredKey]:
        """The imported keys with this ``sha256:…`` verifier, and those with a bcrypt verifier and one of the prefixes.

        The longest prefix first, and the keys of one in the order of their import.
        """
        ...

    def keep_receipt(self, key_id: KeyId, receipt: bytes) -> None:
        """Puts a receipt beside the verifier; not an event, and never anything but the receipt is written."""
        ...


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """What an imported key is found by. ``candidate``: its place among the bcrypt hashes of its prefix, else None."""

    key_id: KeyId
    account_id: AccountId
    external_id: str | None
    prefix: str
    candidate: int | None
    verifier: str


class Imports(Protocol):
    """The keys imported so far, looked through before others join them."""

    def like(
        self,
        account_id: AccountId,
        *,
        digests: Sequence[bytes],
        hashes: Sequence[str],
        prefixes: Sequence[str],
        external_ids: Sequence[str],
    ) -> Sequence[ImportedRow]:
        """All with one of these hashes, or any bcrypt hash and a prefix of these, or an external id of the account."""
        ...


class DueKeys(Protocol):
    """What the clock has made due, for the sweeps; at most ``limit`` ids, oldest first."""

    def to_retire(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Keys whose grace period is over and not yet on record as revoked."""
        ...

    def to_expire(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Keys past ``expires_at`` without their event."""
        ...

    def to_announce(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Keys that expire within a week, or within a day, without the event that says so."""
        ...

    def to_flag(self, now: datetime, limit: int) -> Sequence[KeyId]:
        """Keys past ``rotation_due_at`` without their event."""
        ...

    def to_begin_grace(self, limit: int) -> Sequence[tuple[KeyId, datetime]]:
        """Keys that wait for their successor's first accepted use, with the time of that use."""
        ...


@dataclass(frozen=True, slots=True)
class AccountView:
    """One account as the operator lists it. ``notice_email`` None: its notices go to ``email``.

    ``hand_over_to``: the webhook endpoint that is handed over successors; None, also once that is deleted: they are
    made by hand.
    """

    account_id: AccountId
    name: str
    email: str
    plan: str
    suspended: bool
    opened_at: datetime
    position: int
    notice_email: str | None = None
    muted: frozenset[NoticeKind] = frozenset()
    rotation_due_days: int = ROTATION_DUE_DAYS
    hand_over_to: str | None = None

    @property
    def notices_go_to(self) -> str:
        """The address of its notices."""
        return self.notice_email or self.email


class Accounts(Protocol):
    """The accounts' view."""

    def find(self, account_id: AccountId) -> AccountView | None:
        """One account; None when there is none."""
        ...

    def page(self, *, before: int | None, limit: int) -> Sequence[AccountView]:
        """Accounts whose newest event lies before that position, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class CampaignView:
    """One campaign."""

    campaign_id: CampaignId
    account_id: AccountId
    environment: Environment
    name: str
    created_at: datetime
    position: int


class Campaigns(Protocol):
    """The campaigns' view."""

    def find(self, campaign_id: CampaignId) -> CampaignView | None:
        """One campaign, whoever owns it; None when there is none."""
        ...

    def page(
        self, account_id: AccountId, environment: Environment, *, before: int | None, limit: int
    ) -> Sequence[CampaignView]:
        """The account's campaigns in that environment, newest first."""
        ...


class Attempts(Protocol):
    """Failed attempts, counted for all processes together."""

    def count(self, network: str, now: datetime) -> Decision:
        """Counts one failed attempt of that network, atomically, and decides on it."""
        ...

    def forget(self, now: datetime) -> int:
        """Drops what no longer matters; answers how much."""
        ...


class KeyAnswer(Protocol):
    """What one change of a key is answered with. Given to the append of the change, it is asked for along with it."""

    def read(self) -> "tuple[KeyView, KeyUsage, Freshness] | None":
        """The key as the change left it, its counts, and who has applied it, as `KeyCache.await_applied`; None: no key.

        Asked once, after the append; when nothing was recorded it asks by itself.
        """
        ...


class KeyAnswers(Protocol):
    """The answers of changes to keys."""

    def of(self, key_id: KeyId) -> KeyAnswer:
        """The answer of a change that is about to be made to this key."""
        ...


class KeyCache(Protocol):
    """The serving processes' memory of verified keys, seen from a command that changes one."""

    def await_applied(self, position: int) -> "Freshness":
        """Returns once no process can act on anything older than ``position`` (ops/adr/0005-freshness.md)."""
        ...


@dataclass(frozen=True, slots=True)
class Freshness:
    """How a change became true everywhere: processes that applied it, and how long the answer waited for them."""

    position: int
    processes: int
    waited_ms: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event as clients read it. ``version`` is None for what other streams tell of the object (``key.used``)."""

    position: int
    version: int | None
    type: str
    occurred_at: datetime
    actor: str
    data: dict[str, object]


class History(Protocol):
    """The ledger, read for people."""

    def of_stream(self, stream_id: str, *, after: int, limit: int) -> Sequence[HistoryEntry]:
        """One aggregate's events past that position, in ledger order."""
        ...


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of a job. ``outcome``: done, postponed, failed, interrupted; None while it runs. ``done``: how many."""

    job: str
    slot: datetime
    by_hand: bool
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    done: int | None
    error: str | None


class Health(Protocol):
    """The service's own state, asked for by load balancers and people."""

    def check(self) -> dict[str, str]:
        """Each following view with ``ok`` or why it stopped.

        UnavailableError when no key can be verified, or the access log takes no row, without which nothing is answered.
        """
        ...

"""Whether a key is accepted: a closed set of answers, reached in one fixed order, from facts and nothing else.

grammar → tag → known → proof          settled before, as each needs the one before it
→ revoked or retired → expired → disabled → suspended → environment → network → scope → plan      `judge`
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from domain.access import Address, Feature, Networks, Plan, Scope, Scopes
from domain.credential import Environment
from domain.ids import AccountId, KeyId


class Verdict(StrEnum):
    """Accepted, or the first reason why not; in the order in which the reasons are looked for."""

    OK = "ok"
    MISSING = "missing"
    """No credential was sent."""
    MALFORMED = "malformed"
    """What was sent is not a credential by its grammar."""
    FORGED = "forged"
    """Its tag is not ours: mistyped, made up, or made under a root secret that is gone."""
    UNKNOWN = "unknown"
    """Its tag is ours and no such key is known."""
    WRONG_SECRET = "wrong_secret"  # noqa: S105 - the name of a verdict
    """The key is known and this is not its secret."""
    REVOKED = "revoked"
    """It was revoked, or replaced by a rotation whose grace period is over."""
    EXPIRED = "expired"
    DISABLED = "disabled"
    SUSPENDED = "suspended"
    """Its account is suspended."""
    WRONG_ENVIRONMENT = "wrong_environment"
    FORBIDDEN_NETWORK = "forbidden_network"
    """The client is outside the key's networks, or is not known while the key has networks."""
    INSUFFICIENT_SCOPE = "insufficient_scope"
    PLAN_LACKS_FEATURE = "plan_lacks_feature"

    @property
    def is_permission_refusal(self) -> bool:
        """The credential is good, and its bearer may not do this, or not from here."""
        return self in _PERMISSION_REFUSALS

    @property
    def is_credential_refusal(self) -> bool:
        """The credential is not accepted; whoever sent it learns nothing of the reason."""
        return self is not Verdict.OK and self not in _PERMISSION_REFUSALS


_PERMISSION_REFUSALS = frozenset({Verdict.FORBIDDEN_NETWORK, Verdict.INSUFFICIENT_SCOPE, Verdict.PLAN_LACKS_FEATURE})


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What authentication knows of one key, as of one ledger position; no secret in it."""

    key_id: KeyId
    account_id: AccountId
    environment: Environment
    name: str
    scopes: Scopes | None
    """None: full access to the account."""
    networks: Networks | None
    """None: from anywhere."""
    disabled: bool
    revoked_at: datetime | None
    expires_at: datetime | None
    """The first instant at which it is refused; None: never."""
    retires_at: datetime | None
    """The end of its rotation's grace period, from which it is refused like a revoked key; None: not replaced."""
    account_suspended: bool
    plan: Plan
    position: int
    """The ledger position that these facts were read at."""
    replaced_by: KeyId | None
    replaced_at: datetime | None = None
    """Since when it is; None: it is not."""


class Attempt(NamedTuple):
    """What somebody tries to do with a key."""

    client: Address | None
    """None: not known."""
    scope: Scope | None
    """What the route needs; None: any key will do."""
    feature: Feature | None
    """The part of the product that the route belongs to; None: every plan has it."""
    environments: frozenset[Environment]
    """Those that this server accepts."""
    environment: Environment | None
    """The one that the caller of a verification demands; None: any."""


NEVER = datetime.min.replace(tzinfo=UTC)
ALWAYS = datetime.max.replace(tzinfo=UTC)


def judge(facts: KeyFacts, attempt: Attempt, now: datetime) -> Verdict:
    """The verdict on a key whose grammar, tag, existence and proof were found good."""
    return _ended(facts, now) or _misplaced(facts, attempt) or permission(facts, attempt.scope, attempt.feature)


def open_until(facts: KeyFacts, environments: frozenset[Environment]) -> datetime:
    """The instant before which `judge` comes to ``permission`` at once, whoever asks and from wherever.

    So it can be worked out once for a key that is remembered. ``NEVER``: the client, or the time, has to be asked.
    """
    if facts.networks is not None or _misplaced(facts, Attempt(None, None, None, environments, None)):
        return NEVER
    if _ended(facts, NEVER):
        return NEVER
    return min(facts.expires_at or ALWAYS, facts.retires_at or ALWAYS)


def permission(facts: KeyFacts, scope: Scope | None, feature: Feature | None) -> Verdict:
    """The last of the checks: whether the bearer of a key that is good may do this."""
    if facts.scopes is not None and scope is not None and not facts.scopes.allows(scope):
        return Verdict.INSUFFICIENT_SCOPE
    if feature is not None and not facts.plan.includes(feature):
        return Verdict.PLAN_LACKS_FEATURE
    return Verdict.OK


def _ended(facts: KeyFacts, now: datetime) -> Verdict | None:
    # A revocation holds whatever its time says: the clock that wrote it may be ahead of the one that reads it.
    if facts.revoked_at is not None or (facts.retires_at is not None and facts.retires_at <= now):
        return Verdict.REVOKED
    if facts.expires_at is not None and facts.expires_at <= now:
        return Verdict.EXPIRED
    if facts.disabled:
        return Verdict.DISABLED
    if facts.account_suspended:
        return Verdict.SUSPENDED
    return None


def _misplaced(facts: KeyFacts, attempt: Attempt) -> Verdict | None:
    demanded = attempt.environment
    if facts.environment not in attempt.environments or (demanded is not None and facts.environment is not demanded):
        return Verdict.WRONG_ENVIRONMENT
    networks = facts.networks
    if networks is not None and (attempt.client is None or not networks.contains(attempt.client)):
        return Verdict.FORBIDDEN_NETWORK
    return None

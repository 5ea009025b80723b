"""``/api/keys``: create, list, change, rotate, revoke, and a key's history."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Self

import msgspec
from litestar import Response, Router, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType

from application.authentication import Need
from application.keys import GRACE_DEFAULT, GRACE_MAX, IssuedKey, KeyChange, KeyManagement, ManagedKey, NewKey
from application.ports import Freshness
from domain.access import Feature, Networks, Scope, Scopes
from domain.api_key import GraceStart, KeyStatus, RevocationReason
from domain.credential import Environment
from domain.errors import ForbiddenError, NotFoundError
from domain.ids import KeyId, MalformedIdError
from domain.naming import Name
from domain.verdict import KeyFacts
from interfaces.http.caller import By, Caller, parsed
from interfaces.http.paging import LIMIT_DEFAULT, Cursor, GivenCursors, Limit, Page, Pager
from interfaces.http.schema import ERRORS

Management = NamedDependency[KeyManagement]
NO_STORE = {"Cache-Control": "no-store"}
NOTE_CHARACTERS_MAX = 500
READ = {"need": Need(scope=Scope.parse("keys:read"))}
WRITE = {"need": Need(scope=Scope.parse("keys:write"))}
Expiry = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset, in the future.")]
Scoped = Annotated[list[str], Meta(examples=[["campaigns:read"]], description="null is full access.")]
Addresses = Annotated[
    list[str], Meta(examples=[["203.0.113.0/24"]], description="CIDRs or addresses; null is anywhere.")
]


class CreateKey(msgspec.Struct, forbid_unknown_fields=True):
    """A new key."""

    name: Annotated[str, Meta(examples=["Production API"])]
    environment: Environment
    scopes: Scoped | None = None
    allowed_ips: Addresses | None = None
    expires_at: Expiry | None = None


class ChangeKey(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; an absent field stays."""

    name: str | UnsetType = UNSET
    scopes: Scoped | UnsetType | None = UNSET
    allowed_ips: Addresses | UnsetType | None = UNSET


class RotateKey(msgspec.Struct, forbid_unknown_fields=True):
    """How long the old key stays accepted, and from when."""

    grace_seconds: Annotated[int, Meta(ge=0, le=int(GRACE_MAX.total_seconds()))] = int(GRACE_DEFAULT.total_seconds())
    grace_starts: GraceStart = GraceStart.NOW


class RevokeKey(msgspec.Struct, forbid_unknown_fields=True):
    """Why, for the history."""

    reason: RevocationReason = RevocationReason.OTHER
    note: Annotated[str, Meta(max_length=NOTE_CHARACTERS_MAX)] | None = None


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
    revoked_at: datetime | None
    lineage_id: str
    replaces: str | None
    replaced_by: str | None
    retires_at: datetime | None

    @classmethod
    def of(cls, managed: ManagedKey, /, **more: Any) -> Self:
        """The body of a managed key; a key that its rotation retired counts as revoked at that instant."""
        view = managed.view
        revoked_at = view.revoked_at
        if revoked_at is None and managed.status is KeyStatus.REVOKED:
            revoked_at = view.retires_at
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
            revoked_at=revoked_at,
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


@post("/", status_code=201, opt=WRITE, responses=ERRORS, sync_to_thread=True, summary="Create API key")
def create_key(
    data: JSONBody[CreateKey],
    caller: Caller,
    origin: By,
    key_management: Management,
) -> Response[IssuedKeyBody]:
    """Creates a key. The answer is the only one that ever holds `key`."""
    new = NewKey(
        name=parsed("name", Name.parse, data.name),
        environment=data.environment,
        scopes=_scopes(data.scopes),
        networks=_networks(data.allowed_ips, caller),
        expires_at=data.expires_at,
    )
    return _issued(key_management.create(account_id=caller.account_id, new=new, by=origin))


@get("/", opt=READ, responses=ERRORS, sync_to_thread=True, summary="List API keys")
def list_keys(  # noqa: PLR0913, PLR0917 - a listing's filters arrive as arguments
    caller: Caller,
    key_management: Management,
    cursors: GivenCursors,
    environment: FromQuery[Environment | None] = None,
    key_status: Annotated[KeyStatus | None, QueryParameter(name="status")] = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[KeyBody]:
    """The account's keys, newest first, without their secrets."""
    pager = Pager(cursors, listing=f"keys {caller.account_id} {environment} {key_status}")
    keys = key_management.page(
        account_id=caller.account_id,
        environment=environment,
        status=key_status,
        before=pager.position(cursor),
        limit=limit + 1,
    )
    positions = [key.view.created_position for key in keys]
    return Page([KeyBody.of(key) for key in keys[:limit]], pager.cursor(positions, limit=limit))


@get("/{key_id:str}", opt=READ, responses=ERRORS, sync_to_thread=True, summary="Get an API key")
def get_key(key_id: FromPath[str], caller: Caller, key_management: Management) -> KeyBody:
    """One key, without its secret."""
    return KeyBody.of(key_management.get(account_id=caller.account_id, key_id=_key_id(key_id)))


@patch("/{key_id:str}", opt=WRITE, responses=ERRORS, sync_to_thread=True, summary="Change an API key")
def change_key(
    key_id: FromPath[str],
    data: JSONBody[ChangeKey],
    caller: Caller,
    origin: By,
    key_management: Management,
) -> KeyBody:
    """Renames a key, or changes its scopes or networks; holds everywhere when answered."""
    change = KeyChange(
        name=... if data.name is UNSET else parsed("name", Name.parse, data.name),
        scopes=... if data.scopes is UNSET else _scopes(data.scopes),
        networks=... if data.allowed_ips is UNSET else _networks(data.allowed_ips, caller),
    )
    key = key_management.change(account_id=caller.account_id, key_id=_key_id(key_id), change=change, by=origin)
    return KeyBody.of(key)


@post(
    "/{key_id:str}/rotate",
    status_code=201,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Rotate an API key",
)
def rotate_key(
    key_id: FromPath[str],
    caller: Caller,
    origin: By,
    key_management: Management,
    data: JSONBody[RotateKey | None] = None,
) -> Response[IssuedKeyBody]:
    """Makes the key's successor; the key itself stays accepted for the grace period."""
    asked = data or RotateKey()
    issued = key_management.rotate(
        account_id=caller.account_id,
        key_id=_key_id(key_id),
        grace=timedelta(seconds=asked.grace_seconds),
        grace_starts=asked.grace_starts,
        by=origin,
    )
    return _issued(issued)


@post(
    "/{key_id:str}/revoke",
    status_code=200,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Revoke an API key",
)
def revoke_key(
    key_id: FromPath[str],
    caller: Caller,
    origin: By,
    key_management: Management,
    data: JSONBody[RevokeKey | None] = None,
) -> RevokedKeyBody:
    """Ends the key. When this answers, no process accepts it any more."""
    asked = data or RevokeKey()
    key, freshness = key_management.revoke(
        account_id=caller.account_id, key_id=_key_id(key_id), reason=asked.reason, note=asked.note, by=origin
    )
    return RevokedKeyBody.of(key, receipt=ReceiptBody.of(freshness))


@post(
    "/{key_id:str}/disable",
    status_code=200,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Disable an API key",
)
def disable_key(
    key_id: FromPath[str],
    caller: Caller,
    origin: By,
    key_management: Management,
) -> KeyBody:
    """Stops the key, reversibly; refused like a revoked key while disabled."""
    return KeyBody.of(key_management.disable(account_id=caller.account_id, key_id=_key_id(key_id), by=origin))


@post(
    "/{key_id:str}/enable",
    status_code=200,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Enable an API key",
)
def enable_key(
    key_id: FromPath[str],
    caller: Caller,
    origin: By,
    key_management: Management,
) -> KeyBody:
    """Lets a disabled key run again."""
    return KeyBody.of(key_management.enable(account_id=caller.account_id, key_id=_key_id(key_id), by=origin))


@get("/{key_id:str}/events", opt=READ, responses=ERRORS, sync_to_thread=True, summary="A key's history")
def list_key_events(  # noqa: PLR0913, PLR0917 - as list_keys
    key_id: FromPath[str],
    caller: Caller,
    key_management: Management,
    cursors: GivenCursors,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[EventBody]:
    """The key's history from the event log, oldest first, with its settled uses as `key.used`."""
    pager = Pager(cursors, listing=f"events {caller.account_id} {key_id}")
    entries = key_management.events(
        account_id=caller.account_id,
        key_id=_key_id(key_id),
        after=pager.position(cursor) or 0,
        limit=limit + 1,
    )
    bodies = [
        EventBody(entry.position, entry.version, entry.type, entry.occurred_at, entry.actor, entry.data)
        for entry in entries[:limit]
    ]
    return Page(bodies, pager.cursor([entry.position for entry in entries], limit=limit))


def keys_router() -> Router:
    """The routes of this module."""
    handlers = [
        create_key, list_keys, get_key, change_key, rotate_key, revoke_key, disable_key, enable_key, list_key_events,
    ]  # fmt: skip
    return Router("/api/keys", route_handlers=handlers, tags=["Keys"])


def _key_id(text: str) -> KeyId:
    try:
        return KeyId.parse(text)
    except MalformedIdError as error:
        raise NotFoundError("No such API key") from error


def _scopes(texts: list[str] | None) -> Scopes | None:
    return None if texts is None else parsed("scopes", Scopes.parse, texts)


def _networks(texts: list[str] | None, caller: KeyFacts) -> Networks | None:
    if texts is None:
        return None
    if not caller.plan.includes(Feature.NETWORKS):
        raise ForbiddenError
    return parsed("allowed_ips", Networks.parse, texts)


def _issued(issued: IssuedKey) -> Response[IssuedKeyBody]:
    return Response(IssuedKeyBody.of(issued.key, key=issued.secret.reveal()), status_code=201, headers=NO_STORE)

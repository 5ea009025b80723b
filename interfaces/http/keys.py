"""``/api/keys``: create, list, change, rotate, revoke, and a key's history."""

from datetime import timedelta
from typing import Annotated

from litestar import Response, Router, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET

from application.authentication import Need
from application.keys import IssuedKey, KeyChange, KeyManagement, NewKey
from domain.access import Feature, Networks, Scope, Scopes
from domain.credential import Environment
from domain.errors import ForbiddenError, NotFoundError
from domain.ids import KeyId, MalformedIdError
from domain.key_status import KeyStatus
from domain.naming import Name
from domain.verdict import KeyFacts
from interfaces.http.caller import By, Caller, parsed
from interfaces.http.key_bodies import (
    ChangeKey,
    CreateKey,
    EventBody,
    EventPage,
    ExtendGrace,
    IssuedKeyBody,
    KeyBody,
    KeyPage,
    ReceiptBody,
    RevokedKeyBody,
    RevokeKey,
    RotateKey,
    note_of,
)
from interfaces.http.paging import LIMIT_DEFAULT, Cursor, GivenCursors, Limit, Pager
from interfaces.http.schema import ERRORS, OptionalBody

Management = NamedDependency[KeyManagement]
NO_STORE = {"Cache-Control": "no-store"}
READ = {"need": Need(scope=Scope.parse("keys:read"))}
WRITE = {"need": Need(scope=Scope.parse("keys:write"))}


@post(
    "/",
    status_code=201,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    summary="Create API key",
    response_description="The new key, with its secret",
)
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
        rotation_due_days=data.rotation_due_days,
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
) -> KeyPage:
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
    return KeyPage([KeyBody.of(key) for key in keys[:limit]], pager.cursor(positions, limit=limit))


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
    """Renames a key, or changes its scopes, networks or age at rotation; holds everywhere when answered."""
    change = KeyChange(
        name=... if data.name is UNSET else parsed("name", Name.parse, data.name),
        scopes=... if data.scopes is UNSET else _scopes(data.scopes),
        networks=... if data.allowed_ips is UNSET else _networks(data.allowed_ips, caller),
        rotation_due_days=... if data.rotation_due_days is UNSET else data.rotation_due_days,
    )
    key = key_management.change(account_id=caller.account_id, key_id=_key_id(key_id), change=change, by=origin)
    return KeyBody.of(key)


@post(
    "/{key_id:str}/rotate",
    status_code=201,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    operation_class=OptionalBody,
    summary="Rotate an API key",
    response_description="The successor, with its secret",
)
def rotate_key(
    key_id: FromPath[str],
    caller: Caller,
    origin: By,
    key_management: Management,
    data: JSONBody[RotateKey | None] = None,
) -> Response[IssuedKeyBody]:
    """Makes the key's successor; the key itself stays accepted for the grace period.

    The successor of a key that expires is given the same length of life anew; that of one that does not expires never.
    Rotating again before the successor was used, or once it has ended, makes another; while it is in use that is a 409.

    With `compromised` it ends at once: when this answers, no process accepts it.
    """
    asked = data or RotateKey()
    issued = key_management.rotate(
        account_id=caller.account_id,
        key_id=_key_id(key_id),
        grace=timedelta(seconds=asked.grace_seconds),
        grace_starts=asked.grace_starts,
        compromised=asked.compromised,
        by=origin,
    )
    return _issued(issued)


@post(
    "/{key_id:str}/rotate/extend",
    status_code=200,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    operation_class=OptionalBody,
    summary="Extend a key's grace period",
)
def extend_grace(
    key_id: FromPath[str],
    caller: Caller,
    origin: By,
    key_management: Management,
    data: JSONBody[ExtendGrace | None] = None,
) -> KeyBody:
    """Puts off the retirement of a key that is being replaced; a conflict when it would come no later."""
    asked = data or ExtendGrace()
    key = key_management.extend_grace(
        account_id=caller.account_id,
        key_id=_key_id(key_id),
        grace=timedelta(seconds=asked.grace_seconds),
        by=origin,
    )
    return KeyBody.of(key)


@post(
    "/{key_id:str}/revoke",
    status_code=200,
    opt=WRITE,
    responses=ERRORS,
    sync_to_thread=True,
    operation_class=OptionalBody,
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
        account_id=caller.account_id, key_id=_key_id(key_id), reason=asked.reason, note=note_of(asked), by=origin
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
) -> EventPage:
    """The key's history from the event log, oldest first, with its settled uses as `key.used`."""
    pager = Pager(cursors, listing=f"events {caller.account_id} {key_id}")
    entries = key_management.events(
        account_id=caller.account_id,
        key_id=_key_id(key_id),
        after=pager.position(cursor) or 0,
        limit=limit + 1,
    )
    bodies = [EventBody.of(entry) for entry in entries[:limit]]
    return EventPage(bodies, pager.cursor([entry.position for entry in entries], limit=limit))


def keys_router() -> Router:
    """The routes of this module."""
    handlers = [
        create_key, list_keys, get_key, change_key, rotate_key, extend_grace, revoke_key, disable_key, enable_key,
        list_key_events,
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

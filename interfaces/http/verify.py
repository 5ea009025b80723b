"""``POST /api/verify``: another service of the account asks whether a key that it was shown is good."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, SkipValidation
from msgspec import Meta

from application.authentication import Authentication, Need
from domain.access import Address, Scope, Scopes, parse_address
from domain.credential import Environment
from domain.errors import RateLimitedError
from domain.verdict import Verdict
from interfaces.http.caller import Caller, parsed
from interfaces.http.gate import Gatekeeper
from interfaces.http.request import path_of, record_of
from interfaces.http.schema import ERRORS

VERIFY = {"need": Need(scope=Scope.parse("keys:verify"))}
OWN_PATH = "/api/verify"
_CODES = {
    Verdict.OK: "VALID",
    Verdict.REVOKED: "REVOKED",
    Verdict.DISABLED: "REVOKED",
    Verdict.SUSPENDED: "REVOKED",
    Verdict.EXPIRED: "EXPIRED",
    Verdict.WRONG_ENVIRONMENT: "WRONG_ENVIRONMENT",
    Verdict.INSUFFICIENT_SCOPE: "INSUFFICIENT_SCOPE",
    Verdict.FORBIDDEN_NETWORK: "FORBIDDEN_IP",
}


class VerifyKey(msgspec.Struct, forbid_unknown_fields=True):
    """The key as it was sent, and what its bearer wants to do, from where."""

    key: str
    environment: Environment | None = None
    scopes: Annotated[list[str], Meta(max_length=32)] | None = None
    ip: str | None = None
    method: Annotated[str, Meta(max_length=16)] | None = None
    path: Annotated[str, Meta(max_length=2048)] | None = None


class VerifiedBody(msgspec.Struct):
    """`valid`, a stable `code`, and for a valid key who it belongs to and what it may do."""

    valid: bool
    code: str
    key_id: str | msgspec.UnsetType = msgspec.UNSET
    account_id: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    environment: Environment | msgspec.UnsetType = msgspec.UNSET
    scopes: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    expires_at: datetime | msgspec.UnsetType | None = msgspec.UNSET


@post(OWN_PATH, status_code=200, opt=VERIFY, responses=ERRORS, summary="Verify a key")
async def verify_key(
    data: JSONBody[VerifyKey],
    request: Request[Any, Any, Any],
    caller: Caller,
    gatekeeper: NamedDependency[SkipValidation[Gatekeeper]],
) -> VerifiedBody:
    """Whether the key is good, now. Counts as a use, or as a failed attempt, of the checked key."""
    client = None if data.ip is None else parsed("ip", _address, data.ip)
    scopes = [] if not data.scopes else parsed("scopes", Scopes.parse, data.scopes).to_list()
    raw = data.key.encode("utf-8", "surrogateescape")
    checked = Authentication(Verdict.MALFORMED)
    for scope in [Scope(text) for text in scopes] or [None]:
        need = Need(scope=scope)
        checked = await gatekeeper.authenticate(raw, need=need, client=client, environment=data.environment)
        if checked.verdict is not Verdict.OK:
            break
    # Another account's key is not told from one that never was, and nothing is counted on it.
    nobodys = Authentication(Verdict.UNKNOWN, key_hash=checked.key_hash)
    if checked.account_id not in {None, caller.account_id}:
        checked = nobodys
    status = HTTPStatus.OK
    if checked.verdict is not Verdict.OK:
        refusal = await gatekeeper.refuse(checked, need=Need(), client=client, told_by=caller.account_id)
        if isinstance(refusal, RateLimitedError):
            return VerifiedBody(valid=False, code="RATE_LIMITED")
        # What was made up may bear the id of any key, and method, path and client are the caller's words.
        unproven = checked.key_id if checked.facts is None else None
        if unproven is not None and await gatekeeper.owner_of(unproven) != caller.account_id:
            checked = nobodys
        status = HTTPStatus.UNAUTHORIZED if checked.verdict.is_credential_refusal else HTTPStatus.FORBIDDEN
    record = record_of(request.scope)
    record.beside = gatekeeper.log(
        checked,
        method=data.method or "POST",
        endpoint=path_of((data.path or "").encode()) or OWN_PATH,
        status=status,
        client_ip=gatekeeper.address_text(client),
        request_id=record.request_id,
    )
    return _body(checked)


def verify_router() -> Router:
    """The route of this module."""
    return Router("/", route_handlers=[verify_key], tags=["Checking keys"])


def _address(text: str) -> Address:
    address = parse_address(text)
    if address is None:
        raise ValueError("must be an IP address")
    return address


def _body(checked: Authentication) -> VerifiedBody:
    facts = checked.facts
    code = _CODES.get(checked.verdict, "NOT_FOUND")
    if facts is None or checked.verdict is not Verdict.OK:
        return VerifiedBody(valid=False, code=code)
    return VerifiedBody(
        valid=True,
        code=code,
        key_id=facts.key_id,
        account_id=facts.account_id,
        name=facts.name,
        environment=facts.environment,
        scopes=None if facts.scopes is None else facts.scopes.to_list(),
        expires_at=facts.expires_at,
    )

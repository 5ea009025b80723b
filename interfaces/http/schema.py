"""What `/schema` says beyond the routes: the errors, one description for all."""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Router
from litestar.connection import ASGIConnection
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Components, Example, Operation, RequestBody, SecurityScheme

DESCRIPTION = """API keys as an event log. Send your key as `Authorization: Bearer sk_live_…`.

Every error of every route has the same body, `{"error": {"code", "message"}}`, with `details` for validation errors.
The answers to an unknown, malformed, revoked or expired key are the same bytes. Times are RFC 3339 in UTC.
"""


class ErrorDetail(msgspec.Struct):
    """One field that did not pass."""

    field: str
    message: str


class ErrorWords(msgspec.Struct):
    """A stable code, and words for people."""

    code: str
    message: str
    details: list[ErrorDetail] | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct):
    """The body of every error."""

    error: ErrorWords


def _spec(words: str, code: str, message: str, **more: Any) -> ResponseSpec:
    example = Example(value={"error": {"code": code, "message": message, **more}})
    return ResponseSpec(ErrorBody, description=words, examples=[example], generate_examples=False)


_FAULT = {"field": "name", "message": "must not be empty"}
ERRORS = {
    400: _spec("Unreadable JSON, or a cursor of another list", "BAD_REQUEST", "The request body is not readable JSON"),
    401: _spec("No key, or one that is not accepted, whatever the reason", "UNAUTHORIZED", "Invalid API key"),
    403: _spec("Scope, network, plan, or another account's", "FORBIDDEN", "Insufficient permissions for this resource"),
    404: _spec("No such thing in this account", "NOT_FOUND", "No such API key"),
    409: _spec("The object's state does not allow it", "CONFLICT", "A key that is revoked cannot be rotated"),
    413: _spec("The body is over the limit", "PAYLOAD_TOO_LARGE", "The request body is too large"),
    422: _spec("`details` names each field", "VALIDATION_FAILED", "The request is not valid", details=[_FAULT]),
    429: _spec("Too many failed attempts; see `Retry-After`", "RATE_LIMITED", "Too many failed attempts"),
    500: _spec("A fault of ours; tell us its `X-Request-Id`", "INTERNAL_ERROR", "Internal server error"),
    503: _spec(
        "It cannot be proved that a key is still valid; see `Retry-After`",
        "UNAVAILABLE",
        "Cannot prove that the key is still valid",
    ),
}
"""The errors that any protected route may answer with."""

SECURITY = Components(
    security_schemes={"apiKey": SecurityScheme(type="http", scheme="bearer", description="An API key, `sk_live_…`.")}
)
"""The scheme that the protected routes name."""


@dataclass
class OptionalBody(Operation):
    """An operation whose body may be left out; Litestar says of every body that it is required."""

    def __post_init__(self) -> None:
        if isinstance(self.request_body, RequestBody):
            self.request_body.required = False


def schema_router() -> Router:
    """Where the document is; below it, nothing."""
    return Router("/schema", route_handlers=[], include_in_schema=False, guards=[_refuse_unknown_path])


def _refuse_unknown_path(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    # Litestar has a handler of its own for what it does not know below the document's path, and answers it in HTML.
    if connection.path_params:
        raise NotFoundException

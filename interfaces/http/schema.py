"""What `/schema` says beyond the routes: the errors, one description for all."""

from typing import Any

import msgspec
from litestar import Router
from litestar.connection import ASGIConnection
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec

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


_WORDS = {
    400: "`BAD_REQUEST`: unreadable JSON, or a cursor of another list",
    401: "`UNAUTHORIZED`, `Invalid API key`: no key, or one that is not accepted, whatever the reason",
    403: "`FORBIDDEN`, `Insufficient permissions for this resource`: scope, network, plan, or another account's",
    404: "`NOT_FOUND`: no such thing in this account",
    409: "`CONFLICT`: the object's state does not allow it",
    422: "`VALIDATION_FAILED`: `details` names each field",
    429: "`RATE_LIMITED`: too many failed attempts; see `Retry-After`",
    503: "`UNAVAILABLE`: the service cannot prove that a key is still valid",
}
ERRORS = {status: ResponseSpec(ErrorBody, description=words) for status, words in _WORDS.items()}
"""The errors that any protected route may answer with."""


def schema_router() -> Router:
    """Where the document is; below it, nothing."""
    return Router("/schema", route_handlers=[], include_in_schema=False, guards=[_refuse_unknown_path])


def _refuse_unknown_path(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    # Litestar has a handler of its own for what it does not know below the document's path, and answers it in HTML.
    if connection.path_params:
        raise NotFoundException

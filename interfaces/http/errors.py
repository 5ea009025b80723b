"""The one table from kinds of errors to status, code and words, and the bytes that they become on the wire.

Litestar is built as `Litestar(…, exception_handlers=EXCEPTION_HANDLERS, request_class=JsonRequest, logging_config=None,
debug=False, pdb_on_exception=False)`. The last three have to be said: left out, Litestar replaces the process's
logging configuration, and reads `LITESTAR_DEBUG` and `LITESTAR_PDB` from the environment, where a debug page shows the
locals of every frame.

Code outside Litestar uses `render`; what it gives is itself an ASGI application.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from litestar.params import ParameterKwarg
from structlog.typing import FilteringBoundLogger

from domain.credential import without_secrets
from domain.errors import (
    ConflictError,
    FieldProblem,
    ForbiddenError,
    InvalidError,
    KeyledgerError,
    MalformedError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
)

DETAILS_MAX: Final = 50
WORDS_CHARACTERS_MAX: Final = 200
SHARED_MAX: Final = 256

KINDS: Final[Mapping[type[KeyledgerError], tuple[HTTPStatus, str]]] = {
    MalformedError: (HTTPStatus.BAD_REQUEST, "BAD_REQUEST"),
    UnauthenticatedError: (HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED"),
    ForbiddenError: (HTTPStatus.FORBIDDEN, "FORBIDDEN"),
    NotFoundError: (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    ConflictError: (HTTPStatus.CONFLICT, "CONFLICT"),
    InvalidError: (HTTPStatus.UNPROCESSABLE_ENTITY, "VALIDATION_FAILED"),
    RateLimitedError: (HTTPStatus.TOO_MANY_REQUESTS, "RATE_LIMITED"),
    UnavailableError: (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
}
"""What an error of the domain becomes; its words are the error's own message."""

EDGE: Final[Mapping[HTTPStatus, tuple[str, str]]] = {
    HTTPStatus.BAD_REQUEST: ("BAD_REQUEST", "The request cannot be read"),
    HTTPStatus.FORBIDDEN: ("FORBIDDEN", "Insufficient permissions for this resource"),
    HTTPStatus.NOT_FOUND: ("NOT_FOUND", "No such path"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("METHOD_NOT_ALLOWED", "This path does not take that method"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("PAYLOAD_TOO_LARGE", "The request body is too large"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("INTERNAL_ERROR", "Internal server error"),
}
"""What the framework refuses by itself. Its own words may hold the path and query, so they are never passed on."""

_CHALLENGE: Final = b'Bearer realm="keyledger"'
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # scope-token, RFC 6749 section 3.3
_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$\.?(.*)`\Z", re.DOTALL)
_NAMED: Final = re.compile(r"Object (missing required|contains unknown) field `(.*)`\Z", re.DOTALL)
_NO_BODY: Final = "Object missing required field `data`"
_INVALID_KEY: Final = UnauthenticatedError().message
_log: Final[FilteringBoundLogger] = structlog.get_logger()


class _Detail(msgspec.Struct):
    field: str
    message: str


class _Error(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    details: list[_Detail] | None = None


class _Body(msgspec.Struct):
    error: _Error


@dataclass(frozen=True, slots=True)
class RenderedError:
    """A whole answer: status, headers as ASGI wants them (lower-case names), and the JSON body.

    It answers a request when called as an ASGI application.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the answer; to HEAD without its body. Nothing is read."""
        del receive
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else self.body})


def _rendered(
    status: HTTPStatus,
    code: str,
    message: str,
    *,
    details: Iterable[FieldProblem] | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> RenderedError:
    listed = None
    if details is not None:
        listed = [_Detail(_shown(problem.field), _shown(problem.message)) for problem in list(details)[:DETAILS_MAX]]
    body = msgspec.json.encode(_Body(_Error(code, _shown(message), listed)))
    own = ((b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()))
    return RenderedError(int(status), own + headers, body)


def _shown(words: str) -> str:
    # Words may repeat what the client sent: secrets go, the rest is cut, and a lone surrogate would not encode.
    return without_secrets(words)[:WORDS_CHARACTERS_MAX].encode("utf-8", "backslashreplace").decode()


def _headers(error: KeyledgerError, *, token_sent: bool) -> tuple[tuple[bytes, bytes], ...]:
    match error:
        case UnauthenticatedError():
            return ((b"www-authenticate", _CHALLENGE + (b', error="invalid_token"' if token_sent else b"")),)
        case ForbiddenError(scope=str(scope)) if _SCOPE.fullmatch(scope):
            missing = b', error="insufficient_scope", scope="%s"' % scope.encode()
            return ((b"www-authenticate", _CHALLENGE + missing),)
        case RateLimitedError() | UnavailableError():
            seconds = max(1, math.ceil(error.retry_after.total_seconds()))
            return ((b"retry-after", str(seconds).encode()),)
        case _:
            return ()


def _answer(error: KeyledgerError, *, token_sent: bool) -> RenderedError:
    kind = next((kind for kind in type(error).__mro__ if kind in KINDS), None)
    if kind is None:
        return INTERNAL_ERROR
    status, code = KINDS[kind]
    headers = _headers(error, token_sent=token_sent)
    if isinstance(error, InvalidError):
        return _rendered(status, code, error.message, details=error.problems, headers=headers)
    return _shared(status, code, error.message, headers)


@lru_cache(maxsize=SHARED_MAX)
def _shared(status: HTTPStatus, code: str, message: str, headers: tuple[tuple[bytes, bytes], ...]) -> RenderedError:
    # A flood is answered with the same few bytes again and again: they are made once.
    return _rendered(status, code, message, headers=headers)


def _edge(status: HTTPStatus) -> RenderedError:
    return _rendered(status, *EDGE[status])


UNAUTHORIZED: Final = _answer(UnauthenticatedError(), token_sent=False)
"""The 401 of a request without a credential."""

UNAUTHORIZED_TOKEN: Final = _answer(UnauthenticatedError(), token_sent=True)
"""The 401 of a refused credential: one object, whatever the reason."""

INTERNAL_ERROR: Final = _edge(HTTPStatus.INTERNAL_SERVER_ERROR)
"""The opaque 500."""


def render(error: KeyledgerError, *, token_sent: bool) -> RenderedError:
    """Turn an error into its answer; `token_sent` says whether the request had an `Authorization` header at all.

    401 carries the challenge of RFC 6750 section 3, a missing scope's 403 names the scope, 429 and 503 carry
    `Retry-After` in whole seconds, at least 1. A kind that the table does not know is the opaque 500.
    """
    if isinstance(error, UnauthenticatedError) and error.message == _INVALID_KEY:
        return UNAUTHORIZED_TOKEN if token_sent else UNAUTHORIZED
    return _answer(error, token_sent=token_sent)


def problem_of(error: msgspec.ValidationError) -> FieldProblem:
    """Name the field of the client's JSON that msgspec refused: `name`, `scopes[0]`, `inner.name`, "" for the whole."""
    return _problem(str(error))


def _problem(words: str) -> FieldProblem:
    # msgspec tells the place in its text alone; the tests of this module hold the forms that are read here.
    place = _PLACE.search(words)
    field = place.group(1) if place else ""
    what = words[: place.start()] if place else words
    named = _NAMED.match(what)
    if named is None:
        return FieldProblem(field, what)
    name = f"{field}.{named.group(2)}" if field else named.group(2)
    return FieldProblem(name, "Missing required field" if named.group(1) == "missing required" else "Unknown field")


def _refused(request: Request[Any, Any, Any], error: ValidationException) -> KeyledgerError:
    # Litestar gives a missing query or header parameter as the KeyError of its name, everything else as `extra`: one
    # entry for each argument of the handler, under the argument's name in Python. An absent body is listed even where
    # it is optional, as the KeyError of `data`; only the cause tells whether it was needed.
    if isinstance(error.__cause__, KeyError):
        return InvalidError.of(str(error.__cause__.args[0]), "Missing required parameter")
    if str(error.__cause__) == _NO_BODY:
        return MalformedError("The request needs a JSON body")
    entries = cast("list[dict[str, str]]", error.extra if isinstance(error.extra, list) else [])
    listed = [(entry.get("key", ""), entry.get("message", "")) for entry in entries]
    problems = [_argument_problem(request, *entry) for entry in listed if entry != ("data", str(KeyError("data")))]
    return InvalidError(problems) if problems else MalformedError(EDGE[HTTPStatus.BAD_REQUEST][1])


def _argument_problem(request: Request[Any, Any, Any], key: str, words: str) -> FieldProblem:
    problem = _problem(words)
    if key == "data":
        return problem
    if problem.field:
        return FieldProblem(f"{key}.{problem.field}", problem.message)
    argument = request.route_handler.parsed_fn_signature.parameters.get(key)
    declared = argument.kwarg_definition if argument else None
    name = declared.name if isinstance(declared, ParameterKwarg) else None
    return FieldProblem(name or key, problem.message)


def _response(rendered: RenderedError) -> Response[bytes]:
    headers = {name.decode(): value.decode() for name, value in rendered.headers}
    return Response(rendered.body, status_code=rendered.status, headers=headers, media_type="application/json")


def on_keyledger_error(request: Request[Any, Any, Any], error: KeyledgerError) -> Response[bytes]:
    """Answer an error of ours. The private context goes to the log: as a warning when the service is at fault."""
    log = _log.warning if isinstance(error, UnavailableError) else _log.debug
    log("request_refused", kind=type(error).__name__, reason=error.message, context=dict(error.context))
    return _response(render(error, token_sent="authorization" in request.headers))


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what Litestar refused by itself: path, method, size, form; its own failures are the opaque 500."""
    if isinstance(error, ValidationException):
        return on_keyledger_error(request, _refused(request, error))
    if isinstance(error.__cause__, SerializationException):
        return on_keyledger_error(request, MalformedError("The request body is not readable JSON"))
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return on_unexpected(request, error)
    if error.status_code == HTTPStatus.UNAUTHORIZED:
        return on_keyledger_error(request, UnauthenticatedError())
    known = error.status_code in EDGE
    rendered = _edge(HTTPStatus(error.status_code) if known else HTTPStatus.BAD_REQUEST)
    response = _response(rendered)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and error.headers:
        # RFC 9110 section 15.5.6 wants it; Litestar keeps the methods in a set, whose order changes with the process.
        response.headers["allow"] = ", ".join(sorted(error.headers["allow"].split(", ")))
    return response


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer the unknown with the opaque 500; all that is known of it goes to the log, with its traceback."""
    route = cast("dict[str, Any]", request.scope).get("path_template")
    _log.error("unhandled_error", method=request.method, route=route, exc_info=error)
    return _response(INTERNAL_ERROR)


EXCEPTION_HANDLERS: Final[dict[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[Any]]]] = {
    KeyledgerError: on_keyledger_error,
    HTTPException: on_http_exception,
    Exception: on_unexpected,
}
"""For `Litestar(exception_handlers=…)`; together they catch everything that a handler or the router raises."""

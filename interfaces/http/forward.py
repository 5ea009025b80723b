"""``/auth/forward``: the question of a reverse proxy, whether a request may pass, answered outside the framework.

nginx asks with `auth_request`, Traefik with ForwardAuth, Caddy with `forward_auth`, Envoy with `ext_authz` over HTTP;
ready configurations lie in ``ops/proxies``. Every identity header is set in every answer, also when empty, so that a
proxy never passes on one that the client made up.
"""

from dataclasses import replace
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qs

from litestar.types import HTTPScope, Receive, Scope, Send

from application.authentication import Authentication, Need
from domain.errors import ForbiddenError, KeyledgerError, RateLimitedError, UnavailableError
from domain.verdict import KeyFacts, Verdict
from interfaces.http.errors import RenderedError, render
from interfaces.http.gate import Gatekeeper
from interfaces.http.grace import grace_headers
from interfaces.http.request import (
    RequestRecord,
    TrustedProxies,
    credential_of,
    is_from_trusted_proxy,
    path_of,
    record_of,
)

PATH = "/auth/forward"
ANY_KEY = Need()
METHOD_CHARACTERS_MAX = 16

_BELOW = PATH + "/"
_Headers = tuple[tuple[bytes, bytes], ...]
EMPTY_BODY: Any = {"type": "http.response.body", "body": b""}
_NOBODY: _Headers = (
    (b"x-keyledger-key-id", b""),
    (b"x-keyledger-account-id", b""),
    (b"x-keyledger-environment", b""),
    (b"x-keyledger-scopes", b""),
)
_OWN_WORDS = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_METHOD_HEADERS = (b"x-forwarded-method", b"x-original-method")
_TARGET_HEADERS = (b"x-forwarded-uri", b"x-original-uri", b"x-original-url")


class Forward:
    """An ASGI application for ``/auth/forward`` and everything below it, whatever the method."""

    def __init__(self, keeper: Gatekeeper, *, trusted_proxies: TrustedProxies) -> None:
        self._keeper = keeper
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One question."""
        http_scope = cast("HTTPScope", scope)
        record = record_of(scope)
        raw = credential_of(scope)
        keeper = self._keeper
        try:
            authentication = await keeper.authenticate(raw, need=ANY_KEY, client=record.client)
            record.authentication = authentication
            if authentication.facts is not None and authentication.verdict is Verdict.OK:
                await self._leave_row(http_scope, record, authentication, HTTPStatus.OK)
                start: Any = {
                    "type": "http.response.start",
                    "status": HTTPStatus.OK,
                    "headers": identity_headers(authentication.facts),
                }
                await send(start)
                await send(EMPTY_BODY)
                return
            refusal = await keeper.refuse(authentication, need=ANY_KEY, client=record.counted)
            answer = refused_answer(http_scope, refusal, raw)
            if authentication.facts is not None and isinstance(refusal, ForbiddenError):
                answer = replace(answer, headers=(*answer.headers, *grace_headers(authentication.facts)))
            if isinstance(refusal, RateLimitedError):
                await keeper.brake.hold()
            else:
                await self._leave_row(http_scope, record, authentication, answer.status)
        except UnavailableError as error:
            answer = refused_answer(http_scope, error, raw)
        await answer(scope, receive, send)

    async def _leave_row(
        self, scope: HTTPScope, record: RequestRecord, authentication: Authentication, status: int
    ) -> None:
        method, endpoint = asked_for(scope, self._trusted_proxies)
        committed = self._keeper.log(
            authentication,
            method=method,
            endpoint=endpoint,
            status=status,
            client_ip=record.client_ip,
            request_id=record.request_id,
        )
        if committed is not None:
            await committed


def is_below(path: str) -> bool:
    """Whether it is this door's path, or one below it."""
    return path == PATH or path.startswith(_BELOW)


def refused_answer(scope: HTTPScope, error: KeyledgerError, raw: bytes | None) -> RenderedError:
    """The answer to a question that is refused, in the words of whoever asked."""
    answer = render(error, token_sent=raw is not None)
    headers = answer.headers + _NOBODY
    query = scope["query_string"].decode("latin-1")  # as text: of bytes it refuses what is not ASCII
    if query and answer.status in _OWN_WORDS and "nginx" in parse_qs(query).get("dialect", ()):
        # nginx turns everything but 401 and 403 of a subrequest into a 500, and makes its headers known: by this
        # one its configuration gives the client the true status back.
        told = (b"x-keyledger-status", b"%d" % answer.status)
        return RenderedError(HTTPStatus.FORBIDDEN, (*headers, told), answer.body)
    return RenderedError(answer.status, headers, answer.body)


def asked_for(scope: HTTPScope, trusted: TrustedProxies) -> tuple[str, str]:
    """The method and path that the proxy was asked for; a caller that is no trusted proxy asked for this one."""
    if not trusted or not is_from_trusted_proxy(scope, trusted):
        return scope["method"], scope["path"]
    headers = dict(scope["headers"])
    method = next((headers[name] for name in _METHOD_HEADERS if name in headers), b"").decode("latin-1")
    target = next((headers[name] for name in _TARGET_HEADERS if name in headers), b"")
    # Envoy puts the original path behind ours and keeps the method.
    path = path_of(target) or scope["path"].removeprefix(PATH) or scope["path"]
    return (method or scope["method"])[:METHOD_CHARACTERS_MAX], path


def identity_headers(facts: KeyFacts) -> list[tuple[bytes, bytes]]:
    """What a proxy may tell the service behind it of the bearer, and the bearer of a key that is being replaced.

    The server adds that there is no body, in less time than it takes to be told.
    """
    scopes = b"" if facts.scopes is None else " ".join(facts.scopes.to_list()).encode()
    return [
        (b"x-keyledger-key-id", facts.key_id.encode()),
        (b"x-keyledger-account-id", facts.account_id.encode()),
        (b"x-keyledger-environment", facts.environment.encode()),
        (b"x-keyledger-scopes", scopes),
        *grace_headers(facts),
    ]

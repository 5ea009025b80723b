"""The usual question of a proxy, answered in one go, in front of the application.

Most of the traffic asks ``/auth/forward`` about a key that is remembered and accepted. This answers it without the
layers that the other answers need, and does what they do: the row, the line, the id, the same bytes. Whatever is not
that usual question goes to the application behind it. Every call, look at a clock or new object here costs a percent of
what an answer costs; what they have come to stands in ``ops/adr/0018-hot-path.md``.
"""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast

from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from application.authentication import Authentication
from application.ports import AccessKind, SteadyClock
from application.verified_keys import VerifiedKey
from domain.access import Address, parse_address
from domain.errors import UnavailableError
from domain.verdict import Verdict
from interfaces.http.edge import RequestLine
from interfaces.http.forward import EMPTY_BODY, PATH, asked_for, identity_headers, is_below, refused_answer
from interfaces.http.gate import Gatekeeper
from interfaces.http.request import TrustedProxies, client_of, credential_of

ANSWERS_MAX = 10_000
PEERS_MAX = 4096


class _Answer(NamedTuple):
    """What alike questions are answered with; true while ``known`` is what is remembered of the key."""

    known: VerifiedKey
    row: AccessKind
    line: tuple[Any, ...]
    headers: list[tuple[bytes, bytes]]


class QuickForward:
    """Answers the usual question, and hands every other to ``application``; one for each serving process."""

    def __init__(  # noqa: PLR0913 - what it stands on
        self,
        application: ASGIApp,
        keeper: Gatekeeper,
        *,
        clock: SteadyClock,
        trusted_proxies: TrustedProxies,
        new_request_id: Callable[[], str],
        log_request: RequestLine,
    ) -> None:
        self._application = application
        self._keeper = keeper
        self._accepted = keeper.authenticator.accepted
        self._leave_row = keeper.leave
        self._trusted_proxies = trusted_proxies
        self._new_request_id = new_request_id
        self._log_request = log_request
        self._elapsed = clock.elapsed
        self._at = clock.at
        self._peer = lru_cache(maxsize=PEERS_MAX)(self._read_peer)
        self._answers: dict[tuple[str, str, str, str | None, Any], _Answer] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or whatever else a server asks of an application."""
        if scope["type"] != "http" or not is_below(scope["path"]):
            await self._application(scope, receive, send)
            return
        started = self._elapsed()
        now = self._at(started)
        answer = self._answer(scope, started, now)
        if answer is None:
            await self._application(scope, receive, send)
            return
        request_id = self._new_request_id()
        status, headers = 200, answer.headers
        body: Any = EMPTY_BODY
        try:
            committed = self._leave_row(answer.row, now, request_id)
            if committed is not None:
                await committed
        except UnavailableError as error:  # its row cannot be written
            refused = refused_answer(scope, error, b"")
            status, headers = int(refused.status), list(refused.headers)
            body = {"type": "http.response.body", "body": refused.body}
        start: Any = {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"x-request-id", request_id.encode())],
        }
        await send(start)
        await send(body)
        line = answer.line
        if headers is not answer.headers:
            line = (*line[:3], status, *line[4:])
        self._log_request(line, now, (self._elapsed() - started) * 1000, request_id)

    def _answer(self, scope: HTTPScope, started: float, now: datetime) -> _Answer | None:
        """None for any but the usual question."""
        given = cast("list[tuple[bytes, bytes]]", scope["headers"])
        headers = dict(given)
        sent = headers.get(b"authorization")
        if sent is None:
            return None
        # As nearly everybody sends it; `credential_of` knows the rest, and two lines of one name.
        raw = sent[7:] if sent[:7] == b"Bearer " and len(headers) == len(given) else credential_of(scope) or b""
        client, client_ip = self._client(scope)
        known = self._accepted(raw, client, started, now)
        if known is None:
            return None
        method, path = scope["method"], scope["path"]
        asked = asked_for(scope, self._trusted_proxies) if self._trusted_proxies else None
        question = (known.key_hash, method, path, client_ip, asked)
        answer = self._answers.get(question)
        if answer is None or answer.known is not known:
            facts = known.facts
            accepted = Authentication(Verdict.OK, facts, facts.key_id, known.key_hash)
            asked_method, endpoint = asked or (method, path)
            row = self._keeper.kinds.of(accepted, asked_method, endpoint, 200, client_ip)
            line = (method, path, PATH, 200, str(facts.key_id), str(facts.account_id), "ok", client_ip)
            answer = _Answer(known, row, line, identity_headers(facts))
            if row.endpoint == endpoint:  # otherwise there is a credential in it, and it is not remembered
                if len(self._answers) >= ANSWERS_MAX:
                    self._answers.clear()
                self._answers[question] = answer
        return answer

    def _client(self, scope: HTTPScope) -> tuple[Address | None, str | None]:
        peer = scope["client"]
        if not self._trusted_proxies:
            return self._peer(peer[0]) if peer else (None, None)
        client = client_of(scope, self._trusted_proxies)
        return client, self._keeper.address_text(client)

    def _read_peer(self, text: str) -> tuple[Address | None, str | None]:
        address = parse_address(text)
        return address, self._keeper.address_text(address)

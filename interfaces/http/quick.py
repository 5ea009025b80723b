"""The usual question of a proxy, answered in one go.

Most of the traffic asks ``/auth/forward`` about a key that is remembered and accepted. This answers it without the
layers that the other answers need (6 µs in place of 16), and does what they do: the row, the line, the id, the same
bytes. Whatever is not that usual question it leaves alone, and `Forward` answers it.
"""

from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

from litestar.types import HTTPScope, Send

from application.authentication import Authentication
from application.ports import AccessKind
from application.verified_keys import VerifiedKey
from domain.access import Address, parse_address
from domain.errors import UnavailableError
from domain.verdict import Verdict
from interfaces.http.edge import RequestLine
from interfaces.http.forward import EMPTY_BODY, PATH, asked_for, identity_headers, refused_answer
from interfaces.http.gate import Gatekeeper
from interfaces.http.request import TrustedProxies, client_of, credential_of

ANSWERS_MAX = 10_000
PEERS_MAX = 4096


class _Answer(NamedTuple):
    """What alike questions are answered with; true while ``known`` is what is remembered of the key."""

    known: VerifiedKey
    kind: AccessKind
    headers: list[tuple[bytes, bytes]]
    key_id: str
    account_id: str


class QuickForward:
    """Answers the usual question; one for each serving process."""

    def __init__(
        self,
        keeper: Gatekeeper,
        *,
        trusted_proxies: TrustedProxies,
        new_request_id: Callable[[], str],
        log_request: RequestLine,
    ) -> None:
        self._keeper = keeper
        self._trusted_proxies = trusted_proxies
        self._new_request_id = new_request_id
        self._log_request = log_request
        self._now = keeper.clock.now
        self._peer = lru_cache(maxsize=PEERS_MAX)(self._read_peer)
        self._answers: dict[tuple[str, str, str, str | None], _Answer] = {}

    async def answer(self, scope: HTTPScope, send: Send) -> bool:
        """Answers, or does nothing at all and says False."""
        started = perf_counter()
        raw = credential_of(scope)
        keeper = self._keeper
        if raw is None:
            return False
        client, client_ip = self._client(scope)
        now = self._now()
        known = keeper.authenticator.accepted(raw, client, now)
        if known is None:
            return False
        method, endpoint = asked_for(scope, self._trusted_proxies)
        answer = self._answer(known, method, endpoint, client_ip)
        request_id = self._new_request_id()
        status, headers = 200, answer.headers
        body: Any = EMPTY_BODY
        try:
            committed = keeper.leave(answer.kind, now, request_id)
            if committed is not None:
                await committed
        except UnavailableError as error:  # its row cannot be written
            refused = refused_answer(scope, error, raw)
            status, headers = int(refused.status), list(refused.headers)
            body = {"type": "http.response.body", "body": refused.body}
        start: Any = {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"x-request-id", request_id.encode())],
        }
        await send(start)
        await send(body)
        self._log_request(
            now,
            scope["method"],
            scope["path"],
            PATH,
            status,
            (perf_counter() - started) * 1000,
            request_id,
            answer.key_id,
            answer.account_id,
            "ok",
            client_ip,
        )
        return True

    def _answer(self, known: VerifiedKey, method: str, endpoint: str, client_ip: str | None) -> "_Answer":
        asked = (known.key_hash, method, endpoint, client_ip)
        answer = self._answers.get(asked)
        if answer is None or answer.known is not known:
            facts = known.facts
            accepted = Authentication(Verdict.OK, facts, facts.key_id, known.key_hash)
            kind = self._keeper.kinds.of(accepted, method, endpoint, 200, client_ip)
            answer = _Answer(known, kind, identity_headers(facts), str(facts.key_id), str(facts.account_id))
            if kind.endpoint == endpoint:  # otherwise there is a credential in it, and it is not remembered
                if len(self._answers) >= ANSWERS_MAX:
                    self._answers.clear()
                self._answers[asked] = answer
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

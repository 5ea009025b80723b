"""The usual question of a proxy, answered in one go.

Most of the traffic asks ``/auth/forward`` about a key that is remembered and accepted. This answers it without the
layers that the other answers need (11 µs in place of 16), and does what they do: the row, the line, the id, the same
bytes. Whatever is not that usual question it leaves alone, and `Forward` answers it; so it does when an answer has to
wait for its row's commit, which takes longer than all layers together.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from time import perf_counter
from typing import Any

from litestar.types import HTTPScope, Send

from application.ports import AccessRow
from domain.access import Address, parse_address
from domain.credential import without_secrets
from domain.errors import UnavailableError
from domain.ids import RequestId
from domain.verdict import KeyFacts, Verdict
from interfaces.http.edge import CountRequest, RequestLine
from interfaces.http.forward import EMPTY_BODY, PATH, asked_for, identity_headers
from interfaces.http.gate import ENDPOINT_CHARACTERS_MAX, Gatekeeper
from interfaces.http.request import TrustedProxies, client_of, credential_of

IDENTITIES_MAX = 10_000
PEERS_MAX = 4096
ACCEPTED = (PATH, 200, Verdict.OK.value)
_Headers = list[tuple[bytes, bytes]]


class QuickForward:
    """Answers the usual question; one for each serving process."""

    def __init__(
        self,
        keeper: Gatekeeper,
        *,
        trusted_proxies: TrustedProxies,
        new_request_id: Callable[[], RequestId],
        log_request: RequestLine,
        count_request: CountRequest,
    ) -> None:
        self._keeper = keeper
        self._trusted_proxies = trusted_proxies
        self._new_request_id = new_request_id
        self._log_request = log_request
        self._count_request = count_request
        self._peer = lru_cache(maxsize=PEERS_MAX)(self._read_peer)
        self._identities: OrderedDict[str, tuple[KeyFacts, _Headers]] = OrderedDict()

    async def answer(self, scope: HTTPScope, send: Send) -> bool:
        """Answers, or does nothing at all and says False."""
        started = perf_counter()
        raw = credential_of(scope)
        if raw is None or self._keeper.waits_for_rows:
            return False
        client, client_ip = self._client(scope)
        keeper = self._keeper
        now = keeper.clock.now()
        known = keeper.authenticator.accepted(raw, client, now)
        if known is None:
            return False
        facts = known.facts
        method, endpoint = asked_for(scope, self._trusted_proxies)
        request_id = self._new_request_id()
        row = AccessRow(
            now,
            method,
            without_secrets(endpoint)[:ENDPOINT_CHARACTERS_MAX],
            HTTPStatus.OK,
            Verdict.OK,
            True,  # noqa: FBT003 - a row by position, which takes half the time
            facts.key_id,
            facts.account_id,
            known.key_hash,
            client_ip,
            request_id,
        )
        try:
            keeper.leave(row)
        except UnavailableError:
            return False
        headers = [*self._identity(facts), (b"x-request-id", request_id.encode())]
        start: Any = {"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers}
        await send(start)
        await send(EMPTY_BODY)
        duration_ms = (perf_counter() - started) * 1000
        self._count_request((ACCEPTED, duration_ms))
        self._log_request(
            method=scope["method"],
            path=scope["path"],
            route=None,
            status=HTTPStatus.OK,
            duration_ms=duration_ms,
            request_id=request_id,
            key_id=facts.key_id,
            account_id=facts.account_id,
            outcome=Verdict.OK,
            client_ip=client_ip,
        )
        return True

    def _client(self, scope: HTTPScope) -> tuple[Address | None, str | None]:
        peer = scope["client"]
        if not self._trusted_proxies:
            return self._peer(peer[0]) if peer else (None, None)
        client = client_of(scope, self._trusted_proxies)
        return client, self._keeper.address_text(client)

    def _read_peer(self, text: str) -> tuple[Address | None, str | None]:
        address = parse_address(text)
        return address, self._keeper.address_text(address)

    def _identity(self, facts: KeyFacts) -> _Headers:
        known = self._identities.get(facts.key_id)
        if known is not None and known[0] is facts:
            return known[1]
        headers = identity_headers(facts)
        self._identities[facts.key_id] = (facts, headers)
        if len(self._identities) > IDENTITIES_MAX:
            self._identities.popitem(last=False)
        return headers

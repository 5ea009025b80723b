"""The usual question of a proxy, answered in one go, ahead of the application and its event loop.

Most of the traffic asks ``/auth/forward`` about a key that is remembered and accepted. This answers it without the
layers that the other answers need, and does what they do: the row, the line, the id, the same bytes. Whatever is not
that usual question is left to the application. Every call, look at a clock or new object here costs a percent of what
an answer costs; what they have come to stands in ``ops/adr/0018-hot-path.md``, and why it needs no event loop in
``ops/adr/0021-ahead-of-the-loop.md``.
"""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast

import structlog
from litestar.types import HTTPScope, Scope

from application.authentication import Authentication
from application.ports import SteadyClock
from application.usage_ports import AccessKind
from application.verified_keys import VerifiedKey
from domain.access import Address, parse_address
from domain.credential import without_secrets
from domain.errors import UnavailableError
from domain.verdict import Verdict
from interfaces.http.edge import RequestLine
from interfaces.http.forward import EMPTY_BODY, PATH, asked_for, identity_headers, is_below, refused_answer
from interfaces.http.gate import ROWS_BEHIND_MAX, Deliver, Gatekeeper, nobody_waits, told_in
from interfaces.http.request import TrustedProxies, client_of, credential_of

ANSWERS_MAX = 10_000
PEERS_MAX = 4096
SHARED_SECONDS = 0.001
START = "http.response.start"

log = structlog.get_logger()

SendNow = Callable[[Any], object]
"""Takes a message of ASGI at once; what it returns need not be awaited."""

# What an answer that waits for its row's commit is made of: a plain tuple, as naming its fields takes longer.
_Waiting = tuple[Scope, SendNow, "_Answer", datetime, float, str]


class _Answer(NamedTuple):
    """What alike questions are answered with; true while ``known`` is what is remembered of the key."""

    known: VerifiedKey
    row: AccessKind
    line: tuple[Any, ...]
    headers: list[tuple[bytes, bytes]]


class QuickForward:
    """Answers the usual question; one for each serving process, and one thread alone asks it."""

    def __init__(
        self,
        keeper: Gatekeeper,
        *,
        clock: SteadyClock,
        trusted_proxies: TrustedProxies,
        new_request_id: Callable[[], str],
        log_request: RequestLine,
    ) -> None:
        self._keeper = keeper
        self._awaits_commit = keeper.awaits_commit
        self._queued = keeper.access_log.queued
        self._submit = keeper.access_log.submit
        self._accepted = keeper.authenticator.accepted
        self._trusted_proxies = trusted_proxies
        self._new_request_id = new_request_id
        self._log_request = log_request
        self._elapsed = clock.elapsed
        self._at = clock.at
        self._share(clock.elapsed())
        self._peer = lru_cache(maxsize=PEERS_MAX)(self._read_peer)
        self._answers: dict[tuple[str, str, str, str | None, Any], _Answer] = {}
        self._deliver: Deliver = nobody_waits

    def wake(self, loop: AbstractEventLoop) -> None:
        """The loop in which answers are sent that have waited for their rows' commit."""
        self._deliver = told_in(loop, self._send_all)

    def answer(self, scope: Scope, send: SendNow) -> bool:
        """Whether it is the usual question; it is answered then, or will be when its row is committed.

        False, and nothing is done, for every other, and for one whose row cannot be queued.
        """
        if scope["type"] != "http" or not is_below(scope["path"]):
            return False
        started = self._elapsed()
        if started >= self._shared_until:
            self._share(started)
        answer = self._answer(scope, started)
        if answer is None:
            return False
        _, row, line, headers = answer
        now, request_id = self._now, self._new_request_id()
        try:
            if self._awaits_commit:
                self._submit(row, now, request_id, (scope, send, answer, now, started, request_id), self._deliver)
                return True
            if self._queued() > ROWS_BEHIND_MAX:
                return False
            self._submit(row, now, request_id, None, nobody_waits)
        except UnavailableError:
            return False
        send({"type": START, "status": 200, "headers": [*headers, (b"x-request-id", request_id.encode())]})
        send(EMPTY_BODY)
        self._log_request(line, now, (self._elapsed() - started) * 1000, request_id)
        return True

    def _send_all(self, waiting: Sequence[_Waiting], error: UnavailableError | None) -> None:
        for each in waiting:
            try:
                self._send(each, error)
            except Exception:  # one's fault must not leave the others without their answers
                log.exception("unhandled_error", request_id=each[-1])

    def _send(self, waiting: _Waiting, error: UnavailableError | None) -> None:
        scope, send, answer, now, started, request_id = waiting
        status, headers, body, line = 200, answer.headers, EMPTY_BODY, answer.line
        try:
            if error is not None:
                refused = refused_answer(cast("HTTPScope", scope), error, b"")
                status, headers, body = int(refused.status), refused.headers, EMPTY_BODY | {"body": refused.body}
                line = (*line[:3], status, *line[4:])
            send({"type": START, "status": status, "headers": [*headers, (b"x-request-id", request_id.encode())]})
            send(body)
        finally:
            self._log_request(line, now, (self._elapsed() - started) * 1000, request_id)

    def _share(self, started: float) -> None:
        """One instant for the requests of a millisecond: making it takes as long as naming a credential.

        Rows and lines bear its beginning, keys are judged at its end: none is accepted past its own.
        """
        self._shared_until = started + SHARED_SECONDS
        self._now, self._judged_at = self._at(started), self._at(self._shared_until)

    def _answer(self, scope: HTTPScope, started: float) -> _Answer | None:
        """None for any but the usual question."""
        raw: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                # As nearly everybody sends it; `credential_of` knows the rest, and two lines of one name.
                is_usual = raw is None and value[:7] == b"Bearer "
                raw = value[7:] if is_usual else credential_of(scope) or b""
        if raw is None:
            return None
        method, path, peer = scope["method"], scope["path"], scope["client"]
        if self._trusted_proxies:
            client = client_of(scope, self._trusted_proxies)
            client_ip, asked = self._keeper.address_text(client), asked_for(scope, self._trusted_proxies)
        else:
            (client, client_ip), asked = self._peer(peer[0] if peer else ""), None
        known = self._accepted(raw, client, started, self._judged_at)
        if known is None:
            return None
        question = (known.key_hash, method, path, client_ip, asked)
        answer = self._answers.get(question)
        if answer is None or answer.known is not known:
            facts = known.facts
            accepted = Authentication(Verdict.OK, facts, facts.key_id, known.key_hash)
            asked_method, endpoint = asked or (method, path)
            row = self._keeper.kinds.of(accepted, asked_method, endpoint, 200, client_ip)
            line = (method, path, PATH, 200, str(facts.key_id), str(facts.account_id), "ok", client_ip)
            answer = _Answer(known, row, line, identity_headers(facts))
            if row.endpoint == endpoint and without_secrets(path) == path:  # what holds a credential is not remembered
                if len(self._answers) >= ANSWERS_MAX:
                    self._answers.clear()
                self._answers[question] = answer
        return answer

    def _read_peer(self, text: str) -> tuple[Address | None, str | None]:
        address = parse_address(text)
        return address, self._keeper.address_text(address)

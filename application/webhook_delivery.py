"""One webhook brought to its endpoint: signed with the secrets that count now, sent, judged by the answer.

2xx is success, 410 ends the endpoint, and everything else, a redirect as well, is a failure that is tried again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

import msgspec

from application.ledger import Ledger
from application.outbox import Cancelled, Delivered, Failed, Held, Message, Outcome
from application.ports import Clock, Entropy
from application.webhooks import EndpointView, Seals, Webhooks, sealing_context
from domain.credential import Secret
from domain.destination import WebhookUrl
from domain.events import Origin
from domain.ids import RequestId, WebhookEndpointId
from domain.webhook_endpoint import DisabledReason, GivenUpDelivery, WebhookEndpoint
from domain.webhook_signature import signed_headers, webhook_secret

RETRIES: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 300, 1800, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)))
)
RETRY_AFTER_MAX: Final = timedelta(hours=24)
HOLD: Final = timedelta(seconds=30)
ERROR_CHARACTERS_MAX: Final = 300
ACTOR: Final = "system:webhooks"
OTHER_URL: Final = "the webhook has another URL than when it was chosen for successors"
_GONE: Final = 410
_PATIENT: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Answered:
    """The receiver's answer. ``retry_after`` is the header's text, None without one."""

    status: int
    retry_after: str | None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """There was no answer, or no connection was made; why, in words for the endpoint's owner."""

    reason: str


class WebhookSender(Protocol):
    """The way out."""

    def post(self, url: WebhookUrl, headers: Mapping[str, str], body: bytes) -> Answered | Unanswered:
        """One POST, bounded in time and bytes, to a permitted address alone; follows nothing, decodes nothing."""
        ...

    def interrupt(self) -> None:
        """Breaks off what is under way."""
        ...


class WebhookCarrier:
    """The outbox's carrier of webhooks."""

    retries = RETRIES

    def __init__(  # noqa: PLR0913 - the ports
        self,
        *,
        ledger: Ledger,
        webhooks: Webhooks,
        seals: Seals,
        sender: WebhookSender,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._ledger = ledger
        self._webhooks = webhooks
        self._seals = seals
        self._sender = sender
        self._clock = clock
        self._entropy = entropy

    def deliver(self, message: Message, *, only_to: str | None = None) -> Outcome:
        """One attempt. ``only_to`` is the URL that it is meant for; None: whichever the webhook has."""
        endpoint = self._webhooks.find(WebhookEndpointId(message.target))
        if endpoint is None:
            return Cancelled("the webhook was deleted")
        # Asked of the same read that is posted to: whoever may change the webhook must not come between.
        obstacle = _obstacle(endpoint, only_to)
        if obstacle is not None:
            return obstacle
        now = self._clock.now()
        secrets = self._secrets(endpoint, now)
        if not secrets:
            return Failed("the secret cannot be opened with the service's root secrets: rotate it")
        body = body_bytes(message.payload)
        headers = {"content-type": "application/json"} | signed_headers(message.id, now, body, secrets)
        answer = self._sender.post(endpoint.url, headers, body)
        if isinstance(answer, Unanswered):
            return Failed(answer.reason)
        return judge(answer, now)

    def give_up(self, message: Message, failure: Failed) -> None:
        """Puts on record that the endpoint is gone, or that the last retry has failed; its process disables it.

        A failure that is being dealt with already is not said again.
        """
        found = self._webhooks.find(WebhookEndpointId(message.target))
        if found is None or found.is_held:
            return
        by = Origin(ACTOR, RequestId.from_entropy(self._entropy.bytes(16)), self._clock.now())
        given_up = GivenUpDelivery(
            reason=DisabledReason.GONE if failure.status == _GONE else DisabledReason.FAILING,
            delivery_id=message.id,
            attempts=message.attempt,
            status=failure.status,
            error=failure.error[:ERROR_CHARACTERS_MAX],
        )
        give_up: Callable[[WebhookEndpoint], None] = lambda each: each.give_up(given_up, after=found.failures, by=by)  # noqa: E731 - typed
        self._ledger.change(WebhookEndpoint, message.target, give_up)

    def interrupt(self) -> None:
        """Breaks off what is under way."""
        self._sender.interrupt()

    def _secrets(self, endpoint: EndpointView, now: datetime) -> list[Secret]:
        kept = self._webhooks.sealed(endpoint.endpoint_id)
        opened = [
            self._seals.open(kept[version], sealing_context(endpoint.endpoint_id, version))
            for version in endpoint.signing_versions(now)
            if version in kept
        ]
        return [webhook_secret(each) for each in opened if each is not None]


def _obstacle(endpoint: EndpointView, only_to: str | None) -> Cancelled | Held | None:
    """Why nothing is sent to what was just read; None: it may be."""
    if endpoint.disabled_at is not None:
        return Cancelled("the webhook is disabled")
    if only_to is not None and endpoint.url != only_to:
        return Cancelled(OTHER_URL)
    return Held(HOLD) if endpoint.is_held else None


def judge(answer: Answered, now: datetime) -> Outcome:
    """What an answer means for the message; ``Retry-After`` counts up to a day, with 429 and 503 alone."""
    if 200 <= answer.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
        return Delivered(answer.status)
    if answer.status == _GONE:
        return Failed("the receiver says that it is gone", status=_GONE, permanent=True)
    words = "redirects are not followed" if 300 <= answer.status < 400 else "not accepted"  # noqa: PLR2004 - 15.4
    wait = _wait(answer.retry_after, now) if answer.status in _PATIENT else None
    return Failed(f"{words} ({answer.status})", status=answer.status, retry_after=wait)


def body_bytes(payload: Mapping[str, object]) -> bytes:
    """The body, the same bytes at every attempt: the outbox keeps the order of names."""
    return msgspec.json.encode({name: payload[name] for name in ("type", "timestamp", "data")})


def _wait(text: str | None, now: datetime) -> timedelta | None:
    """RFC 9110 section 10.2.3, seconds or a date; None for what is neither."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), RETRY_AFTER_MAX)
    try:
        at = parsedate_to_datetime(text[:64])
        wait = (at.replace(tzinfo=UTC) if at.tzinfo is None else at) - now
    except (ValueError, OverflowError):  # the latter of an hour or an offset that no machine word holds
        return None
    return min(max(wait, timedelta()), RETRY_AFTER_MAX)

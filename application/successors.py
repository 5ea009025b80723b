"""Successors that nobody asks for: made when a key falls due, and handed over to the webhook that its owner chose.

The secret is kept nowhere: it is minted, its verifier appended with the rotation, and the text sent, in one call. So a
hand-over that fails, or whose end nobody lives to tell, cannot be repeated: the next attempt rotates again, which
replaces the unseen successor, and hands over that one. Whatever a receiver was handed over last is accepted.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from application.keys import GRACE_DEFAULT, IssuedKey, KeyManagement
from application.ledger import Ledger
from application.outbox import Cancelled, Delivered, Failed, Held, Message, MessageId, Outcome
from application.ports import Clock, Entropy
from application.turns import each_its_turn
from application.webhook_delivery import OTHER_URL
from application.webhook_events import rfc3339
from application.webhooks import Webhooks
from domain.access import Feature
from domain.account import Account
from domain.api_key import ApiKey, GraceStart
from domain.errors import ConflictError
from domain.events import Origin
from domain.ids import AccountId, RequestId
from domain.key_status import KeyStatus
from domain.rotation import Rotation
from domain.rotation_events import HANDOVER_ACTOR
from domain.workflow import ProcessState

TYPE: Final = "key.successor_created"
BATCH: Final = 100


class SuccessorHandover(Protocol):
    """The way to the receiver."""

    def deliver(self, message: Message, *, only_to: str) -> Outcome:
        """One signed attempt, bounded in time. ``payload`` holds a secret: it goes to the receiver and nowhere else.

        Cancelled when the webhook has another URL than ``only_to`` as it is sent.
        """
        ...

    def interrupt(self) -> None:
        """Breaks off what is under way."""
        ...


class AwaitedHandovers(Protocol):
    """Rotations whose hand-over is due."""

    def handovers_due(self, now: datetime, limit: int) -> Sequence[str]:
        """One rotation of each account, the longest due first."""
        ...


class _OvertakenError(ConflictError):
    """No attempt is due any more."""


class Successors:
    """Makes and hands over what is due; two that do so at once make one attempt."""

    def __init__(  # noqa: PLR0913 - the ports
        self,
        *,
        ledger: Ledger,
        keys: KeyManagement,
        webhooks: Webhooks,
        handover: SuccessorHandover,
        awaited: AwaitedHandovers,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._webhooks = webhooks
        self._handover = handover
        self._awaited = awaited
        self._clock = clock
        self._entropy = entropy
        self._is_broken_off = False

    def hand_over_due(self) -> int:
        """One attempt for each account that has one due; how many. What broke one is raised once all had their turn.

        Broken off, it leaves before the next account. The attempt under way is then put on record only when its
        receiver took it: otherwise it is one that was lost with its process, and is made good as such.
        """
        self._is_broken_off = False
        attempts = 0
        with each_its_turn() as fenced:
            for process_id in self._awaited.handovers_due(self._clock.now(), BATCH):
                if self._is_broken_off:
                    break
                attempts += 1
                with fenced(process_id):
                    self._hand_over(self._ledger.load(Rotation, process_id))
        return attempts

    def interrupt(self) -> None:
        """Breaks off `hand_over_due`, which may not have begun yet: to be called until it has returned."""
        self._is_broken_off = True
        self._handover.interrupt()

    def _hand_over(self, rotation: Rotation) -> None:
        account = self._ledger.load(Account, str(rotation.account_id))
        wanted, refusal = account.handover, self._why_ended(rotation) or self._refusal(rotation, account)
        if wanted is not None and refusal is None:
            self._attempt(rotation, only_to=wanted.url)
        else:
            self._end(rotation, rotation.handover_attempts, error=refusal, final=True)

    def _attempt(self, rotation: Rotation, *, only_to: str) -> None:
        attempt = rotation.handover_attempts + 1
        try:
            issued = self._rotate(rotation)
        except _OvertakenError:
            return
        except ConflictError as error:  # disabled or ended, or its successor is in use
            self._end(rotation, rotation.handover_attempts, error=error.message, final=True)
            return
        match self._handover.deliver(self._message(rotation, issued), only_to=only_to):
            case Delivered():
                self._end(rotation, attempt, error=None, final=True)
            case Failed() if self._is_broken_off:
                return
            case Failed(error=error, permanent=permanent):
                self._end(rotation, attempt, error=error, final=permanent)
            case Cancelled(reason=reason):
                self._end(rotation, attempt, error=reason, final=True)
            case Held():
                self._end(rotation, attempt, error="a delivery to the webhook was given up", final=False)

    def _why_ended(self, rotation: Rotation) -> str | None:
        """Why no successor is wanted any more; None: one is."""
        if rotation.state is ProcessState.CANCELLED:
            return "the rotation was cancelled"
        key, now = self._ledger.load(ApiKey, rotation.key_id), self._clock.now()
        status = key.status(now)
        if status in {KeyStatus.REVOKED, KeyStatus.EXPIRED, KeyStatus.DISABLED}:
            return f"the key is {status}"
        return "the key is not due any more" if now < key.rotation_due_at else None

    def _refusal(self, rotation: Rotation, account: Account) -> str | None:
        """Why nothing is handed over any more; None: it may be, and the account wants it."""
        wanted = account.handover
        if wanted is None or wanted.endpoint_id != rotation.handover_to:
            return "the owner no longer wants successors handed over to this webhook"
        if not account.plan.includes(Feature.WEBHOOKS) or account.suspended:
            return "the account has no webhooks at present"
        endpoint = self._webhooks.find(wanted.endpoint_id)
        if endpoint is None or endpoint.account_id != rotation.account_id or endpoint.disabled_at is not None:
            return "the webhook was deleted or is disabled"
        if endpoint.url != wanted.url:
            return OTHER_URL
        return None if rotation.has_attempts_left else "no attempt is left"

    def _rotate(self, rotation: Rotation) -> IssuedKey:
        by = self._origin()

        def beside(key: ApiKey) -> tuple[Rotation]:
            offered = self._ledger.load(Rotation, rotation.id)
            # As the ledger has it: the owner may have rotated by hand, and that successor must not be replaced.
            replaced_by = self._ledger.load(ApiKey, key.key_id).replaced_by
            if replaced_by != offered.offered_id or not offered.offer(key, by=by):
                raise _OvertakenError("Another attempt was quicker")
            return (offered,)

        return self._keys.rotate(
            account_id=AccountId(str(rotation.account_id)),
            key_id=rotation.key_id,
            grace=GRACE_DEFAULT,
            grace_starts=GraceStart.FIRST_USE,
            by=by,
            beside=beside,
        )

    def _message(self, rotation: Rotation, issued: IssuedKey) -> Message:
        view, now = issued.key.view, self._clock.now()
        return Message(
            id=MessageId.of(
                channel="successor",
                account_id=view.account_id,
                target=str(rotation.handover_to),
                cause_position=view.position,
                kind=view.key_id,
            ),
            account_id=view.account_id,
            target=str(rotation.handover_to),
            cause_position=view.position,
            kind=TYPE,
            payload={
                "type": TYPE,
                "timestamp": rfc3339(now),
                "data": {
                    "id": str(view.key_id),
                    "name": str(view.name),
                    "environment": str(view.environment),
                    "prefix": str(view.prefix),
                    "lineage_id": str(view.lineage_id),
                    "replaces": None if view.replaces is None else str(view.replaces),
                    "key": issued.secret.reveal(),
                },
            },
            created_at=now,
            attempt=1,
        )

    def _end(self, rotation: Rotation, attempt: int, *, error: str | None, final: bool) -> None:
        by = self._origin()

        def end(found: Rotation, key: ApiKey) -> None:
            found.end_attempt(attempt, key, error=error, final=final, by=by)

        if error is not None and rotation.is_last(attempt, final=final) and self._is_unclaimed(rotation.id):
            try:
                self._withdraw(rotation, end, by)
            except ConflictError:
                pass  # somebody uses it after all: the rotation goes on with it
            else:
                return
        self._ledger.change(Rotation, rotation.id, lambda found: end(found, self._ledger.load(ApiKey, found.key_id)))

    def _is_unclaimed(self, rotation_id: str) -> bool:
        """Whether the key's successor is the one that was offered, and still waits to be handed over."""
        rotation = self._ledger.load(Rotation, rotation_id)
        key = self._ledger.load(ApiKey, rotation.key_id)
        offered = rotation.offered_id
        return rotation.handover_at is not None and offered is not None and key.replaced_by == offered

    def _withdraw(self, rotation: Rotation, end: Callable[[Rotation, ApiKey], None], by: Origin) -> None:
        def beside(key: ApiKey) -> tuple[Rotation]:
            found = self._ledger.load(Rotation, rotation.id)
            # As the ledger has it: a successor that the owner made by hand is not taken back.
            replaced_by = self._ledger.load(ApiKey, key.key_id).replaced_by
            end(found, key)
            if not found.has_given_up or replaced_by != found.offered_id:
                raise _OvertakenError("Another attempt was quicker")
            return (found,)

        self._keys.withdraw_rotation(
            account_id=AccountId(str(rotation.account_id)), key_id=rotation.key_id, by=by, beside=beside
        )

    def _origin(self) -> Origin:
        return Origin(HANDOVER_ACTOR, RequestId.from_entropy(self._entropy.bytes(16)), self._clock.now())

"""An outbox to look into, and a channel whose receivers do as the test says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event as Flag
from threading import Lock

import psycopg
from psycopg import Cursor
from psycopg.rows import TupleRow

from application.outbox import Delivered, Failed, Message, NewMessage, Outcome
from domain.api_key import Created
from domain.events import Event
from domain.ids import AccountId


class KeysCreated:
    """The port `Source`: tells each target of each new key, and breaks on a key of that name."""

    topics = frozenset({Created.TOPIC})

    def __init__(self, *targets: str, breaks_on: str | None = None) -> None:
        self._targets = targets
        self._breaks_on = breaks_on

    def messages_for(self, cursor: Cursor[TupleRow], event: Event, position: int) -> Sequence[NewMessage]:
        """One for each target."""
        del cursor, position
        assert isinstance(event, Created)
        if event.name == self._breaks_on:
            raise ValueError("a name that this channel cannot take")
        owner = AccountId(str(event.account_id))
        return [NewMessage(owner, target, "key.created", {"name": event.name}) for target in self._targets]


@dataclass
class ScriptedCarrier:
    """The port `Carrier`: asks ``answer`` for each attempt's outcome, and remembers what it was told."""

    answer: Callable[[Message], Outcome] = lambda _: Delivered(200)
    retries: tuple[timedelta, ...] = (timedelta(seconds=5), timedelta(minutes=5))
    attempts: list[Message] = field(default_factory=list[Message])
    given_up: list[Message] = field(default_factory=list[Message])
    interrupted: Flag = field(default_factory=Flag)
    _lock: Lock = field(default_factory=Lock)

    def deliver(self, message: Message) -> Outcome:
        """As ``answer`` says."""
        with self._lock:
            self.attempts.append(message)
        return self.answer(message)

    def give_up(self, message: Message, failure: Failed) -> None:
        """Remembers it."""
        del failure
        self.given_up.append(message)

    def interrupt(self) -> None:
        """Lets those who wait for it go on."""
        self.interrupted.set()

    def times(self) -> dict[str, int]:
        """How often each message was attempted, by its id."""
        with self._lock:
            return {each: [m.id for m in self.attempts].count(each) for each in {m.id for m in self.attempts}}


def states(conninfo: str) -> dict[tuple[str, int], str]:
    """Every message's state, by its target and its event's position."""
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute("SELECT target, cause_position, state FROM outbox.messages").fetchall()
    return {(target, position): state for target, position, state in rows}

"""The ledger: every aggregate is loaded from it and every fact is appended to it, in one total order.

A fact's place in that order is its *position*: 1 for the first event ever, without gaps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.persistence import InfrastructureFactory, IntegrityError, TrackingRecorder
from eventsourcing.utils import Environment, EnvType

from application.event_json import EventJson
from application.ports import KeyAnswer
from domain.errors import ConflictError, NotFoundError
from domain.events import Aggregate, Event

SomeAggregate = TypeVar("SomeAggregate", bound=Aggregate)
_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class NewImport:
    """What an imported key is found by: its SHA-256, or by bcrypt its hash and its place (1 to 8) among its prefix's.

    ``external_id`` is its name where it came from, one of a kind in its account; None: none was given.
    """

    account_id: str
    algorithm: str
    lookup_prefix: str
    sha256: bytes | None
    bcrypt: str | None = field(repr=False)
    candidate: int | None
    external_id: str | None


@dataclass(frozen=True, slots=True)
class NewVerifier:
    """The hash of a new credential, stored beside the ledger in the transaction of its event.

    ``verifier`` is the bcrypt text, ``receipt`` the keyed hash that spares the next use a bcrypt, or None.
    ``imported`` is None for a key of our own.
    """

    key_id: str
    verifier: str
    receipt: bytes | None
    imported: NewImport | None = None


@dataclass(frozen=True, slots=True)
class NewSealed:
    """A webhook endpoint's secret, sealed, stored beside the ledger in the transaction of its event."""

    endpoint_id: str
    version: int
    sealed: bytes


class UnknownAggregateError(NotFoundError):
    """No aggregate of that kind has that id."""


class Ledger(Application[str]):
    """Loads and saves aggregates. What it is built on (memory, PostgreSQL) arrives as a factory."""

    name = "ledger"

    def __init__(self, factory: InfrastructureFactory[TrackingRecorder]) -> None:
        self._given_factory = factory
        self._events = EventJson()
        super().__init__()

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """An empty one: the process environment is read once, elsewhere, and never by the library."""
        return Environment(name, env or {})

    def construct_factory(self, env: Environment) -> InfrastructureFactory[TrackingRecorder]:
        """The factory that was given."""
        del env
        return self._given_factory

    def construct_mapper(self) -> EventJson:
        """Events as plain JSON."""
        return EventJson()

    def load(self, kind: type[SomeAggregate], aggregate_id: str) -> SomeAggregate:
        """The aggregate as of now; raises UnknownAggregateError when there is none of that kind."""
        try:
            aggregate: object = self.repository.get(aggregate_id)
        except AggregateNotFoundError as error:
            raise UnknownAggregateError("Not found") from error
        if not isinstance(aggregate, kind):
            raise UnknownAggregateError("Not found")
        return aggregate

    def read(self, *, after: int, limit: int, topics: frozenset[str]) -> Iterator[tuple[int, Event | None]]:
        """At most ``limit`` events past that position in ledger order, with their positions.

        An event of another topic than these is None: it is passed over unread. Raises MapperDeserialisationError when
        the iteration comes to an event that this release cannot read.
        """
        for notification in self.recorder.select_notifications(after + 1, limit):
            wanted = notification.topic in topics
            yield notification.id, self._events.to_domain_event(notification) if wanted else None

    def append(
        self,
        *aggregates: Aggregate,
        verifiers: tuple[NewVerifier, ...] = (),
        sealed: tuple[NewSealed, ...] = (),
        answer: KeyAnswer | None = None,
    ) -> int | None:
        """Appends what the aggregates recorded, all or nothing; the last position, None when there was no news.

        ``answer`` may be asked along with it, after the commit.
        Raises eventsourcing's IntegrityError when another writer appended the same version first, or imported a key
        that is the same, or has the same place or external id.
        """
        recordings = self.save(*aggregates, verifiers=verifiers, sealed=sealed, answer=answer)
        return recordings[-1].notification.id if recordings else None

    def change(
        self,
        kind: type[SomeAggregate],
        aggregate_id: str,
        command: Callable[[SomeAggregate], None],
        *,
        sealed: Callable[[SomeAggregate], tuple[NewSealed, ...]] = lambda _: (),
        answer: KeyAnswer | None = None,
    ) -> tuple[SomeAggregate, int | None]:
        """Loads, commands, appends; of concurrent commands one wins and the others decide again on what it left.

        ``sealed`` is asked after the command for the secrets that go with it, ``answer`` as in ``append``. The position
        is None when the command recorded nothing. Raises UnknownAggregateError, ConflictError after fifty lost races,
        and whatever the command raises.
        """

        def attempt() -> tuple[SomeAggregate, int | None]:
            aggregate = self.load(kind, aggregate_id)
            command(aggregate)
            return aggregate, self.append(aggregate, sealed=sealed(aggregate), answer=answer)

        return retried(attempt)


Result = TypeVar("Result")


def retried(attempt: Callable[[], Result]) -> Result:
    """Runs a load-decide-append attempt again while another writer wins the race; ConflictError after fifty."""
    for _ in range(_ATTEMPTS):
        try:
            return attempt()
        except IntegrityError:
            continue
    raise ConflictError("Changed by others at the same time; try again")

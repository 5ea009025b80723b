"""How an event is stored: plain JSON, one object, its fields as the event class names them, times in RFC 3339 UTC.

The stored bytes are what proofs and exports are made over, so they are written once and never re-encoded.
"""

from typing import Any

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent
from eventsourcing.utils import TopicError, get_topic, resolve_topic

from domain.events import Event


class EventJson(Mapper[str]):
    """The library's mapper with a plain encoding, typed by the event classes themselves."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder(enc_hook=_plain)

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        """The event as topic and JSON bytes; id and version are columns, not part of the bytes."""
        state: dict[str, Any] = dict(vars(domain_event))
        originator_id: str = state.pop("originator_id")
        version: int = state.pop("originator_version")
        return StoredEvent(
            originator_id=originator_id,
            originator_version=version,
            topic=get_topic(type(domain_event)),
            state=self._encoder.encode(state),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """The event object; raises MapperDeserialisationError for an unknown topic or bytes that do not fit it.

        Fields that this release does not know are ignored, so that a newer release may write them.
        """
        try:
            kind: type[Event] = resolve_topic(stored_event.topic)
            fields: dict[str, Any] = msgspec.json.decode(stored_event.state)
            fields["originator_id"] = str(stored_event.originator_id)
            fields["originator_version"] = stored_event.originator_version
            return msgspec.convert(fields, kind)
        except (TopicError, msgspec.MsgspecError, TypeError) as error:
            message = (
                f"{stored_event.topic} at {stored_event.originator_id} v{stored_event.originator_version}: {error}"
            )
            raise MapperDeserialisationError(message) from error


def _plain(value: object) -> str:
    """Ids and names are subclasses of str, which the encoder does not take as they are."""
    if isinstance(value, str):
        return str(value)
    raise NotImplementedError

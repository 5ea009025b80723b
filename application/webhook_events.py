"""What an event of the ledger tells as a webhook: its type, and its data beside the key's own."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from domain import api_key_events as keys
from domain import rotation_events as rotation
from domain.events import Event
from domain.webhook_endpoint import EventType, Tested

TYPES: Final[dict[str, EventType]] = {
    keys.Created.TOPIC: EventType.KEY_CREATED,
    keys.Imported.TOPIC: EventType.KEY_CREATED,
    keys.Renamed.TOPIC: EventType.KEY_UPDATED,
    keys.Rescoped.TOPIC: EventType.KEY_UPDATED,
    keys.NetworksChanged.TOPIC: EventType.KEY_UPDATED,
    keys.RotationDueChanged.TOPIC: EventType.KEY_UPDATED,
    keys.GraceBegan.TOPIC: EventType.KEY_UPDATED,
    keys.GraceExtended.TOPIC: EventType.KEY_UPDATED,
    keys.Disabled.TOPIC: EventType.KEY_UPDATED,
    keys.Enabled.TOPIC: EventType.KEY_UPDATED,
    rotation.HandedOver.TOPIC: EventType.KEY_ROTATED,
    rotation.Notified.TOPIC: EventType.KEY_ROTATION_DUE,
    keys.Rotated.TOPIC: EventType.KEY_ROTATED,
    keys.Revoked.TOPIC: EventType.KEY_REVOKED,
    keys.Expired.TOPIC: EventType.KEY_EXPIRED,
    keys.Attacked.TOPIC: EventType.KEY_ATTACKED,
    keys.PresentedAfterEnd.TOPIC: EventType.KEY_PRESENTED_AFTER_END,
    Tested.TOPIC: EventType.WEBHOOK_TEST,
}
"""By topic. `key.rotation_due` comes from the rotation, which says it once for each due date."""

_APART: Final = frozenset(
    {
        "originator_id", "originator_version", "originator_topic", "timestamp", "account_id", "request_id",
        "verifier_digest", "key_id", "name", "environment", "prefix", "lineage_id", "replaces",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToldKey:
    """What every webhook about a key says of it."""

    key_id: str
    name: str
    environment: str
    prefix: str
    lineage_id: str
    replaces: str | None


def is_told(event: Event) -> bool:
    """Whether the event is a webhook: of successors that nobody asked for only the one that arrived is told."""
    is_attempt = (
        isinstance(event, keys.Created | keys.Rotated | keys.Revoked) and event.actor == rotation.HANDOVER_ACTOR
    )
    return event.TOPIC in TYPES and not is_attempt


def key_id_of(event: Event) -> str | None:
    """The key that the event is about; None where it is about none."""
    if isinstance(event, Tested):
        return None
    return str(getattr(event, "key_id", event.originator_id))


def body_of(event: Event, position: int, key: ToldKey | None) -> dict[str, object]:
    """The body of the webhook: `type`, `timestamp`, and `data`, whose `event` is the ledger's own word for it.

    Its values are JSON; nothing in it is secret, as in the events.
    """
    data: dict[str, object] = {}
    if key is not None:
        data = {
            "id": key.key_id,
            "name": key.name,
            "environment": key.environment,
            "prefix": key.prefix,
            "lineage_id": key.lineage_id,
            "replaces": key.replaces,
        }
    else:
        data = {"id": event.originator_id}
    data |= {"event": event.TOPIC, "position": position}
    data |= {name: _plain(value) for name, value in vars(event).items() if name not in _APART}
    return {"type": TYPES[event.TOPIC].value, "timestamp": rfc3339(event.timestamp), "data": data}


def rfc3339(at: datetime) -> str:
    """The instant, aware UTC, as webhooks write it."""
    return at.isoformat().replace("+00:00", "Z")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, tuple):
        return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - texts, as events have
    return value

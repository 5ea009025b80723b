"""The ways to the outside, and what runs for each of them in the background process."""

from collections.abc import Callable
from threading import Event as Flag

from infrastructure.outbox import Channel, CountDelivery, OutboxDelivery, OutboxFollower
from infrastructure.postgres.outbox import PostgresOutbox
from interfaces.bootstrap.core import Core


def channels(core: Core) -> tuple[Channel, ...]:
    """Every way to the outside that the settings give."""
    del core
    return ()


def outbox_followers(core: Core, count: CountDelivery) -> dict[str, Callable[[Flag], None]]:
    """For each channel, what makes its messages, and what brings them to their receivers."""
    outbox = PostgresOutbox(core.database)
    followers: dict[str, Callable[[Flag], None]] = {}
    for channel in channels(core):
        delivery = OutboxDelivery(outbox, channel, clock=core.clock, entropy=core.entropy, count=count)
        followers[f"{channel.name}_outbox"] = OutboxFollower(core.database, core.recorder, channel, core.clock).run
        followers[f"{channel.name}_delivery"] = delivery.run
    return followers

"""``/health``: is the process alive, and can it verify a key."""

import msgspec
from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from application.ports import Health
from interfaces.http.schema import ERRORS


class Alive(msgspec.Struct):
    """The process answers."""

    status: str = "ok"


class Ready(msgspec.Struct):
    """A key can be verified.

    ``views`` has each view, channel of the outbox and workflow that follows the ledger, with `ok` or why it stopped. In
    it ``leader`` is the background process that makes them follow, without which keys are verified all the same.
    """

    status: str
    views: dict[str, str]


@get("/live", sync_to_thread=False, summary="Liveness")
def live() -> Alive:
    """200 while the process runs."""
    return Alive()


@get("/ready", responses={503: ERRORS[503]}, sync_to_thread=True, summary="Readiness")
def ready(health: NamedDependency[SkipValidation[Health]]) -> Ready:
    """200 only when a key can be verified; 503 says what is missing."""
    return Ready("ok", health.check())


def health_router() -> Router:
    """The routes of this module."""
    return Router("/health", route_handlers=[live, ready], tags=["Operations"])

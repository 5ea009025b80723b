"""``/metrics`` for Prometheus, to those who are near: from the networks that may, and not through a proxy.

A proxy is known by the headers that it adds. One that adds none cannot be told from its neighbours.
"""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import SkipValidation

from domain.access import parse_address

TEXT_FORMAT = "text/plain; version=0.0.4"  # Litestar adds the charset
FORWARDED = ("x-forwarded-", "forwarded", "x-real-ip", "via")
Networks = tuple[IPv4Network | IPv6Network, ...]


class MetricsDoor:
    """The metrics of the whole service, whichever process is asked, and the networks that may read them."""

    def __init__(self, scrape: Callable[[], str], networks: Networks) -> None:
        self.scrape = scrape
        self._networks = networks

    def is_open_to(self, request: Request[Any, Any, Any]) -> bool:
        """Whether the peer itself asks, and may: a proxy next to us would speak for anybody."""
        peer = None if request.client is None else parse_address(request.client.host)
        if peer is None or any(name.startswith(FORWARDED) for name in request.headers):
            return False
        return any(peer in network for network in self._networks)


@get("/metrics", sync_to_thread=True, include_in_schema=False)
def metrics(
    request: Request[Any, Any, Any], metrics_door: NamedDependency[SkipValidation[MetricsDoor]]
) -> Response[bytes]:
    """200 with every metric; 404 to whoever may not read them; 503 without the database."""
    if not metrics_door.is_open_to(request):
        raise NotFoundException
    return Response(metrics_door.scrape().encode(), media_type=TEXT_FORMAT)


def metrics_router() -> Router:
    """The routes of this module."""
    return Router("/", route_handlers=[metrics])

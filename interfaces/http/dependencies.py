"""How handlers are given what they ask for by name."""

from litestar import Litestar
from litestar.routes import HTTPRoute


def provide_in_turn(app: Litestar) -> None:
    """Has each handler's dependencies provided one after the other.

    Litestar provides those that do not need each other in a group of tasks, which takes three turns of the event loop,
    for values that are at hand. One alone it awaits as it is.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for _, model in route.route_handler_map.values():
                batches = model.dependency_batches
                model.dependency_batches = [{each} for batch in batches for each in batch]

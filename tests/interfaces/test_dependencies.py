"""Dependencies are provided without a task for each."""

import asyncio
from typing import Any

from litestar import Litestar, Request, get
from litestar.di import NamedDependency, Provide
from litestar.testing import TestClient

from interfaces.http.dependencies import provide_in_turn


def one(request: Request[Any, Any, Any]) -> int:
    """Which task provides."""
    del request
    return id(asyncio.current_task())


def another() -> int:
    """Which task provides."""
    return id(asyncio.current_task())


def after(first: NamedDependency[int]) -> int:
    """Which task provides what needs another."""
    return first - id(asyncio.current_task())


@get("/", sync_to_thread=False)
def tasks(first: NamedDependency[int], second: NamedDependency[int], third: NamedDependency[int]) -> list[int]:
    """How far each is from the handler's own task."""
    own = id(asyncio.current_task())
    return [first - own, second - own, third]


def an_app() -> Litestar:
    given = {"first": one, "second": another, "third": after}
    return Litestar([tasks], dependencies={name: Provide(of, sync_to_thread=False) for name, of in given.items()})


def test_what_a_handler_asks_for_is_provided_in_its_own_task() -> None:
    """Each after what it needs; the framework alone takes a task for each of several."""
    app = an_app()
    with TestClient(app) as client:
        assert 0 not in client.get("/").json()[:2]
    provide_in_turn(app)
    with TestClient(app) as client:
        assert client.get("/").json() == [0, 0, 0]

"""What handlers ask for by name: the accepted key, the origin of what they do, and parsed fields."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from litestar import Request
from litestar.di import NamedDependency, Provide

from application.ports import Clock
from domain.errors import InvalidError
from domain.events import Origin
from domain.ids import RequestId
from domain.verdict import KeyFacts
from interfaces.http.request import record_of

Caller = NamedDependency[KeyFacts]
By = NamedDependency[Origin]
Raw = TypeVar("Raw")
Parsed = TypeVar("Parsed")


def caller_dependencies(clock: Clock) -> dict[str, Provide]:
    """``caller``: the key that was accepted. ``origin``: who acts, in which request, when."""

    def provide_caller(request: Request[Any, Any, Any]) -> KeyFacts:
        return record_of(request.scope).caller

    def provide_origin(request: Request[Any, Any, Any]) -> Origin:
        record = record_of(request.scope)
        return Origin(f"key:{record.caller.key_id}", RequestId(record.request_id), clock.now())

    return {
        "caller": Provide(provide_caller, sync_to_thread=False),
        "origin": Provide(provide_origin, sync_to_thread=False),
    }


def parsed(field: str, parse: Callable[[Raw], Parsed], raw: Raw) -> Parsed:
    """The field's value as its domain type; InvalidError in the client's own name for the field."""
    try:
        return parse(raw)
    except ValueError as error:
        raise InvalidError.of(field, str(error)) from error


def in_utc(given: datetime) -> datetime:
    """The same instant in UTC; ValueError where the calendar has none."""
    try:
        return given.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must be in the years 1 to 9999 in UTC") from error

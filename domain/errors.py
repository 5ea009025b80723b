"""Every refusal that a call can end in: one root, and a kind for each way that the caller can act on it.

    KeyledgerError
    ├── MalformedError         what was sent cannot be read at all
    ├── InvalidError           it was read, and fields are out of range: `problems`
    ├── UnauthenticatedError   nobody that we know, or no longer; never says which
    ├── ForbiddenError         known, and not allowed; names the missing `scope` when that is the reason
    ├── NotFoundError          no such thing, or another account's; never says which
    ├── ConflictError          the object's state, or a concurrent change, does not allow it
    ├── RateLimitedError       too many failed attempts; again after `retry_after`
    └── UnavailableError       cannot be decided now; fail closed, again after `retry_after`

An expected "no" is a value (a verdict, a decision); these are for calls that cannot go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final

CONTEXT_ENTRIES_MAX: Final = 8
CONTEXT_CHARACTERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field: the client's own name for it (dotted when nested, "" for the whole input)."""

    field: str
    message: str


class KeyledgerError(Exception):
    """The root.

    `message` is public: it is shown to the caller, so it never holds a secret nor another account's data.
    `context` is for the log alone: at most 8 entries of 200 characters (more is cut), no secrets; `str` and `repr`
    leave it out.
    """

    def __init__(self, message: str, *, context: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message: Final = message
        self.context: Final[Mapping[str, str]] = MappingProxyType(_bounded(context or {}))


class MalformedError(KeyledgerError):
    """The input cannot be read: not JSON, not a cursor, not an id."""


class InvalidError(KeyledgerError):
    """The input was read and does not hold; `problems` has one entry per fault, at least one."""

    def __init__(
        self,
        problems: Iterable[FieldProblem],
        *,
        message: str = "The request is not valid",
        context: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.problems: Final = tuple(problems)

    @classmethod
    def of(cls, field: str, message: str) -> InvalidError:
        """The usual case: one field with one fault."""
        return cls((FieldProblem(field, message),))


class UnauthenticatedError(KeyledgerError):
    """The credential is not accepted. `message` never has the reason; the access log does."""

    def __init__(self, message: str = "Invalid API key", *, context: Mapping[str, str] | None = None) -> None:
        super().__init__(message, context=context)


class ForbiddenError(KeyledgerError):
    """The bearer is known and may not do this. `scope`: the one that is missing; None when that is not the reason."""

    def __init__(
        self,
        message: str = "Insufficient permissions for this resource",
        *,
        scope: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.scope: Final = scope


class NotFoundError(KeyledgerError):
    """There is no such thing for this caller: unknown and another account's are told in the same words."""


class ConflictError(KeyledgerError):
    """The state of the object does not allow the command, or a concurrent command came first."""


class RateLimitedError(KeyledgerError):
    """Too many failed attempts; the caller may try again after `retry_after`."""

    def __init__(
        self,
        retry_after: timedelta,
        *,
        message: str = "Too many failed attempts",
        context: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.retry_after: Final = retry_after


class UnavailableError(KeyledgerError):
    """An answer cannot be proved right now, so none is given; worth another try after `retry_after`."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: timedelta = timedelta(seconds=1),
        context: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.retry_after: Final = retry_after


def _bounded(context: Mapping[str, str]) -> dict[str, str]:
    entries = list(context.items())[:CONTEXT_ENTRIES_MAX]
    return {name: value[:CONTEXT_CHARACTERS_MAX] for name, value in entries}

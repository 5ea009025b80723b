"""What an error tells its caller, and what it keeps for the log."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain.errors import (
    ConflictError,
    FieldProblem,
    ForbiddenError,
    InvalidError,
    KeyledgerError,
    MalformedError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
)

ONE_OF_EACH = [
    MalformedError("The body is not JSON", context={"reason": "private"}),
    InvalidError([FieldProblem("name", "too long")], context={"reason": "private"}),
    UnauthenticatedError(context={"reason": "private"}),
    ForbiddenError(scope="keys:write", context={"reason": "private"}),
    NotFoundError("No such key", context={"reason": "private"}),
    ConflictError("The key is revoked", context={"reason": "private"}),
    RateLimitedError(timedelta(seconds=30), context={"reason": "private"}),
    UnavailableError("The ledger cannot be reached", context={"reason": "private"}),
]


def test_every_kind_is_below_the_root() -> None:
    """Whoever catches the root catches every kind, and no kind is missing from the examples here."""
    assert {type(error) for error in ONE_OF_EACH} == set(KeyledgerError.__subclasses__())


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_private_context_never_shows(error: KeyledgerError) -> None:
    """Neither `str` nor `repr` carries the context; the log reads it by name."""
    assert "private" not in str(error)
    assert "private" not in repr(error)
    assert str(error) == error.message
    assert error.context == {"reason": "private"}


def test_context_is_bounded() -> None:
    """Whatever a caller piles in, the log gets at most 8 entries of 200 characters."""
    error = NotFoundError("No such key", context={f"n{n}": "x" * 10_000 for n in range(100)})
    assert len(error.context) == 8
    assert {len(value) for value in error.context.values()} == {200}


def test_refusals_say_the_same_words_whatever_the_reason() -> None:
    """The public words of a refused credential and of a refused access do not depend on the reason."""
    assert UnauthenticatedError(context={"reason": "revoked"}).message == "Invalid API key"
    assert ForbiddenError(scope="keys:read").message == ForbiddenError().message
    assert ForbiddenError().message == "Insufficient permissions for this resource"


def test_one_faulty_field_is_named_by_the_client_s_name() -> None:
    """`InvalidError.of` carries exactly one problem."""
    assert InvalidError.of("scopes.0", "unknown scope").problems == (FieldProblem("scopes.0", "unknown scope"),)

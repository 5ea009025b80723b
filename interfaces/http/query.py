"""Reading a query exactly: Litestar converts its parameters leniently, as it does bodies (`interfaces/http/body.py`).

It takes ``2026`` and ``1e9`` for seconds since 1970, ``1e1`` for 10, and ``null``, however written, for a parameter
that is not there: whoever misspells a filter would be answered as if he had given none.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from litestar.connection import ASGIConnection
from litestar.enums import ParamType
from litestar.handlers import BaseRouteHandler
from litestar.params import ParameterKwarg

from domain.errors import FieldProblem, InvalidError

_NUMBER = re.compile("-?[0-9]+")


def exact_query(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A guard: InvalidError that names each query parameter whose text is not one of its type."""
    problems = list(_problems(connection, handler)) if connection.scope["query_string"] else []
    if problems:
        raise InvalidError(problems)


def _problems(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> Iterator[FieldProblem]:
    for argument, field in handler.parsed_fn_signature.parameters.items():
        declared = field.kwarg_definition
        if not isinstance(declared, ParameterKwarg) or declared.param_type is not ParamType.QUERY:
            continue
        name = declared.name or argument
        for text in connection.query_params.getall(name, []):
            if field.annotation is int and _NUMBER.fullmatch(text):
                continue
            try:
                msgspec.convert(text, field.annotation)
            except msgspec.ValidationError as error:
                yield FieldProblem(name, str(error))

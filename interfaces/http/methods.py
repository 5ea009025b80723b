"""Which methods a path takes: the same words for OPTIONS and in a 405 (RFC 9110 sections 9.3.7 and 15.5.6)."""

from collections.abc import Iterable
from typing import Any

from litestar import Request, Response
from litestar.datastructures import MutableScopeHeaders
from litestar.exceptions import HTTPException
from litestar.types import Message, Scope

from interfaces.http.errors import on_http_exception


def on_another_method(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The 405 of a path that does not take the request's method."""
    response = on_http_exception(request, error)
    response.headers["allow"] = _allow(response.headers.get("allow", "").split(", "))
    return response


async def tell_methods(message: Message, scope: Scope) -> None:
    """To be called before an answer is sent: one to OPTIONS tells all methods of the path.

    The framework tells those of the handler that was registered first, where several share a path.
    """
    if message["type"] != "http.response.start" or scope["type"] != "http" or scope["method"] != "OPTIONS":
        return
    template = scope.get("path_template")
    routes = [route for route in scope["litestar_app"].routes if route.path_format == template]
    if routes:
        MutableScopeHeaders(message)["allow"] = _allow(method for route in routes for method in route.methods)


def _allow(methods: Iterable[str]) -> str:
    """A path that takes GET takes HEAD, which the framework does not know of."""
    taken = set(methods)
    return ", ".join(sorted(taken | {"HEAD"} if "GET" in taken else taken))

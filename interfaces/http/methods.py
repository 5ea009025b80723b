"""Which methods a path takes: the same words for OPTIONS and in a 405 (RFC 9110 sections 9.3.7 and 15.5.6)."""

from collections.abc import Iterable
from typing import Any, cast

from litestar import Request, Response
from litestar.datastructures import MutableScopeHeaders
from litestar.exceptions import HTTPException
from litestar.types import Message, Scope, Send

from interfaces.http.errors import on_http_exception


def on_another_method(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The 405 of a path that does not take the request's method."""
    response = on_http_exception(request, error)
    response.headers["allow"] = _allow(response.headers.get("allow", "").split(", "))
    return response


def telling_methods(scope: Scope, send: Send) -> Send:
    """What sends an answer to OPTIONS, which tells all methods of the path.

    The framework tells those of the handler that was registered first, where several share a path.
    """

    async def tell(message: Message) -> None:
        asked = cast("dict[str, Any]", scope)
        if message["type"] == "http.response.start" and "path_template" in asked:
            routes = [each for each in asked["litestar_app"].routes if each.path_format == asked["path_template"]]
            MutableScopeHeaders(message)["allow"] = _allow(method for route in routes for method in route.methods)
        await send(message)

    return tell


def _allow(methods: Iterable[str]) -> str:
    """A path that takes GET takes HEAD, which the framework does not know of."""
    taken = set(methods)
    return ", ".join(sorted(taken | {"HEAD"} if "GET" in taken else taken))

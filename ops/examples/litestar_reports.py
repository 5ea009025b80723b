"""Reports of a Litestar service, behind keys of Keyledger that it checks in its own process.

With KEYLEDGER_DATABASE_URL and KEYLEDGER_SECRET_KEYS set as for the service:

    granian --interface asgi --working-dir ops/examples litestar_reports:app
"""

from typing import Any

from litestar import Litestar, Request, get, post, websocket_listener

from interfaces.asgi import KeyledgerMiddleware, principal_of, require


@get("/health")
async def health(request: Request[Any, Any, Any]) -> dict[str, bool]:
    """Open to everybody: its path is not protected."""
    return {"keyledger": "keyledger" in request.scope}


@get("/api/reports")
async def list_reports(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """For keys with the scope that the middleware asks for on this path."""
    principal = principal_of(request.scope)
    return {
        "key_id": principal.key_id,
        "account_id": principal.account_id,
        "environment": principal.environment,
        "scopes": principal.scopes,
    }


@post("/api/reports")
async def write_report(request: Request[Any, Any, Any]) -> dict[str, str]:
    """For keys with a scope that the handler asks for itself; without it the answer is Keyledger's 403."""
    principal = require(request.scope, "campaigns:write")
    return {"author": principal.account_id}


@websocket_listener("/api/reports/live")
async def follow_reports(data: str, scope: dict[str, Any]) -> str:
    """A connection that ends with its key."""
    return f"{principal_of(scope).key_id} {data}"


app = KeyledgerMiddleware(
    Litestar(route_handlers=[health, list_reports, write_report, follow_reports]),
    protect=("/api/",),
    needs={"/api/reports": "campaigns:read"},
)

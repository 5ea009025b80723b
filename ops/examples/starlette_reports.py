"""Reports of a Starlette service, behind keys of Keyledger that it checks in its own process.

With KEYLEDGER_DATABASE_URL and KEYLEDGER_SECRET_KEYS set as for the service:

    pip install starlette
    granian --interface asgi --working-dir ops/examples starlette_reports:app
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from interfaces.asgi import KeyledgerMiddleware, principal_of, require


async def health(request: Request) -> Response:
    """Open to everybody: its path is not protected."""
    return JSONResponse({"keyledger": "keyledger" in request.scope})


async def list_reports(request: Request) -> Response:
    """For keys with the scope that the middleware asks for on this path."""
    principal = principal_of(request.scope)
    return JSONResponse(
        {
            "key_id": principal.key_id,
            "account_id": principal.account_id,
            "environment": principal.environment,
            "scopes": principal.scopes,
        }
    )


async def write_report(request: Request) -> Response:
    """For keys with a scope that the handler asks for itself; without it the answer is Keyledger's 403."""
    principal = require(request.scope, "campaigns:write")
    return JSONResponse({"author": principal.account_id}, status_code=201)


async def follow_reports(websocket: WebSocket) -> None:
    """A connection that ends with its key."""
    principal = principal_of(websocket.scope)
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"{principal.key_id} {text}")


routes = [
    Route("/health", health),
    Route("/api/reports", list_reports),
    Route("/api/reports", write_report, methods=["POST"]),
    WebSocketRoute("/api/reports/live", follow_reports),
]
app = KeyledgerMiddleware(
    Starlette(routes=routes),
    protect=("/api/",),
    needs={"/api/reports": "campaigns:read"},
)

"""safe-api-keys: its Starlette middleware, its asynchronous manager and SQLAlchemy store, with and without its cache.

Its defaults are kept: last use is written once a minute and key, a cached record lives five seconds.
"""

import asyncio
import os
import time

import contract
from safe_api_keys import AsyncKeyManager
from safe_api_keys.cache import VerifyCache
from safe_api_keys.contrib.starlette import APIKeyMiddleware
from safe_api_keys.stores import AsyncSQLAlchemyStore
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

FILL = """
INSERT INTO safe_api_keys
       (key_id, prefix, hash, hash_alg, secret_last4, owner, scopes, created_at, ip_allowlist, metadata)
SELECT lpad(n::text, 12, '0'), 'bench', repeat(md5(n::text), 2), 'hmac-sha256:v1', '0000', 'filler', '[]',
       now(), '[]', '{}'
FROM generate_series(1, :rows) AS n
"""


def manager(*, cached: bool) -> tuple[AsyncKeyManager, AsyncSQLAlchemyStore, AsyncEngine]:
    """Build the key manager on its SQLAlchemy store; asyncpg reads libpq's variables itself."""
    engine = create_async_engine("postgresql+asyncpg://", pool_size=32, max_overflow=0)
    store = AsyncSQLAlchemyStore(async_sessionmaker(engine, expire_on_commit=False))
    keys = AsyncKeyManager(
        store, prefix="bench", pepper=b"the pepper of a benchmark, 32 bytes", cache=VerifyCache() if cached else None
    )
    return keys, store, engine


async def ok(_request: Request) -> JSONResponse:
    """Reached with a valid key only."""
    return JSONResponse({"ok": True})


async def pid(_request: Request) -> PlainTextResponse:
    """Name the worker."""
    return PlainTextResponse(str(os.getpid()))


def _app(*, cached: bool) -> Starlette:
    keys, _, _ = manager(cached=cached)
    guard = Middleware(APIKeyMiddleware, km=keys, protect=("/",), exempt=("/pid",))
    return Starlette(routes=[Route("/", ok), Route("/pid", pid)], middleware=[guard])


def app() -> Starlette:
    """Give the ASGI application that reads PostgreSQL for each request."""
    return _app(cached=False)


def app_cached() -> Starlette:
    """Give the ASGI application with the cache of records in each process."""
    return _app(cached=True)


def prepare(keys: int, sample: int) -> contract.Prepared:
    """Make its table, and the sample by `issue`."""

    async def run() -> list[contract.SampleKey]:
        made, store, engine = manager(cached=False)
        await store.create_table(engine)
        issued = [await made.issue(f"owner {n}") for n in range(sample)]
        async with engine.begin() as connection:
            await connection.execute(text(FILL), {"rows": keys - sample})
            await connection.execute(text("ANALYZE"))
        await engine.dispose()
        return [contract.SampleKey(one.record.key_id, f"Bearer {one.raw_key}") for one in issued]

    return contract.Prepared("Authorization", asyncio.run(run()))


def revoke(key_id: str) -> int:
    """Revoke by the manager of this process, as an operator or another worker would."""

    async def run() -> int:
        keys, _, engine = manager(cached=False)
        await keys.revoke(key_id)
        returned_ns = time.monotonic_ns()
        await engine.dispose()
        return returned_ns

    return asyncio.run(run())


if __name__ == "__main__":
    contract.main(
        {
            "safe-api-keys": contract.Peer(prepare, revoke, "peer_safe_api_keys:app", "asgi"),
            "safe-api-keys-cached": contract.Peer(prepare, revoke, "peer_safe_api_keys:app_cached", "asgi"),
        }
    )

"""keyshield: its Litestar guard and SQLAlchemy repository, with ApiKeyService and with CachedApiKeyService.

Its random delay (0.1 to 0.3 s with each answer) is off; Argon2's default cost and the cache's 300 s are kept. The
guard calls the provider itself and closes nothing, so a middleware owns the session of each request and commits it.
"""

import asyncio
import os
import time
from contextvars import ContextVar

import contract
from aiocache import BaseCache, SimpleMemoryCache
from keyshield.hasher.argon2 import Argon2ApiKeyHasher
from keyshield.litestar_api import create_api_key_guard
from keyshield.repositories.sql import SqlAlchemyApiKeyRepository
from keyshield.services.base import ApiKeyService
from keyshield.services.cached import CachedApiKeyService
from litestar import Litestar, get
from litestar.middleware import DefineMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

FILL = """
INSERT INTO api_keys (id, is_active, created_at, key_id, key_hash, key_secret_first, key_secret_last, scopes)
SELECT lpad(n::text, 32, '0'), true, now(), lpad(n::text, 16, '0'),
       '$argon2id$v=19$m=65536,t=3,p=4$' || md5(n::text) || '$' || md5((-n)::text), '0000', '0000', '[]'
FROM generate_series(1, :rows) AS n
"""

SESSION: ContextVar[AsyncSession] = ContextVar("session")


def database() -> AsyncEngine:
    """One pool per process; asyncpg reads libpq's variables itself."""
    return create_async_engine("postgresql+asyncpg://", pool_size=32, max_overflow=0)


def service(session: AsyncSession, hasher: Argon2ApiKeyHasher, cache: BaseCache | None) -> ApiKeyService:
    """Build the service of one session; `cache` None means that each request pays Argon2."""
    repository = SqlAlchemyApiKeyRepository(session)
    if cache is None:
        return ApiKeyService(repository, hasher, min_delay=0, max_delay=0)
    return CachedApiKeyService(repository, hasher, cache=cache, min_delay=0, max_delay=0)


def hasher() -> Argon2ApiKeyHasher:
    """Argon2 with the library's own parameters."""
    return Argon2ApiKeyHasher(pepper="the pepper of a benchmark")


class SessionPerRequest:
    """Open a session for each request to a protected route, and commit it once the answer is made."""

    def __init__(self, app: ASGIApp, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One transaction around one request."""
        async with self._sessions.begin() as session:
            SESSION.set(session)
            await self._app(scope, receive, send)


def _app(*, cached: bool) -> Litestar:
    sessions = async_sessionmaker(database(), expire_on_commit=False)
    argon2 = hasher()
    cache = SimpleMemoryCache() if cached else None

    async def provide() -> ApiKeyService:
        return service(SESSION.get(), argon2, cache)

    middleware = DefineMiddleware(SessionPerRequest, sessions=sessions)

    @get("/", guards=[create_api_key_guard(provide)], middleware=[middleware])
    async def protected() -> dict[str, bool]:
        return {"ok": True}

    @get("/pid", media_type="text/plain")
    async def pid() -> str:
        return str(os.getpid())

    return Litestar([protected, pid], openapi_config=None, logging_config=None)


def app() -> Litestar:
    """Give the ASGI application that verifies each request against PostgreSQL with Argon2."""
    return _app(cached=False)


def app_cached() -> Litestar:
    """Give the ASGI application with the cache of verified keys in each process."""
    return _app(cached=True)


def prepare(keys: int, sample: int) -> contract.Prepared:
    """Make its table, and the sample by `create`."""

    async def run() -> list[contract.SampleKey]:
        engine = database()
        argon2 = hasher()
        async with AsyncSession(engine) as session:
            await SqlAlchemyApiKeyRepository(session).ensure_table(engine)
            made = [await service(session, argon2, None).create(name=f"sample {n}") for n in range(sample)]
            await session.execute(text(FILL), {"rows": keys - sample})
            await session.execute(text("ANALYZE"))
            await session.commit()
        await engine.dispose()
        return [contract.SampleKey(entity.id_, f"Bearer {key}") for entity, key in made]

    return contract.Prepared("Authorization", asyncio.run(run()))


def revoke(key_id: str) -> int:
    """Deactivate, as its own route POST /{id}/deactivate does."""

    async def run() -> int:
        engine = database()
        async with AsyncSession(engine) as session, session.begin():
            keys = service(session, hasher(), None)
            entity = await keys.get_by_id(key_id)
            entity.disable()
            await keys.update(entity)
        returned_ns = time.monotonic_ns()
        await engine.dispose()
        return returned_ns

    return asyncio.run(run())


if __name__ == "__main__":
    contract.main(
        {
            "keyshield": contract.Peer(prepare, revoke, "peer_keyshield:app", "asgi"),
            "keyshield-cached": contract.Peer(prepare, revoke, "peer_keyshield:app_cached", "asgi"),
        }
    )

"""The schema, moved forward once: each migration in its own transaction, in order, under one lock.

Forward only; the previous release must run on the new schema. A migration that was applied is never edited: its digest
is on record, and a difference refuses the start.
"""

import hashlib
from importlib.resources import files

import psycopg

LOCK = "SELECT pg_advisory_lock(7310306)"
CREATE_RECORD = """
    CREATE TABLE IF NOT EXISTS public.keyledger_migrations (
        name text PRIMARY KEY,
        digest text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
"""
APPLIED = "SELECT name, digest FROM public.keyledger_migrations"
RECORD = "INSERT INTO public.keyledger_migrations (name, digest) VALUES (%(name)s, %(digest)s)"
VERSION_MIN = 150000


class MigrationError(Exception):
    """The database cannot be brought to this release's schema; the message says why."""


def migrate(conninfo: str) -> list[str]:
    """Applies what is missing and answers the names applied; concurrent callers wait for the first and find nothing.

    Raises MigrationError for a PostgreSQL older than 15, and for an applied migration that has been edited.
    """
    scripts = {
        entry.name: entry.read_bytes()
        for entry in files("infrastructure.postgres").joinpath("migrations").iterdir()
        if entry.name.endswith(".sql")
    }
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=10) as connection:
        if connection.info.server_version < VERSION_MIN:
            raise MigrationError("PostgreSQL 15 or newer is needed")
        connection.execute(LOCK)
        connection.execute(CREATE_RECORD)
        applied: dict[str, str] = dict(connection.execute(APPLIED).fetchall())
        done: list[str] = []
        for name, script in sorted(scripts.items()):
            digest = hashlib.sha256(script).hexdigest()
            if name in applied:
                if applied[name] != digest:
                    raise MigrationError(f"{name} was edited after it had been applied")
                continue
            with connection.transaction():
                connection.execute(script)
                connection.execute(RECORD, {"name": name, "digest": digest})
            done.append(name)
        return done

"""The database of the service: given, or embedded and started when it does not run; and its schema."""

import re
from contextlib import ExitStack

import psycopg
from psycopg.conninfo import conninfo_to_dict

from domain.errors import UnavailableError
from infrastructure.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from infrastructure.postgres.migrate import MigrationError, migrate
from interfaces.settings import SettingError, Settings

ERROR_CHARACTERS_MAX = 1000


def open_database(settings: Settings, stack: ExitStack) -> tuple[str, EmbeddedPostgres | None]:
    """The conninfo of the database that was given, or of the embedded one, started when it does not run.

    Raises SettingError for a URL or a directory that cannot be used, UnavailableError when PostgreSQL does not start.
    """
    if settings.database_url is not None:
        try:
            conninfo_to_dict(settings.database_url)
        except psycopg.ProgrammingError:
            # Without the cause: it repeats the URL, password included.
            raise SettingError("KEYLEDGER_DATABASE_URL is neither a libpq URL nor a conninfo") from None
        return settings.database_url, None
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        embedded = stack.enter_context(EmbeddedPostgres(settings.data_dir))
    except OSError as error:
        raise SettingError(f"KEYLEDGER_DATA_DIR: {settings.data_dir} cannot be used: {error.strerror}") from error
    except EmbeddedPostgresError as error:
        raise UnavailableError(_in_one_line(error)) from error
    return embedded.conninfo, embedded


def keep_running(embedded: EmbeddedPostgres | None) -> None:
    """Starts the embedded PostgreSQL again where it has ended; UnavailableError when it cannot be."""
    if embedded is None:
        return
    try:
        embedded.ensure_running()
    except EmbeddedPostgresError as error:
        raise UnavailableError(_in_one_line(error)) from error


def _in_one_line(error: EmbeddedPostgresError) -> str:
    return "; ".join(str(error).split("\n"))[:ERROR_CHARACTERS_MAX]


def migrate_database(conninfo: str) -> list[str]:
    """Brings the schema to this release; the names of the migrations applied. UnavailableError when it cannot."""
    try:
        return migrate(conninfo)
    except MigrationError as error:
        raise UnavailableError(str(error)) from error
    except psycopg.Error as error:
        what = error.diag.message_primary if error.sqlstate else None
        # Only what the server or the system said: the rest of libpq's text repeats parts of the conninfo.
        refusal = re.search(r"connection to server .* failed: (.+)", str(error))
        what = what or (refusal.group(1) if refusal else "no connection")
        raise UnavailableError(f"The database cannot be used: {what}") from error

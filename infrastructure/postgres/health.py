"""Can a key be verified and a row be left, do views, outbox and workflows follow, does a background process lead."""

from collections.abc import Callable

from application.verified_keys import VerifiedKeys
from domain.errors import UnavailableError
from infrastructure.postgres.pool import Database

NO_LEADER = "no background process leads"


class PostgresHealth:
    """The port `Health`: reads what authentication reads, and asks the access log, without which nothing is answered.

    ``takes_rows``: whether that log can be expected to take a request's row.
    """

    VERIFIABLE = "SELECT k.key_id FROM views.keys AS k JOIN credentials.verifiers AS v ON v.key_id = k.key_id LIMIT 1"
    VIEWS = """
        SELECT view, error FROM views.progress
        UNION ALL SELECT channel || '_outbox', error FROM outbox.progress
        UNION ALL SELECT workflow || '_workflow', error FROM workflow.progress ORDER BY 1
    """

    # By the advisory lock of infrastructure/scheduler.py.
    LEADS = """
        SELECT EXISTS (
            SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND classid = 0 AND objid = 7310308 AND granted
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        )
    """

    def __init__(self, database: Database, verified: VerifiedKeys, takes_rows: Callable[[], bool]) -> None:
        self._database = database
        self._verified = verified
        self._takes_rows = takes_rows

    def check(self) -> dict[str, str]:
        """Each following view, channel of the outbox and workflow with ``ok`` or why it stopped; ``leader``, too.

        UnavailableError when no key can be verified, or no request be logged.
        """
        if not self._verified.is_fresh:
            raise UnavailableError("Cannot prove that a key is still valid")
        if not self._takes_rows():
            raise UnavailableError("The access log cannot be written")
        with self._database.cursor() as cursor:
            cursor.execute(self.VERIFIABLE).fetchone()
            rows = cursor.execute(self.VIEWS).fetchall()
            leads = cursor.execute(self.LEADS).fetchone() == (True,)
        return {view: error or "ok" for view, error in rows} | {"leader": "ok" if leads else NO_LEADER}

"""Usage on PostgreSQL: the totals that move with each event, the history behind them, and the rows not yet settled."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from psycopg import Cursor
from psycopg.rows import TupleRow

from application.usage import EndedRun, LoggedRow, OpenRun
from application.usage_ports import KeyUsage, UseWindow
from domain.events import Event
from domain.ids import AccountId, KeyId, RunId
from domain.usage import Closed, KeysUsed, KeyUses, Started
from infrastructure.postgres.pool import Database


class UsageTotals:
    """The immediate view: totals of each key and watermark of each run, written in the transaction of the event.

    That transaction also takes the settled rows out of ``usage.live``, so no snapshot counts a row twice or not at all.
    Appends hold the ledger's lock, so two of them never meet on a key's row.
    """

    name = "usage_totals"

    START = """
        INSERT INTO usage.runs (run_id, version, settled_through, closed) VALUES (%(run_id)s, %(version)s, 0, false)
    """
    MOVE = """
        UPDATE usage.runs SET version = %(version)s, settled_through = %(last_row)s WHERE run_id = %(run_id)s
    """
    ADD = """
        INSERT INTO usage.totals AS t (key_id, requests, failed_attempts, first_used_at, last_used_at)
        SELECT key_id, requests, failed_attempts, first_used_at, last_used_at
        FROM unnest(%(key_ids)s::text[], %(requests)s::bigint[], %(failed_attempts)s::bigint[],
                    %(first_used_at)s::timestamptz[], %(last_used_at)s::timestamptz[])
            AS u (key_id, requests, failed_attempts, first_used_at, last_used_at)
        ON CONFLICT (key_id) DO UPDATE SET
            requests = t.requests + excluded.requests,
            failed_attempts = t.failed_attempts + excluded.failed_attempts,
            first_used_at = least(t.first_used_at, excluded.first_used_at),
            last_used_at = greatest(t.last_used_at, excluded.last_used_at)
    """
    # A window of live counts begins after `after_row`, and is settled whole in one transaction.
    FORGET_LIVE = "DELETE FROM usage.live WHERE run_id = %(run_id)s AND after_row < %(last_row)s"
    CLOSE = "UPDATE usage.runs SET version = %(version)s, closed = true WHERE run_id = %(run_id)s"
    CLEAR_TOTALS = "DELETE FROM usage.totals"
    CLEAR_RUNS = "DELETE FROM usage.runs"

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Writes what a run's event means."""
        del position
        values = {"run_id": event.originator_id, "version": event.originator_version}
        match event:
            case Started():
                cursor.execute(self.START, values)
            case KeysUsed():
                values["last_row"] = event.last_row
                cursor.execute(self.MOVE, values)
                cursor.execute(self.ADD, _columns(event.keys))
                cursor.execute(self.FORGET_LIVE, values)
            case Closed():
                cursor.execute(self.CLOSE, values)
            case _:
                pass

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """Deletes every row; ``usage.live`` stays, it holds what no event has settled."""
        cursor.execute(self.CLEAR_TOTALS)
        cursor.execute(self.CLEAR_RUNS)


class UsageHistory:
    """The following view: each key's settled windows."""

    name = "usage_history"

    ADD = """
        INSERT INTO usage.windows (
            key_id, position, run_id, window_start, window_end, requests, failed_attempts, first_used_at, last_used_at,
            details_root
        )
        SELECT key_id, %(position)s, %(run_id)s, %(window_start)s, %(window_end)s, requests, failed_attempts,
               first_used_at, last_used_at, %(details_root)s
        FROM unnest(%(key_ids)s::text[], %(requests)s::bigint[], %(failed_attempts)s::bigint[],
                    %(first_used_at)s::timestamptz[], %(last_used_at)s::timestamptz[])
            AS u (key_id, requests, failed_attempts, first_used_at, last_used_at)
    """
    CLEAR = "DELETE FROM usage.windows"

    def apply(self, cursor: Cursor[TupleRow], event: Event, position: int) -> None:
        """Writes one row for each key of a settled window."""
        if isinstance(event, KeysUsed):
            cursor.execute(
                self.ADD,
                _columns(event.keys)
                | {
                    "position": position,
                    "run_id": event.originator_id,
                    "window_start": event.window_start,
                    "window_end": event.window_end,
                    "details_root": event.details_root,
                },
            )

    def clear(self, cursor: Cursor[TupleRow]) -> None:
        """Deletes every row."""
        cursor.execute(self.CLEAR)


def _columns(keys: Sequence[KeyUses]) -> dict[str, object]:
    return {
        "key_ids": [key.key_id for key in keys],
        "requests": [key.requests for key in keys],
        "failed_attempts": [key.failed_attempts for key in keys],
        "first_used_at": [key.first_used_at for key in keys],
        "last_used_at": [key.last_used_at for key in keys],
    }


class PostgresUsage:
    """The port `UsageStats`.

    A key's request count is the number of its accepted uses, whatever their routes answered afterwards; its failed
    attempts are all other rows with its id (refused, a scope missing, a network not allowed).
    """

    OF_KEYS = """
        SELECT key_id, requests, failed_attempts, first_used_at, last_used_at FROM usage.counts_of(%(key_ids)s)
    """
    WINDOWS = """
        SELECT position, run_id, window_start, window_end, requests, failed_attempts, first_used_at, last_used_at,
               details_root
        FROM usage.windows WHERE key_id = %(key_id)s AND position > %(after)s ORDER BY position LIMIT %(limit)s
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_keys(self, key_ids: Sequence[KeyId]) -> dict[KeyId, KeyUsage]:
        """The usage of each; zeros for a key never presented."""
        usage = dict.fromkeys(key_ids, KeyUsage(0, 0, None, None))
        with self._database.cursor() as cursor:
            for key_id, *counts in cursor.execute(self.OF_KEYS, {"key_ids": list(key_ids)}):
                usage[KeyId(key_id)] = KeyUsage(*counts)
        return usage

    def windows(self, key_id: KeyId, *, after: int, limit: int) -> Sequence[UseWindow]:
        """The key's settled windows past that position, in ledger order."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.WINDOWS, {"key_id": key_id, "after": after, "limit": limit}).fetchall()
        return [UseWindow(position, RunId(run_id), *rest) for position, run_id, *rest in rows]


class PostgresSettlementRows:
    """The port `SettlementRows`."""

    # Waits for the writer's batch in flight, and that writer's next batch for this; the ledger's lock is not held.
    # Whatever rows of a window are not counted yet are counted before it ends, by a trigger.
    END_WINDOWS = """
        WITH over AS (
            SELECT run_id FROM usage.writers
            WHERE window_ends_at > '-infinity' AND (window_ends_at <= %(now)s OR window_ends_at > %(latest)s)
            ORDER BY run_id FOR UPDATE  -- in the same order as another settlement
        )
        UPDATE usage.writers AS w SET closed_through = w.written_through, window_ends_at = '-infinity'
        FROM over WHERE w.run_id = over.run_id
    """
    OPEN_RUNS = """
        SELECT w.run_id, w.host, w.started_at, coalesce(r.version, 0), coalesce(r.settled_through, 0),
               array(
                   SELECT DISTINCT l.after_row FROM usage.live AS l
                   WHERE l.run_id = w.run_id AND l.after_row > coalesce(r.settled_through, 0)
                     AND l.after_row < w.closed_through
                   ORDER BY l.after_row
               ) || w.closed_through
        FROM usage.writers AS w LEFT JOIN usage.runs AS r ON r.run_id = w.run_id
        WHERE w.closed_through > coalesce(r.settled_through, 0)
        ORDER BY w.run_id
    """
    ROWS = """
        SELECT seq, salt, occurred_at, method, endpoint, status, outcome, accepted, key_id, account_id, key_hash,
               client_ip, request_id
        FROM usage.access_log WHERE run_id = %(run_id)s AND seq > %(after)s AND seq <= %(through)s
        ORDER BY seq LIMIT %(limit)s
    """
    OWNERS = "SELECT key_id, account_id FROM views.keys WHERE key_id = ANY(%(key_ids)s)"
    END_RUNS = """
        DELETE FROM usage.writers AS w
        WHERE w.last_seen_at < %(silent_since)s
          AND w.written_through = coalesce((SELECT r.settled_through FROM usage.runs AS r WHERE r.run_id = w.run_id), 0)
    """
    ENDED_RUNS = """
        SELECT r.run_id, r.version, r.settled_through FROM usage.runs AS r
        WHERE NOT r.closed AND NOT EXISTS (SELECT FROM usage.writers AS w WHERE w.run_id = r.run_id)
        ORDER BY r.run_id
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def end_windows(self, now: datetime, latest: datetime) -> None:
        """Ends every window whose time is over at ``now``, or said to end after ``latest``."""
        with self._database.cursor() as cursor:
            cursor.execute(self.END_WINDOWS, {"now": now, "latest": latest})

    def open_runs(self) -> Sequence[OpenRun]:
        """The runs that have ended windows to settle."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.OPEN_RUNS).fetchall()
        return [
            OpenRun(RunId(run_id), host, started_at, version, settled_through, tuple(windows))
            for run_id, host, started_at, version, settled_through, windows in rows
        ]

    def rows(self, run_id: RunId, after: int, through: int, limit: int) -> Sequence[LoggedRow]:
        """The run's committed rows with ``after`` < number ≤ ``through``, in order, the first ``limit`` of them."""
        with self._database.cursor() as cursor:
            # Binary: two thirds of the time that text takes to read.
            values = {"run_id": run_id, "after": after, "through": through, "limit": limit}
            rows = cursor.execute(self.ROWS, values, binary=True).fetchall()
        # The ids stay plain text: only text and equality are asked of them, and a class for each costs 3 µs a row.
        return list(map(LoggedRow._make, rows))

    def owners(self, key_ids: Iterable[KeyId]) -> dict[KeyId, AccountId]:
        """The accounts of those of these keys that exist."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.OWNERS, {"key_ids": list(key_ids)}).fetchall()
        return {KeyId(key_id): AccountId(account_id) for key_id, account_id in rows}

    def end_runs(self, silent_since: datetime) -> Sequence[EndedRun]:
        """Ends the runs that have been silent since then and are settled; answers those whose stream is not closed."""
        with self._database.cursor() as cursor:
            cursor.execute(self.END_RUNS, {"silent_since": silent_since})
            rows = cursor.execute(self.ENDED_RUNS).fetchall()
        return [EndedRun(RunId(run_id), version, settled_through) for run_id, version, settled_through in rows]

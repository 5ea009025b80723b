"""`keyledger usage` and `keyledger logs`: how keys are used, in counts and row by row, for an operator."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Event as Flag

from application.usage_reports import Interval, LogFilter, LogLine, Place, UsageReports, path_filter, status_filter
from domain.errors import InvalidError
from interfaces.cli.exits import Exit
from interfaces.cli.paging import limit_of
from interfaces.cli.render import as_json, rfc3339, table
from interfaces.cli.session import Operator, operator
from interfaces.cli.terminal import plain, say, write
from interfaces.http.usage import AccessLogBody, AccessLogPage, LogPlaces, UsageBody
from interfaces.settings import Settings

SPARKS = "▁▂▃▄▅▆▇█"
SPARKS_MAX = 96
POLL_SECONDS = 1.0
FOLLOW_ROWS = 1_000
LATE = timedelta(seconds=5)
"""How much later than its time a row may be committed and still be followed; `commit` gives up after two seconds."""
LOG_COLUMNS = ("timestamp", "status", "method", "endpoint", "key id", "client ip", "request id")


def usage(arguments: Namespace, settings: Settings) -> int:
    """One key's counts over time: a sparkline, the sums, and a line for each bucket with requests."""
    with operator(settings) as op:
        view = op.key(arguments.id)
        buckets = op.manage.usage_reports.buckets(
            account_id=view.account_id,
            key_id=view.key_id,
            since=_instant("from", arguments.since),
            until=_instant("to", arguments.until),
            interval=Interval(arguments.interval),
        )
        body = UsageBody.of(buckets)
        write(as_json(body) if arguments.json else _shown(body))
    return Exit.OK


def logs(arguments: Namespace, settings: Settings) -> int:
    """The rows of an account or a key, newest first; with --follow the newest, oldest first, and then each as it comes.

    --follow goes on until it is interrupted.
    """
    limit = limit_of(arguments)
    with operator(settings) as op:
        rows = _filter(arguments, op)
        places = LogPlaces(op.cursors, rows)
        if arguments.follow:
            if arguments.cursor is not None or rows.until is not None:
                raise InvalidError.of("follow", "goes with neither --to nor --cursor")
            _follow(op, rows, limit=limit, json=arguments.json)
        scan = op.manage.usage_reports.page(rows, before=places.place(arguments.cursor), limit=limit)
        page = AccessLogPage([AccessLogBody.of(line) for line in scan.lines], places.cursor(scan.reached))
        if arguments.json:
            write(as_json(page))
            return Exit.OK
        write(table(LOG_COLUMNS, (_cells(row) for row in page.data)))
        if not page.data:
            say("nothing found" if page.next_cursor is None else "nothing found so far")
        if page.next_cursor is not None:
            say(f"there is more: --cursor {page.next_cursor}")
    return Exit.OK


def sparkline(counts: Sequence[int]) -> str:
    """A bar for each count, or for the sum of as many neighbours as make at most 96; the lowest bar is zero alone."""
    each = -(-len(counts) // SPARKS_MAX) or 1
    sums = [sum(counts[at : at + each]) for at in range(0, len(counts), each)]
    top = max(sums, default=0) or 1
    return "".join(SPARKS[-(-count * (len(SPARKS) - 1) // top)] for count in sums)


def _shown(body: UsageBody) -> str:
    lines = [
        f"requests  {sparkline([each.requests for each in body.data])}  {body.totals.requests}",
        f"failed    {sparkline([each.failed_attempts for each in body.data])}  {body.totals.failed_attempts}",
    ]
    busy = [each for each in body.data if each.requests or each.failed_attempts]
    rows = ((each.start, each.requests, each.failed_attempts, *each.statuses.values()) for each in busy)
    shown = table(("start", "requests", "failed", "2xx", "3xx", "4xx", "5xx"), rows)
    return "".join(f"{line}\n" for line in lines) + shown


def _filter(arguments: Namespace, op: Operator) -> LogFilter:
    if arguments.key is None:
        rows = LogFilter(op.account(arguments.account).account_id)
    else:
        view = op.key(arguments.key)
        rows = LogFilter(view.account_id, view.key_id)
    rows = path_filter(status_filter(rows, arguments.status), arguments.path)
    return replace(rows, since=_instant("from", arguments.since), until=_instant("to", arguments.until))


def _follow(op: Operator, rows: LogFilter, *, limit: int, json: bool) -> None:
    reports, clock, pause = op.manage.usage_reports, op.manage.clock, Flag()
    asked = clock.now()
    first = reports.page(rows, before=None, limit=limit).lines
    _tell(first[::-1], json=json)
    seen = {line.place for line in first}
    floor = first[-1].place.at if first else asked
    while True:
        pause.wait(POLL_SECONDS)
        # Behind the last reading and not behind now: who reads the lines may have paused us for any time.
        since, asked = max(floor, asked - LATE), clock.now()
        found = list(_since(reports, replace(rows, since=since)))
        _tell([line for line in reversed(found) if line.place not in seen], json=json)
        seen = {line.place for line in found}


def _since(reports: UsageReports, rows: LogFilter) -> Iterator[LogLine]:
    """All rows of the filter, newest first."""
    before: Place | None = None
    while True:
        scan = reports.page(rows, before=before, limit=FOLLOW_ROWS)
        yield from scan.lines
        before = scan.reached
        if before is None:
            return


def _tell(lines: Sequence[LogLine], *, json: bool) -> None:
    bodies = [AccessLogBody.of(line) for line in lines]
    texts = (as_json(body) if json else _line(body) for body in bodies)
    write("".join(texts))


def _line(body: AccessLogBody) -> str:
    return "  ".join(plain(str(cell)) for cell in _cells(body)) + "\n"


def _cells(row: AccessLogBody) -> tuple[str, ...]:
    named = (row.key_id or "-", row.client_ip or "-", row.request_id)
    return rfc3339(row.timestamp), str(row.status), row.method, row.endpoint, *named


def _instant(field: str, text: str | None) -> datetime | None:
    """The instant of an option as it was typed; whether it has an offset is the use case's question."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidError.of(field, "must be a time, as 2027-01-31T00:00:00Z") from error

"""``/api/keys/{id}/usage`` and ``/api/access-logs``: how a key is used, in counts and row by row."""

import csv
import hashlib
import io
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from threading import BoundedSemaphore
from typing import Annotated, Any, Self

import msgspec
from litestar import MediaType, Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Operation, Schema
from litestar.params import FromPath, FromQuery, QueryParameter

from application.authentication import Need
from application.keys import UNKNOWN_KEY
from application.ports import Cursors
from application.usage_reports import (
    EXPORT_ROWS_MAX,
    Bucket,
    Interval,
    LogFilter,
    LogLine,
    LogScan,
    Place,
    UsageReports,
    path_filter,
    status_filter,
)
from domain.access import Scope
from domain.errors import MalformedError, NotFoundError, UnavailableError
from domain.ids import KeyId, MalformedIdError
from interfaces.http.caller import Caller
from interfaces.http.paging import LIMIT_DEFAULT, Cursor, GivenCursors, Limit
from interfaces.http.schema import ERRORS

Reports = NamedDependency[UsageReports]
READ = {"need": Need(scope=Scope.parse("keys:read"))}
Since = Annotated[datetime | None, QueryParameter(name="from", description="RFC 3339 with an offset; included.")]
Until = Annotated[datetime | None, QueryParameter(name="to", description="RFC 3339 with an offset; excluded.")]
_FORMULA = r"[ \"]*[=+\-@\uff1d\uff0b\uff0d\uff20]"  # also in their full width
FORMULA_START = re.compile(rf"[\t\r\n]|{_FORMULA}")
FORMULA_BEHIND = re.compile(rf"[;,|\t\r\n](?={_FORMULA})")
EXPORTS_MAX = 2  # at once in a process: each is whole in memory
EXPORT_WAIT_SECONDS = 2.0
EXPORT_RETRY = timedelta(seconds=5)
QVALUE = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_encode = msgspec.json.Encoder().encode
_exports = BoundedSemaphore(EXPORTS_MAX)


class ExportFormat(StrEnum):
    """How an export is written; `json` is a page and no export."""

    JSON = "json"
    CSV = "csv"
    JSONL = "jsonl"


CONTENT_TYPES = {ExportFormat.CSV: "text/csv", ExportFormat.JSONL: "application/jsonl"}
_TEXT = Schema(type=OpenAPIType.STRING)


@dataclass
class ExportOperation(Operation):
    """An operation whose answer is also given in the forms of an export; Litestar knows of one media type."""

    def __post_init__(self) -> None:
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse) and answer.content is not None:
            answer.content |= {kind: OpenAPIMediaType(schema=_TEXT) for kind in CONTENT_TYPES.values()}


class BucketBody(msgspec.Struct):
    """One bucket: `requests` are accepted uses, `failed_attempts` all else; `statuses` count the answers of both."""

    start: datetime
    requests: int
    failed_attempts: int
    statuses: dict[str, int]

    @classmethod
    def of(cls, bucket: Bucket) -> Self:
        """The body of a bucket."""
        classes = zip(("2xx", "3xx", "4xx", "5xx"), bucket.statuses, strict=True)
        return cls(bucket.start, bucket.requests, bucket.failed_attempts, dict(classes))


class UsageTotalsBody(msgspec.Struct):
    """The sums of the buckets."""

    requests: int
    failed_attempts: int


class UsageBody(msgspec.Struct):
    """A key's use over time, oldest first, without gaps."""

    data: list[BucketBody]
    totals: UsageTotalsBody

    @classmethod
    def of(cls, buckets: Sequence[Bucket]) -> Self:
        """The body of these buckets."""
        totals = UsageTotalsBody(
            sum(bucket.requests for bucket in buckets), sum(bucket.failed_attempts for bucket in buckets)
        )
        return cls([BucketBody.of(bucket) for bucket in buckets], totals)


class AccessLogBody(msgspec.Struct):
    """One request, as it was answered. ``key_id`` and ``key_hash`` name the key that was presented."""

    timestamp: datetime
    method: str
    endpoint: str
    status: int
    key_id: str | None
    key_hash: str | None
    client_ip: str | None
    request_id: str

    @classmethod
    def of(cls, line: LogLine) -> Self:
        """The body of a row."""
        return cls(
            line.place.at,
            line.method,
            line.endpoint,
            line.status,
            line.key_id,
            line.key_hash,
            line.client_ip,
            line.request_id,
        )


class AccessLogPage(msgspec.Struct):
    """One page of the access log; ``next_cursor`` is null on the last. A page may be short, and others follow it."""

    data: list[AccessLogBody]
    next_cursor: str | None


class LogPlaces:
    """Turns places in one filter's listing into cursors and back; a cursor fits no other filter or account."""

    def __init__(self, cursors: Cursors, rows: LogFilter) -> None:
        self._cursors = cursors
        self._listing = hashlib.sha256(repr(rows).encode()).hexdigest()[:32]

    def place(self, cursor: str | None) -> Place | None:
        """The place that a cursor stands for, None for the beginning; MalformedError for any other text."""
        if cursor is None:
            return None
        payload = self._cursors.open_cursor(cursor)
        words = (payload or b"").decode().split(" ")
        if words[:2] != ["access-logs", self._listing]:
            raise MalformedError("The cursor does not belong to this list")
        _, _, at, run_id, seq = words
        return Place(datetime.fromisoformat(at), run_id, int(seq))

    def cursor(self, place: Place | None) -> str | None:
        """The cursor of what stands behind that place; None for None."""
        if place is None:
            return None
        words = ("access-logs", self._listing, place.at.isoformat(), place.run_id, str(place.seq))
        return self._cursors.seal_cursor(" ".join(words).encode())


@get("/api/keys/{key_id:str}/usage", opt=READ, responses=ERRORS, sync_to_thread=True, summary="A key's use over time")
def get_key_usage(  # noqa: PLR0913, PLR0917 - a report's bounds arrive as arguments
    key_id: FromPath[str],
    caller: Caller,
    usage_reports: Reports,
    since: Since = None,
    until: Until = None,
    interval: FromQuery[Interval] = Interval.HOUR,
) -> UsageBody:
    """The key's counts by minute, hour or day of UTC, exact to the last request answered.

    Whole buckets, from the one that holds `from` to the last that begins before `to`; by default the 24 until now.
    """
    buckets = usage_reports.buckets(
        account_id=caller.account_id, key_id=_key_id(key_id), since=since, until=until, interval=interval
    )
    return UsageBody.of(buckets)


@get(
    "/api/access-logs",
    opt=READ,
    responses={**ERRORS, 200: ResponseSpec(AccessLogPage, description="One page", generate_examples=False)},
    sync_to_thread=True,
    operation_class=ExportOperation,
    summary="Read the access log",
)
def list_access_logs(  # noqa: PLR0913, PLR0917 - a listing's filters arrive as arguments
    request: Request[Any, Any, Any],
    caller: Caller,
    usage_reports: Reports,
    cursors: GivenCursors,
    key_id: FromQuery[str | None] = None,
    row_status: Annotated[str | None, QueryParameter(name="status", description="`404`, or a class: `4xx`.")] = None,
    endpoint: Annotated[
        str | None, QueryParameter(name="path", max_length=512, description="An endpoint, or a prefix and `*`.")
    ] = None,
    since: Since = None,
    until: Until = None,
    export: Annotated[ExportFormat | None, QueryParameter(name="format")] = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Response[Any]:
    """The requests made with the account's keys, newest first, also the refused ones that only name one of them.

    With `format` `csv` or `jsonl`, or such an `Accept`, all rows of the filter, at most 100,000: `X-Next-Cursor` is
    there when there are more, and as `cursor` continues the export.
    """
    rows = LogFilter(caller.account_id, None if key_id is None else _key_id(key_id), since=since, until=until)
    rows = path_filter(status_filter(rows, row_status), endpoint)
    places = LogPlaces(cursors, rows)
    before = places.place(cursor)
    form = export or _accepted(request.headers.get("accept", ""))
    if form is ExportFormat.JSON:
        scan = usage_reports.page(rows, before=before, limit=limit)
        page = AccessLogPage([AccessLogBody.of(line) for line in scan.lines], places.cursor(scan.reached))
        return Response(page, headers={"Vary": "Accept"})
    return exported(form, usage_reports.export(rows, before=before), places)


def usage_router() -> Router:
    """The routes of this module."""
    return Router("/", route_handlers=[get_key_usage, list_access_logs], tags=["Usage"])


def csv_safe(value: object) -> str:
    """The cell's text; what a spreadsheet would run as a formula begins with an apostrophe (OWASP, CSV injection).

    A spreadsheet may split lines at another separator than ours, so the text is looked at behind each of them, too.
    """
    text = "" if value is None else str(value)
    if FORMULA_BEHIND.search(text):  # hardly ever, and a search takes a fifth of a substitution's time
        text = FORMULA_BEHIND.sub(r"\g<0>'", text)
    return f"'{text}" if FORMULA_START.match(text) else text


def exported(form: ExportFormat, scans: Iterable[LogScan], places: LogPlaces) -> Response[bytes]:
    """The answer with all rows of the scans; UnavailableError when others are being written, for longer than we wait.

    Whole, and not as a stream: the gate holds an answer back until its access row is committed.
    """
    out = io.BytesIO()
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    write_row = csv.writer(text, quoting=csv.QUOTE_ALL).writerow
    count, reached = 0, None
    with _one_of_few():
        if form is ExportFormat.CSV:
            write_row(AccessLogBody.__struct_fields__)
        for scan in scans:
            count, reached = count + len(scan.lines), scan.reached
            for line in scan.lines:
                body = AccessLogBody.of(line)
                if form is ExportFormat.CSV:
                    write_row(map(csv_safe, msgspec.to_builtins(body).values()))
                else:
                    out.write(_encode(body) + b"\n")
    headers = {
        "Content-Disposition": f'attachment; filename="access-log.{form}"',
        "Vary": "Accept",
        "X-Row-Count": str(count),
        "X-Row-Limit": str(EXPORT_ROWS_MAX),
    }
    more = places.cursor(reached)
    if more is not None:
        headers["X-Next-Cursor"] = more
    return Response(out.getvalue(), media_type=CONTENT_TYPES[form], headers=headers)


@contextmanager
def _one_of_few() -> Generator[None]:
    if not _exports.acquire(timeout=EXPORT_WAIT_SECONDS):
        raise UnavailableError("Too many exports at once", retry_after=EXPORT_RETRY)
    try:
        yield
    finally:
        _exports.release()


def _accepted(accept: str) -> ExportFormat:
    """The form that an ``Accept`` weighs most (RFC 9110 section 12.5.1); JSON among equals, and for none."""
    named = accept.lower().replace("application/x-ndjson", CONTENT_TYPES[ExportFormat.JSONL])
    weights = dict(_weighed(part) for part in named.split(","))

    def weight(form: ExportFormat) -> float:
        kind = CONTENT_TYPES.get(form, MediaType.JSON.value)
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((weights[each] for each in ranges if each in weights), 0.0)

    return max(ExportFormat, key=weight)


def _weighed(part: str) -> tuple[str, float]:
    kind, *parameters = (word.strip() for word in part.split(";"))
    weight = next((each.removeprefix("q=") for each in parameters if each.startswith("q=")), "1")
    return kind, float(weight) if QVALUE.fullmatch(weight) else 0.0


def _key_id(text: str) -> KeyId:
    try:
        return KeyId.parse(text)
    except MalformedIdError as error:
        raise NotFoundError(UNKNOWN_KEY) from error

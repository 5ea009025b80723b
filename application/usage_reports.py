"""What owners read of their keys' use: counts by minute, hour or day, and the rows of the access log."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

from application.keys import UNKNOWN_KEY
from application.ports import Clock, Keys
from domain.errors import InvalidError, NotFoundError
from domain.ids import AccountId, KeyId

BUCKETS_MAX = 1_500
BUCKETS_DEFAULT = 24
EXPORT_ROWS_MAX = 100_000
EXPORT_SCANS_MAX = 200


class Interval(StrEnum):
    """How wide a bucket is; all begin at whole minutes, hours or days of UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def width(self) -> timedelta:
        """The time from one bucket's start to the next one's."""
        return timedelta(**{f"{self.value}s": 1})

    def start_of(self, at: datetime) -> datetime:
        """The start of the bucket that the instant lies in."""
        at = at.astimezone(UTC).replace(second=0, microsecond=0)
        if self is not Interval.MINUTE:
            at = at.replace(minute=0)
        return at.replace(hour=0) if self is Interval.DAY else at


@dataclass(frozen=True, slots=True)
class Bucket:
    """The rows of one key with ``start`` ≤ time < start + width.

    ``requests`` are accepted uses, ``failed_attempts`` all other rows with the key's id; ``statuses`` are the rows
    answered 2xx, 3xx, 4xx and 5xx.
    """

    start: datetime
    requests: int
    failed_attempts: int
    statuses: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands in the log's order: by time, then by its writer's run and its number there."""

    at: datetime
    run_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which rows; None is any. ``since`` ≤ time < ``until``.

    ``statuses``: the first and last status, both included. ``path``: the endpoint, or all that begin with it when
    ``is_prefix``.
    """

    account_id: AccountId
    key_id: KeyId | None = None
    statuses: tuple[int, int] | None = None
    path: str | None = None
    is_prefix: bool = False
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """A row as its owner reads it. ``key_hash`` None: imported rows without; ``client_ip`` None: unknown."""

    place: Place
    method: str
    endpoint: str
    status: int
    key_id: str | None
    key_hash: str | None
    client_ip: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class LogScan:
    """Matching rows, newest first. ``reached`` is where looking ended without having seen all; None at the log's end.

    A filter that little matches is looked for in a bounded number of rows, so a scan may have few lines, or none, and
    more to come.
    """

    lines: Sequence[LogLine]
    reached: Place | None


class UsageRows(Protocol):
    """The access log and its counts, read."""

    def buckets(self, key_id: KeyId, interval: Interval, start: datetime, end: datetime) -> Sequence[Bucket]:
        """The key's buckets with ``start`` ≤ their start < ``end``, without the empty ones, oldest first."""
        ...

    def scan(self, rows: LogFilter, *, before: Place | None, limit: int) -> LogScan:
        """At most ``limit`` matching rows that stand before that place, newest first."""
        ...


class UsageReports:
    """The owner's side of the access log. Another account's key is the same NotFoundError as one that never was."""

    def __init__(self, *, keys: Keys, rows: UsageRows, clock: Clock) -> None:
        self._keys = keys
        self._rows = rows
        self._clock = clock

    def buckets(
        self,
        *,
        account_id: AccountId,
        key_id: KeyId,
        since: datetime | None,
        until: datetime | None,
        interval: Interval,
    ) -> Sequence[Bucket]:
        """Every bucket from the one that holds ``since`` to the last that begins before ``until``, empty ones too.

        Without ``since`` the 24 buckets that end with the last of them; without ``until`` that is the current one.
        InvalidError for naive times, times out of order, and more than BUCKETS_MAX buckets.
        """
        self._check_owner(account_id, key_id)
        _check_times(since, until)
        try:
            end = interval.start_of(self._clock.now()) + interval.width if until is None else until.astimezone(UTC)
            if since is None:
                last = interval.start_of(end - timedelta.resolution)  # the last that begins before the end
                start = last - (BUCKETS_DEFAULT - 1) * interval.width
            else:
                start = interval.start_of(since)
        except OverflowError as error:
            raise InvalidError.of("from", "must be in the years 1 to 9999 in UTC") from error
        if start >= end:
            raise InvalidError.of("from", "must be before to")
        if end - start > BUCKETS_MAX * interval.width:
            raise InvalidError.of("interval", f"must not make more than {BUCKETS_MAX} buckets of the time asked for")
        found = {bucket.start: bucket for bucket in self._rows.buckets(key_id, interval, start, end)}
        count = -((start - end) // interval.width)
        starts = (start + number * interval.width for number in range(count))
        return [found.get(each) or Bucket(each, 0, 0, (0, 0, 0, 0)) for each in starts]

    def page(self, rows: LogFilter, *, before: Place | None, limit: int) -> LogScan:
        """At most ``limit`` rows of the account before that place, newest first; fewer does not mean the end."""
        self._check(rows)
        return self._rows.scan(rows, before=before, limit=limit)

    def export(self, rows: LogFilter, *, before: Place | None) -> Iterator[LogScan]:
        """The rows in scans, up to EXPORT_ROWS_MAX rows; the last scan's ``reached`` says whether they are all.

        Rows that arrive meanwhile are not in it. The filter is checked here, not at the first scan.
        """
        self._check(rows)
        return self._scans(rows, before)

    def _scans(self, rows: LogFilter, before: Place | None) -> Iterator[LogScan]:
        left = EXPORT_ROWS_MAX
        for _ in range(EXPORT_SCANS_MAX):
            scan = self._rows.scan(rows, before=before, limit=min(left, EXPORT_ROWS_MAX // EXPORT_SCANS_MAX * 2))
            yield scan
            left -= len(scan.lines)
            before = scan.reached
            if before is None or left <= 0:
                return

    def _check(self, rows: LogFilter) -> None:
        if rows.key_id is not None:
            self._check_owner(rows.account_id, rows.key_id)
        _check_times(rows.since, rows.until)

    def _check_owner(self, account_id: AccountId, key_id: KeyId) -> None:
        view = self._keys.find(key_id)
        if view is None or view.account_id != account_id:
            raise NotFoundError(UNKNOWN_KEY)


def path_filter(rows: LogFilter, text: str | None) -> LogFilter:
    """With the endpoint `text`, or with the prefix before its trailing `*`; None is any."""
    if text is None:
        return rows
    if "\0" in text:
        raise InvalidError.of("path", "must not hold a NUL character")
    return replace(rows, path=text.removesuffix("*"), is_prefix=text.endswith("*"))


def status_filter(rows: LogFilter, text: str | None) -> LogFilter:
    """With one status, `404`, or one class of them, `4xx`; None is any."""
    if text is None:
        return rows
    if len(text) != 3 or not text.isascii() or text[0] not in "12345" or not (text[1:].isdigit() or text[1:] == "xx"):  # noqa: PLR2004 - digits of a status
        raise InvalidError.of("status", "must be a status like 404, or a class like 4xx")
    if text.endswith("xx"):
        return replace(rows, statuses=(int(text[0]) * 100, int(text[0]) * 100 + 99))
    return replace(rows, statuses=(int(text), int(text)))


def _check_times(since: datetime | None, until: datetime | None) -> None:
    for field, at in (("from", since), ("to", until)):
        if at is None:
            continue
        if at.tzinfo is None:
            raise InvalidError.of(field, "must have an offset from UTC, such as Z")
        try:
            at.astimezone(UTC)
        except OverflowError as error:
            raise InvalidError.of(field, "must be in the years 1 to 9999 in UTC") from error
    if since is not None and until is not None and since >= until:
        raise InvalidError.of("from", "must be before to")

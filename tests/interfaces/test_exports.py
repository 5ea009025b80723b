"""Exports of the access log are whole in memory, so only some are written at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest

from application.usage_reports import LogFilter, LogLine, LogScan, Place
from domain.errors import UnavailableError
from interfaces.http import usage
from interfaces.http.usage import EXPORTS_MAX, ExportFormat, LogPlaces, exported
from tests.kit.builders import NOON, account_id

SECONDS_MAX = 30
LINE = LogLine(Place(NOON, "run_1", 1), "GET", "/ä", 200, None, None, None, "req_1")


class Sealed:
    """Cursors that nobody opens."""

    def seal_cursor(self, payload: bytes) -> str:
        """The port's."""
        return payload.hex()

    def open_cursor(self, cursor: str) -> bytes | None:
        """The port's."""
        return bytes.fromhex(cursor)


PLACES = LogPlaces(Sealed(), LogFilter(account_id()))


def test_one_export_too_many_is_refused_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """While as many as may be are written another waits and is told when to come again; then it is its turn.

    One that breaks off leaves its place as well.
    """
    monkeypatch.setattr(usage, "EXPORT_WAIT_SECONDS", 0.05)
    begun, go_on = Barrier(EXPORTS_MAX + 1), Event()

    def slow() -> Iterator[LogScan]:
        begun.wait(SECONDS_MAX)
        assert go_on.wait(SECONDS_MAX)
        yield LogScan([LINE], None)

    def broken() -> Iterator[LogScan]:
        raise UnavailableError("The database is gone")
        yield

    with ThreadPoolExecutor(EXPORTS_MAX) as threads:
        try:
            slow_ones = [threads.submit(exported, ExportFormat.JSONL, slow(), PLACES) for _ in range(EXPORTS_MAX)]
            begun.wait(SECONDS_MAX)
            with pytest.raises(UnavailableError, match="Too many exports") as refused:
                exported(ExportFormat.CSV, [], PLACES)
        finally:
            go_on.set()
        assert refused.value.retry_after == usage.EXPORT_RETRY
        assert [each.result(SECONDS_MAX).headers["X-Row-Count"] for each in slow_ones] == ["1", "1"]
    for _ in range(EXPORTS_MAX + 1):
        with pytest.raises(UnavailableError, match="gone"):
            exported(ExportFormat.CSV, broken(), PLACES)
    assert exported(ExportFormat.CSV, [LogScan([LINE], None)], PLACES).content.decode().endswith('"req_1"\r\n')


@pytest.mark.parametrize("form", [ExportFormat.CSV, ExportFormat.JSONL])
def test_an_export_is_bytes_to_its_last_row(form: ExportFormat) -> None:
    """UTF-8, nothing held back in a buffer."""
    content = exported(form, [LogScan([LINE], None)] * 3, PLACES).content
    assert content.count("/ä".encode()) == 3
    assert content.endswith(b"\n")

"""What a process counts of itself, in memory: requests, jobs, and the sizes of what it holds.

A request costs the hot path one append; adding up is done once a second, by the thread that tells PostgreSQL. Labels
are bounded: route templates, statuses, verdicts and job names, and never a key, an account or an address.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

BUCKETS_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
RequestKind = tuple[str, int, str]
"""Route template, status, outcome; an empty text where there is none."""


class Metrics:
    """One process's counters, which only grow, and gauges, which are asked when they are told."""

    def __init__(self) -> None:
        self._requests: list[tuple[RequestKind, float]] = []
        self.count_request = self._requests.append
        """Counts a request: its kind, and its milliseconds. From any thread."""
        self._jobs: list[tuple[str, str, float]] = []
        self._counters: dict[str, float] = defaultdict(float)
        self._gauges: dict[str, Callable[[], float]] = {}
        self._totals: dict[str, Callable[[], float]] = {}

    def count_job(self, name: str, result: str, seconds: float) -> None:
        """Counts a run of a job; ``result`` is ``done``, ``postponed`` or ``failed``."""
        self._jobs.append((name, result, seconds))

    def watch(
        self, *, gauges: Mapping[str, Callable[[], float]], totals: Mapping[str, Callable[[], float]] | None = None
    ) -> None:
        """Tells these, too, by the names of their series; ``totals`` only grow."""
        self._gauges |= gauges
        self._totals |= totals or {}

    def gauges(self) -> dict[str, float]:
        """The gauges now."""
        return {series: read() for series, read in self._gauges.items()}

    def counters(self) -> dict[str, float]:
        """The counters up to now; called by one thread alone."""
        self._add_requests()
        self._add_jobs()
        return self._counters | {series: read() for series, read in self._totals.items()}

    def _add_requests(self) -> None:
        # What is appended meanwhile stays behind these: both steps are single ones of the interpreter.
        taken = self._requests[:]
        del self._requests[: len(taken)]
        milliseconds: dict[RequestKind, list[float]] = defaultdict(list)
        for kind, duration in taken:
            milliseconds[kind].append(duration)
        for (route, status, outcome), durations in milliseconds.items():
            self._counters[f'keyledger_requests_total{{route="{route}",status="{status}",outcome="{outcome}"}}'] += len(
                durations
            )
            self._add_durations(route, durations)

    def _add_durations(self, route: str, milliseconds: list[float]) -> None:
        milliseconds.sort()
        name = "keyledger_request_seconds"
        for seconds in BUCKETS_SECONDS:
            below = bisect_right(milliseconds, seconds * 1000)
            self._counters[f'{name}_bucket{{route="{route}",le="{seconds}"}}'] += below
        self._counters[f'{name}_bucket{{route="{route}",le="+Inf"}}'] += len(milliseconds)
        self._counters[f'{name}_count{{route="{route}"}}'] += len(milliseconds)
        self._counters[f'{name}_sum{{route="{route}"}}'] += sum(milliseconds) / 1000

    def _add_jobs(self) -> None:
        taken = self._jobs[:]
        del self._jobs[: len(taken)]
        for name, result, seconds in taken:
            self._counters[f'keyledger_job_runs_total{{job="{name}",result="{result}"}}'] += 1
            self._counters[f'keyledger_job_seconds_total{{job="{name}"}}'] += seconds

"""What a process counts of itself, in memory: requests, jobs, and the sizes of what it holds.

Requests are added up in batches, by the thread that writes their lines (`infrastructure/request_log.py`). Labels are
bounded: route templates, statuses, verdicts and job names, and never a key, an account or an address. A job's label is
`task`: `job` and `instance` are Prometheus' own, for whom it asks.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, repeat
from threading import Lock
from typing import Final

BUCKETS_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_BUCKETS_MS: Final = tuple(seconds * 1000 for seconds in BUCKETS_SECONDS)


class Metrics:
    """One process's counters, which only grow, and gauges, which are asked when they are told."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int, str, int], int] = defaultdict(int)  # the last is the duration's bucket
        self._milliseconds: dict[str, float] = defaultdict(float)
        self._lock = Lock()
        self._jobs: list[tuple[str, str, float]] = []
        self._deliveries: list[tuple[str, str, float]] = []
        self._waits: list[float] = []
        self._counters: dict[str, float] = defaultdict(float)
        self._gauges: dict[str, Callable[[], float]] = {}
        self._totals: dict[str, Callable[[], float]] = {}

    def count_requests(self, route: str, status: int, outcome: str, milliseconds: Sequence[float]) -> None:
        """Counts requests of one route template, status and outcome, each an empty text where there is none."""
        buckets = Counter(map(bisect_left, repeat(_BUCKETS_MS), milliseconds))
        with self._lock:
            for bucket, number in buckets.items():
                self._requests[route, status, outcome, bucket] += number
            self._milliseconds[route] += sum(milliseconds)

    def count_job(self, name: str, result: str, seconds: float) -> None:
        """Counts a run of a job; ``result`` is ``done``, ``postponed`` or ``failed``."""
        self._jobs.append((name, result, seconds))

    def count_delivery(self, channel: str, result: str, seconds: float) -> None:
        """Counts an attempt to bring a message to its receiver; ``result`` is as the outbox names it."""
        self._deliveries.append((channel, result, seconds))

    def count_wait(self, seconds: float) -> None:
        """Counts a change to a key that has waited so long for every process to apply it."""
        self._waits.append(seconds)

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
        self._add_jobs()
        self._add_deliveries()
        self._add_waits()
        return self._counters | self._request_counters() | {series: read() for series, read in self._totals.items()}

    def _request_counters(self) -> dict[str, float]:
        with self._lock:
            requests, milliseconds = self._requests.copy(), self._milliseconds.copy()
        counters: dict[str, float] = defaultdict(float)
        buckets: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_SECONDS) + 1))
        for (route, status, outcome, bucket), count in requests.items():
            counters[f'keyledger_requests_total{{route="{route}",status="{status}",outcome="{outcome}"}}'] += count
            buckets[route][bucket] += count
        name = "keyledger_request_seconds"
        for route, counts in buckets.items():
            for bound, below in zip((*BUCKETS_SECONDS, "+Inf"), accumulate(counts), strict=True):
                counters[f'{name}_bucket{{route="{route}",le="{bound}"}}'] = below
            counters[f'{name}_count{{route="{route}"}}'] = sum(counts)
            counters[f'{name}_sum{{route="{route}"}}'] = milliseconds[route] / 1000
        return counters

    def _add_jobs(self) -> None:
        taken = self._jobs[:]
        del self._jobs[: len(taken)]
        for name, result, seconds in taken:
            self._counters[f'keyledger_job_runs_total{{task="{name}",result="{result}"}}'] += 1
            self._counters[f'keyledger_job_seconds_total{{task="{name}"}}'] += seconds

    def _add_waits(self) -> None:
        taken = self._waits[:]
        del self._waits[: len(taken)]
        name = "keyledger_change_wait_seconds"
        for seconds in taken:
            for bound in BUCKETS_SECONDS[bisect_left(BUCKETS_SECONDS, seconds) :]:
                self._counters[f'{name}_bucket{{le="{bound}"}}'] += 1
            self._counters[f'{name}_bucket{{le="+Inf"}}'] += 1
            self._counters[f"{name}_count"] += 1
            self._counters[f"{name}_sum"] += seconds

    def _add_deliveries(self) -> None:
        taken = self._deliveries[:]
        del self._deliveries[: len(taken)]
        for channel, result, seconds in taken:
            self._counters[f'keyledger_deliveries_total{{channel="{channel}",result="{result}"}}'] += 1
            self._counters[f'keyledger_delivery_seconds_total{{channel="{channel}"}}'] += seconds

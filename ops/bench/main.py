"""Measures Keyledger and its peers in one run, and writes what it saw: `ops/bench/run` starts it.

    (a) a route with and without authentication      (e) a thousand to a million keys
    (b) /auth/forward against a bare answer          (f) revokes under load, and beside a stopped worker
    (c) the peers                                    (g) a flood of forged keys
    (d) one and two workers                          timing: how long refusals take
    usage: what the access log costs                 shape: what its reports cost when it is long

The server under test has core 0 for itself; the load, PostgreSQL and the background process have core 1. A whole run
writes ops/performance.md and ops/performance.svg; any other writes into --data, or with --publish there, too: the page
tells of the cases that were run, and of full rounds alone. Exit code 1: a check failed.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
from bench import Bench, say
from cases_flood import flood
from cases_peers import peers
from cases_revoke import revoke
from cases_routes import forward, route, workers
from cases_shape import shape
from cases_sizes import sizes
from cases_timing import timing
from cases_usage import usage
from plot import plot
from report import report

from infrastructure.embedded_postgres import EmbeddedPostgres

CASES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "a": route, "b": forward, "c": peers, "d": workers, "e": sizes, "f": revoke, "g": flood, "timing": timing,
    "usage": usage, "shape": shape,
}  # fmt: skip
OPS = machine.CHECKOUT / "ops"
VAR = machine.CHECKOUT / "var"
RESULTS = "results.json"
ALONE = ("timing", "usage", "shape")
ROWS, ROWS_QUICK = 20_000_000, 1_000_000


def main() -> int:
    """One run."""
    options = _options()
    whole = not options.quick and set(options.cases) == set(CASES)
    if not options.report:
        _run(options)
    results = json.loads((options.data / RESULTS).read_text(encoding="utf-8"))
    if not options.keep:
        # With --report, of the last results those of the cases that are asked for.
        results["cases"] = {name: case for name, case in results["cases"].items() if name in options.cases}
    if options.publish and results["quick"]:
        raise SystemExit("bench: the figures of --quick are not published")
    place = OPS if whole or options.publish else options.data
    (place / "performance.md").write_text(report(results), encoding="utf-8")
    (place / "performance.svg").write_text(plot(results["cases"]), encoding="utf-8")
    say(f"written: {place / 'performance.md'}")
    for problem, times in Counter(results["problems"]).items():
        print(f"bench: DOES NOT HOLD: {problem}{f' ({times} times)' if times > 1 else ''}", file=sys.stderr)
    return 1 if results["problems"] else 0


def _run(options: argparse.Namespace) -> None:
    """Runs the cases; after each, all results so far are written."""
    if not os.sched_getaffinity(0) >= machine.BOTH_CORES:
        raise SystemExit("bench: cores 0 and 1 are needed, one for the server and one for the load")
    os.sched_setaffinity(0, machine.LOAD_CORES)
    before = machine.load_average()
    if before > 0.5:  # noqa: PLR2004 - of two
        say(f"the load average is {before:.2f}: others use this machine, and will be in the figures")
    began = time.monotonic()
    with machine.one_scheduling_group() as is_one, EmbeddedPostgres(options.data) as postgres:
        pid = int((options.data / "postgres" / "postmaster.pid").read_text(encoding="ascii").split()[0])
        bench = Bench(options.data, options.peers, postgres.conninfo, pid, options.quick, options.rows)
        described = machine.describe(postgres.conninfo) | {
            "Load average": f"{before:.2f} before the run",
            "Processors shared by": "one group of all processes" if is_one else "what the kernel groups by itself",
        }
        cases, commits, bench.problems[:] = _kept(options, described)
        for name in options.cases:
            say(f"({name}) begins, {time.monotonic() - began:.0f} s")
            known = len(bench.problems)
            cases[name] = CASES[name](bench)
            bench.problems[known:] = [f"({name}) {problem}" for problem in bench.problems[known:]]
            commits[name] = described["Commit"]
            described["Took"] = f"{(time.monotonic() - began) / 60:.0f} minutes"
            results = {"machine": described, "quick": options.quick, "cases": cases, "commits": commits}
            results["problems"] = bench.problems
            (options.data / RESULTS).write_text(json.dumps(results, indent=1), encoding="utf-8")


def _kept(options: argparse.Namespace, described: dict[str, str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """With --keep, what earlier runs like this one found of the other cases, their commits, and what did not hold."""
    if not options.keep or not (options.data / RESULTS).exists():
        return {}, {}, []
    before = json.loads((options.data / RESULTS).read_text(encoding="utf-8"))
    alike = ("Machine", "System", "Processors shared by")
    if before["quick"] != options.quick or any(before["machine"].get(each) != described[each] for each in alike):
        raise SystemExit("bench: the last run was of another kind or machine, and its figures are not kept")
    cases = {name: case for name, case in before["cases"].items() if name not in options.cases}
    commits = {name: before["commits"][name] for name in cases}
    return cases, commits, [each for each in before["problems"] if each[1:].partition(")")[0] in cases]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", choices=ALONE, help="the same as --only")
    parser.add_argument("--quick", action="store_true", help="short rounds, for a look")
    parser.add_argument("--only", dest="cases", metavar="a,b,…", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--rows", type=int, help=f"of (shape), by default {ROWS:,}; some 400 bytes of disk each")
    parser.add_argument("--data", type=Path, default=VAR / "bench", help="for databases, logs and results")
    parser.add_argument("--peers", type=Path, default=VAR / "bench-peers", help="for the peers' packages")
    parser.add_argument("--keep", action="store_true", help="keep the last run's figures of the other cases")
    parser.add_argument("--report", action="store_true", help="measure nothing: write the last results anew")
    parser.add_argument("--publish", action="store_true", help="write into ops/, whichever cases were run")
    options = parser.parse_args()
    asked = options.only or options.cases
    options.cases = asked.split(",") if asked else list(CASES)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    options.rows = options.rows or (ROWS_QUICK if options.quick else ROWS)
    options.data, options.peers = options.data.resolve(), options.peers.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())

"""The sections on the access log: what it costs, and what its reports cost."""

from typing import Any

from tables import MB, sides_table, table
from targets import ratio


def usage(case: Any) -> str:
    """What it costs."""
    names = {
        f"{door}, {log}": f"{shown}, {words}"
        for door, shown in (("forward", "`/auth/forward`"), ("route", "the route"))
        for log, words in (("none", "no access log"), ("buffered", "**`buffered`**"), ("commit", "**`commit`**"))
    }
    ratios = "; ".join(f"{names[name]} ÷ none: {ratio(value)}" for name, value in case["ratios"].items())
    more = ", ".join(f"{door} {value:+.1f} ms" for door, value in case["p50_more_ms"].items())
    minute = [
        (name, f"{seen['rows']:,.0f}", f"{seen['rows_first']:,.0f}", f"{seen['rows_last']:,.0f}",
         f"{seen['queue_first']:,.0f}", f"{seen['queue_last']:,.0f}", f"{seen['queue_max']:,.0f}")
        for name, seen in case["sustained"].items()
    ]  # fmt: skip
    head = ("", "rows/s", "its first third", "its last", "rows waiting, first third", "last third", "at most")
    connections = case["connections"]
    others_head = (
        "connections",
        *(f"{names[name]} ÷ none" for name in case["ratios"]),
        *(f"{door}, p50 of `commit` more" for door in case["p50_more_ms"]),
    )
    others = [
        (count, *map(ratio, seen["ratios"].values()), *(f"{more:+.1f} ms" for more in seen["p50_more_ms"].values()))
        for count, seen in case["by_connections"].items()
    ]
    purge, hand = case["purge"], case["purge"]["by_hand"]
    rounds = ", ".join(
        f"{calm:.1f} and {gone:.1f}" for calm, gone in zip(purge["calm_ms"], purge["purged_ms"], strict=True)
    )
    return f"""\
## Usage: what the access log costs

The same server, of the same parts, with a log that drops its rows, and with each durability. Each door is asked over so
many connections that it works at its full rate with each log: `/auth/forward` over {connections["forward"]}, the
route over {connections["route"]}. Nothing is settled in these rounds, as one side's rows would be in those of the next.

{sides_table(case["sides"], names)}

{ratios}. `commit` answers half of its requests within so much more than no log does: {more}.

Over fewer and over more connections, in short rounds. A commit is shared by whoever waits for it: few leave the server
idle meanwhile, and many wait in its queue, with and without a log.

{table(others_head, others)}

**Sustained**, `/auth/forward` over 32 connections as fast as it goes, for
{case["sustained"]["buffered"]["seconds"]} s, the settlement running:

{table(head, minute)}

**A purge under load**: a day of {purge["rows"]:,} rows is dropped while `/auth/forward` is asked over 8 connections,
`commit`. p99 without and with, in milliseconds, round by round: {rounds}; with ÷ without: {ratio(purge["ratio"])}.
The job took {min(purge["took"]):.1f} to {max(purge["took"]):.1f} s in a process that had long begun, as the leader's
has. By hand (`keyledger jobs run retention`) {min(hand["took"]):.1f} to {max(hand["took"]):.1f} s with the start of a
Python on the load's core; with ÷ without: {ratio(hand["ratio"])}. The day of 89 days ago
stayed, and so did all counts."""


def shape(case: Any) -> str:
    """What its reports cost when it is long."""
    rows = [
        (name, f"{seen['told']:.0f}", f"{seen['first']:.1f}", f"{seen['p50']:.1f}", f"{seen['p95']:.1f}",
         f"{seen['blocks']:,.0f}", f"{seen['planning_blocks']:,.0f}")
        for name, seen in case["reports"].items()
    ]  # fmt: skip
    head = ("", "entries", "first, ms", "p50, ms", "p95, ms", "blocks read", "for planning")
    return f"""\
## Shape: reports on a long access log

{case["rows"]:,} rows in 30 days, made in SQL in {case["seconds"]:.0f} s; the log takes
{case["log_bytes"] / MB:,.0f} MB with its indexes, the database {case["bytes"] / MB:,.0f}. A hundred keys of one account
share them, the busiest has a third. Over HTTP, one request at a time; blocks of 8 kB as `EXPLAIN (ANALYZE, BUFFERS)`
counts them, from memory or disk.

{table(head, rows)}

A page looks at no more than 5,000 rows: what a filter finds rarely takes several pages."""

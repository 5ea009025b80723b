"""The page of figures, in Markdown, from the results of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from report_log import shape, usage
from tables import KB, MB, sides_table, table
from targets import ratio, targets

METHOD = """\
Repeat it with `ops/bench/run`: it needs root or an installed wrk, two cores, node, and the network once, for the peers'
packages. `ops/bench/run --quick` takes a few minutes and writes into `var/bench`. Figures of two machines cannot be
compared; the ratios of one run can.

- One core for the server under test, whichever it is, with all its threads; the other for the load (wrk, one thread, 32
  kept-alive connections, as fast as it goes), PostgreSQL as we start it, and our background process. In (d) and (f)
  all share both cores.
- All servers that are compared run at once, and take turns, round by round. A figure is the median of the rounds; in
  brackets are the lowest and the highest. A ratio is that of the two rounds that followed each other.
- *Processor* is the server's own processor time for each request, its system calls included: what is left when others
  disturb the machine. *Load core* is how busy the other core was: near 100 %, the load and PostgreSQL were the limit,
  and the ratio is that of two servers which both waited.
- Access rows are written in every figure of ours, `buffered` where nothing else is said. They are counted afterwards:
  as many as answers, or the run fails. *Rows after* is when the last of them was there, seconds after the last answer.
- Every answer other than 200 to good traffic, and every broken connection, fails the run.
"""


def report(results: Mapping[str, Any]) -> str:
    """The whole page, of the cases that were run."""
    cases: dict[str, Any] = results["cases"]
    parts = ["# Performance", _begin(results), METHOD, _targets(cases)]
    sections = {
        "a": _route, "b": _forward, "c": _peers, "d": _workers, "e": _sizes, "f": _revoke, "g": _flood,
        "timing": _timing, "usage": usage, "shape": shape,
    }  # fmt: skip
    parts += [section(cases[name]) for name, section in sections.items() if name in cases]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _begin(results: Mapping[str, Any]) -> str:
    said = ["Written by `ops/bench/run`; do not edit."]
    if results["quick"]:
        said.append("**A quick run: its rounds are too short to rely on.**")
    if results["problems"]:
        problems = Counter(results["problems"])
        lines = [f"- {problem}{f' ({times} times)' if times > 1 else ''}" for problem, times in problems.items()]
        said.append("**What did not hold in this run:**\n\n" + "\n".join(lines))
    machine = results["machine"]
    commits: dict[str, str] = {name: results["commits"][name] for name in results["cases"]}
    earlier = {name: commit for name, commit in commits.items() if commit != machine["Commit"]}
    rows = [*machine.items(), *((f"Commit of ({name})", commit) for name, commit in earlier.items())]
    said.append(table(("", ""), rows))
    said.append("![Requests per second, peers, cost by number of keys, and a flood](performance.svg)")
    return "\n\n".join(said)


def _targets(cases: dict[str, Any]) -> str:
    rows = [(each.claim, each.asked, each.seen, "yes" if each.holds else "**no**") for each in targets(cases)]
    return "## What was asked\n\n" + table(("", "asked", "seen", "holds"), rows)


def _route(case: Any) -> str:
    names = {
        "open": "our application, the route without authentication",
        "protected": "**our application, the same route authenticated**",
        "commit": "the same, each answer after its row's commit",
        "plain": "a Litestar application with nothing of ours, the same route",
        "mounted": "that application behind our middleware (`interfaces/asgi.py`)",
    }
    return f"""\
## (a) A route with and without authentication

The route answers `{{"ok":true}}` from memory. All else it costs is Litestar, granian, and in our application a request
id and a line in the log.

{sides_table(case["sides"], names)}

Authenticated ÷ not, in our application: {ratio(case["ratio"])}; by processor time {ratio(case["ratio_cpu"])}.
Behind the middleware ÷ plain: {ratio(case["mounted"])}; by processor time {ratio(case["mounted_cpu"])}.
The plain one has neither id nor log line."""


def _forward(case: Any) -> str:
    names = {
        "bare": "a bare ASGI answer: two messages, no body, no log",
        "forward": "**`/auth/forward`**",
        "commit": "the same, each answer after its row's commit",
    }
    return f"""\
## (b) `/auth/forward` against a bare answer

The same granian with the same flags; the bare application does nothing at all, in an event loop, which the usual
question of a proxy does not need (`adr/0021-ahead-of-the-loop.md`).

{sides_table(case["sides"], names)}

`/auth/forward` ÷ bare: {ratio(case["ratio"])}; by processor time {ratio(case["ratio_cpu"])}."""


def _peers(case: Any) -> str:
    rows: list[Sequence[str]] = []
    for name, side in case["sides"].items():
        over, under = case["forward_ratios"].get(name), case["ratios"].get(name)
        ours = "**" if name.startswith("Keyledger") else ""
        row = [
            f"{ours}{name}{ours}",
            f"{side['rate']:,.0f} ({side['low']:,.0f} to {side['high']:,.0f})",
            f"{side['cpu_us']:,.0f}",
        ]
        row += [f"{side['database_us']:,.0f}", f"{side['transactions']:.2f}", f"{side['rows_written']:.2f}"]
        row += [f"{over['median']:,.1f}" if over else "", f"{under['median']:,.1f}" if under else ""]
        rows.append(row)
    head = (
        "one worker",
        "requests/s",
        "processor, µs",
        "PostgreSQL, µs",
        "transactions",
        "rows written",
        "forward ÷ it",
        "route ÷ it",
    )
    done: list[Sequence[str]] = []
    for name, each in case["each"].items():
        what = each.get("statements")
        statements = (
            ", ".join(what["one_request"]) or "none while its entry lives"
            if what
            else "none; a batch of rows each 0.1 s, four renewals of the lease a second"
        )
        revoked = each["revocation"]
        still = max(revoked["seconds"])
        accepted = f"{'over ' if revoked['at_bound'] else ''}{still:.1f} s" if still else "no"
        again = "yes" if revoked["accepted_by_new_server"] else "no"
        done.append((name, statements, accepted, again))
    return f"""\
## (c) The peers

All on the same core, PostgreSQL on the other, a thousand keys, 64 of them in turn; what is set for each, and why, is
in `bench/peers/README.md`. They keep no access log. keyshield without its cache hashes with Argon2 on the event loop
and is asked over 2 connections: of 32 none had an answer within a round.

{table(head, rows)}

Transactions and rows are PostgreSQL's own counts for each request; both doors of Keyledger are counted together.

Two workers, polled one by one, the revoke from a third process: is the key accepted after the revoke has answered?

{table(("", "statements of a request, key in use", "still accepted", "by a server started afterwards"), done)}"""


def _workers(case: Any) -> str:
    names = {name: name for name in case["sides"]}
    return f"""\
## (d) One and two workers

Here servers, load and PostgreSQL share both cores, so the second worker has what the others leave: on a machine of
its own it has a core.

{sides_table(case["sides"], names)}

Two workers ÷ one: `/auth/forward` {ratio(case["forward"])}, route {ratio(case["route"])}."""


def _sizes(case: Any) -> str:
    parts: list[str] = []
    for what in ("hits", "misses"):
        names = {str(size): f"{size:,} keys" for size in case["sizes"]}
        parts.append(sides_table(case[what]["sides"], names))
        database = ", ".join(f"{int(name):,}: {side['database_us']:.0f}" for name, side in case[what]["sides"].items())
        cost = ", ".join(f"{int(name):,} keys: {ratio(value)}" for name, value in case[what]["cost"].items())
        parts.append(f"Processor ÷ that with 1,000 keys: {cost}. PostgreSQL's, µs a request: {database}.")
    starts = ", ".join(f"{int(name):,} keys: {seconds:.2f} s" for name, seconds in case["starts"].items())
    memory = [
        (f"{row['capacity']:,}", *(f"{row[name] / MB:.0f}" for name in ("start", "full", "twice")),
         f"{(row['full'] - row['start']) / row['capacity'] / KB:.1f}", f"{row['hit_us']:.0f}")
        for row in case["memory"]
    ]  # fmt: skip
    first = case["first_use"]
    return f"""\
## (e) A thousand to a million keys

**A hit**: a thousand keys in turn on `/auth/forward`, all remembered.

{parts[0]}

{parts[1]}

**A miss**: each key for the first time (with 1,000 keys in turn), and a memory of 16 keys.

{parts[2]}

{parts[3]}

**Start**, from the command until the first key can be verified: {starts}.

**First use after a restart**, a hundred thousand active keys: {first["keys"]:,} of them presented once, every one
accepted, {first["bcrypts"]} bcrypt calls, {first["receipts_written"]} receipts written; processor
{first["cpu_us"]:.0f} µs each, p50 {first["p50_ms"]:.1f} ms, p99 {first["p99_ms"]:.1f} ms over 32 connections. (The
stored verifiers are those of another credential: bcrypt would have refused.)

**Memory** of a worker (resident, MB) by `KEYLEDGER_CACHE_KEYS`: at its start, when as many keys were seen as it may
remember, and when twice as many were; and the processor time of a hit when all of them are asked for in turn.

{table(("keys remembered", "start", "full", "twice as many seen", "kB a key", "hit, µs"), memory)}"""


def _revoke(case: Any) -> str:
    names = {
        "quiet": "without load",
        "busy": "**under full load**",
        "busy_waited": "of which waiting for the leases, as the answer says",
        "half_busy": "under about half of that load",
    }
    rows = [
        (shown, f"{case[name]['count']:.0f}", *(f"{case[name][each] * 1000:.1f}" for each in ("p50", "p99", "max")))
        for name, shown in names.items()
    ]
    stopped = ", ".join(f"{seconds:.2f}" for seconds in case["stopped"])
    recovered = ", ".join(f"{seconds:.2f}" for seconds in case["recovered"])
    load, half = case["load"], case["half_load"]
    return f"""\
## (f) Revokes

Two workers. Before each revoke the key is used on both; after its answer both are asked again, and an accepted use
fails the run. The load is `/auth/forward` over 32 connections as fast as it goes ({load["rate"]:,.0f} requests/s,
{load["refused"]:.0f} refused), and everything shares the two cores; half is as many connections that pause between
two questions ({half["rate"]:,.0f} requests/s). Milliseconds from sending to the answer:

{table(("", "revokes", "p50", "p99", "max"), rows)}

With one worker stopped (SIGSTOP) the other answers a revoke after, in seconds: {stopped}. The lease is 2 s.
Continued, the stopped worker refuses the key from its first answer on, and serves again after {recovered} s."""


def _flood(case: Any) -> str:
    rows: list[Sequence[str]] = []
    for name, seen in case.items():
        sides, told = seen["sides"], seen["attempts"].get("401", 0)
        row = [name, f"{sides['alone']['rate']:,.0f}", f"{sides['beside']['rate']:,.0f}", ratio(seen["kept"])]
        row += [f"{seen['flood_rate']:,.0f} over {seen['connections']}", f"{seen['attempt_us']:.0f}"]
        row += [f"{sum(seen['attempts'].values()):,}", f"{told:,}", f"{seen['rows']:,}", f"{seen['bcrypts']}"]
        rows.append(row)
    head = ("good traffic on", "alone, requests/s", "beside the flood", "kept", "flood, attempts/s over connections",
            "processor, µs an attempt", "attempts", "401", "rows", "bcrypt calls")  # fmt: skip
    return f"""\
## (g) A flood of forged keys

From 127.0.0.2, each connection asking again at once, ten thousand credentials of the right form in turn; good traffic
from 127.0.0.1 over 32 connections; one worker. Over the limit (20 a minute) the answer is 429, from memory.

{table(head, rows)}"""


def _timing(case: Any) -> str:
    who = {
        "forged": "anybody",
        "wrong secret, no tag": "anybody who knows a key's prefix",
        "mistyped": "the key's owner",
        "revoked": "who has the revoked key",
        "unknown, right tag": "only with the root secret",
        "wrong secret, right tag": "only with the root secret",
    }
    rows: list[Sequence[str]] = []
    for name, seen in case["reasons"].items():
        row = [name, who[name], f"{seen['count']:,}", *(f"{seen[each]:,.0f}" for each in ("q1", "median", "q3", "p99"))]
        rows.append([*row, f"{seen['slower']:.3f}"])
    head = (
        "refused because",
        "can be sent by",
        "samples",
        "lower quartile, µs",
        "median",
        "upper quartile",
        "p99",
        "slower than forged",
    )
    same = "the same bytes" if case["answers"] == 1 else f"{case['answers']} different answers"
    return f"""\
## Timing of refusals

`GET /api/campaigns`, one connection, one request at a time, the reasons in an order that chance decides, the limit on
failed attempts raised so far that every attempt is counted and none is over it. *Slower than forged* is the share of
all pairs of samples in which this one took longer: 0.500 when nothing can be told.

{table(head, rows)}

All refusals are {same}, but for the request's id and the date. bcrypt was called
{case["bcrypts"]} times: a wrong secret under a right tag costs one, and a right tag takes the root secret."""

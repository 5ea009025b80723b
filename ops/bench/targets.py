"""What was asked of the figures, and whether they are so."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Cases = dict[str, Any]
FLAT = 0.15
FULL_TO_TWICE = 1.15
QUEUE_SLACK_ROWS = 1_000  # a batch
BLOCKS_MAX = 6_000  # as in cases_shape


@dataclass(frozen=True)
class Target:
    """A claim, what was asked, what was seen, and whether that is enough."""

    claim: str
    asked: str
    seen: str
    holds: bool


def targets(cases: Cases) -> list[Target]:
    """Those of the cases that were run."""
    judges: dict[str, Callable[[Any], list[Target]]] = {
        "a": _route, "b": _forward, "c": _peers, "e": _sizes, "f": _revoke, "g": _flood, "timing": _timing,
        "usage": _usage, "shape": _shape,
    }  # fmt: skip
    return [target for name, judge in judges.items() if name in cases for target in judge(cases[name])]


def ratio(value: dict[str, float], digits: int = 2) -> str:
    """A ratio with its lowest and highest round."""
    return f"{value['median']:,.{digits}f} ({value['low']:,.{digits}f} to {value['high']:,.{digits}f})"


def _route(case: Any) -> list[Target]:
    value = case["ratio"]
    claim = "(a) authenticated route ÷ the same without authentication"
    return [Target(claim, "≥ 0.70, goal 0.85", ratio(value), value["median"] >= 0.70)]  # noqa: PLR2004 - asked


def _forward(case: Any) -> list[Target]:
    value = case["ratio"]
    return [Target("(b) `/auth/forward` ÷ a bare ASGI answer", "≥ 0.75", ratio(value), value["median"] >= 0.75)]  # noqa: PLR2004 - asked


def _peers(case: Any) -> list[Target]:
    found: list[Target] = []
    for door, values in (("`/auth/forward`", case["forward_ratios"]), ("route", case["ratios"])):
        for peer in sorted({"drf-api-key", "better-auth"} & values.keys()):
            holds = values[peer]["median"] >= 15  # noqa: PLR2004 - asked
            found.append(Target(f"(c) {door} ÷ {peer}", "≥ 15", ratio(values[peer], 1), holds))
        name, least = min(values.items(), key=lambda item: item[1]["median"])
        found.append(Target(f"(c) {door} ÷ the fastest peer, {name}", "> 1", ratio(least), least["median"] > 1))
    kept = max(case["each"]["keyledger"]["revocation"]["seconds"])
    found.append(Target("(c) a revoked key is accepted after the answer", "never", f"{kept:.3f} s", kept == 0))
    return found


def _sizes(case: Any) -> list[Target]:
    found: list[Target] = []
    for what in ("hits", "misses"):
        costs = {name: value["median"] for name, value in case[what]["cost"].items()}
        seen = ", ".join(f"{int(name):,}: {value:.2f}" for name, value in costs.items())
        holds = all(abs(value - 1) <= FLAT for value in costs.values())
        found.append(
            Target(
                f"(e) cost per {what[:-1] if what == 'hits' else 'miss'} ÷ that with 1,000 keys",
                "1 ± 0.15",
                seen,
                holds,
            )
        )
    growth = max(row["twice"] / row["full"] for row in case["memory"])
    claim = "(e) memory after twice as many keys as are remembered ÷ when full"
    found.append(Target(claim, f"≤ {FULL_TO_TWICE}", f"{growth:.2f}", growth <= FULL_TO_TWICE))
    first = case["first_use"]
    seen = f"{first['bcrypts']} in {first['keys']:,} first uses"
    found.append(
        Target("(e) bcrypt calls after a restart", "0", seen, first["bcrypts"] == 0 == first["receipts_written"])
    )
    return found


def _revoke(case: Any) -> list[Target]:
    p99, slowest = case["busy"]["p99"] * 1000, max(case["stopped"])
    return [
        Target("(f) revoke under full load, p99", "< 25 ms", f"{p99:.1f} ms", p99 < 25),  # noqa: PLR2004 - asked
        Target("(f) revoke beside a stopped worker", "≤ 2.5 s", f"{slowest:.2f} s", slowest <= 2.5),  # noqa: PLR2004 - asked
    ]


def _flood(case: Any) -> list[Target]:
    found: list[Target] = []
    for name, seen in case.items():
        if seen["connections"] > 32:  # noqa: PLR2004 - for information
            continue
        kept = seen["kept"]
        claim = f"(g) good traffic beside a flood ÷ alone, {name}"
        found.append(Target(claim, "≥ 0.6", ratio(kept), kept["median"] >= 0.6))  # noqa: PLR2004 - asked
    attempts = sum(sum(seen["attempts"].values()) for seen in case.values())
    rows = sum(seen["rows"] for seen in case.values())
    told = sum(seen["attempts"].get("401", 0) for seen in case.values())
    bcrypts = sum(seen["bcrypts"] for seen in case.values())
    found.append(Target("(g) bcrypt calls for forged keys", "0", f"{bcrypts} for {attempts:,}", bcrypts == 0))
    found.append(
        Target("(g) rows for attempts over the limit", "0", f"{rows - told} for {attempts - told:,}", rows == told)
    )
    return found


def _timing(case: Any) -> list[Target]:
    return [Target("Different answers among all refusals", "1", str(case["answers"]), case["answers"] == 1)]


def _usage(case: Any) -> list[Target]:
    found: list[Target] = []
    for name, value in case["ratios"].items():
        least = 0.85 if name.endswith("buffered") else 0.6
        found.append(Target(f"(usage) {name} ÷ no access log", f"≥ {least}", ratio(value), value["median"] >= least))
    for door, more in case["p50_more_ms"].items():
        found.append(Target(f"(usage) {door}, p50 of commit more", "≤ 5 ms", f"{more:.1f} ms", more <= 5))  # noqa: PLR2004 - asked
    for name, seen in case["sustained"].items():
        shown = f"{seen['queue_first']:,.0f} → {seen['queue_last']:,.0f} rows at {seen['rows']:,.0f} rows/s"
        flat = seen["queue_last"] <= seen["queue_first"] + QUEUE_SLACK_ROWS
        found.append(Target(f"(usage) {name}, the queue over {seen['seconds']} s", "flat", shown, flat))
    value = case["purge"]["ratio"]
    found.append(Target("(usage) p99 beside a purge ÷ without", "≤ 1.5", ratio(value), value["median"] <= 1.5))  # noqa: PLR2004 - asked
    return found


def _shape(case: Any) -> list[Target]:
    name, slowest = max(case["reports"].items(), key=lambda item: item[1]["p95"])
    blocks = max(seen["blocks"] for seen in case["reports"].values())
    claim = f"(shape) slowest report of {case['rows']:,} rows, p95: {name}"
    return [
        Target(claim, "< 50 ms", f"{slowest['p95']:.1f} ms", slowest["p95"] < 50),  # noqa: PLR2004 - asked
        Target("(shape) most blocks that a report reads", "bounded", f"{blocks:,.0f}", blocks <= BLOCKS_MAX),
    ]

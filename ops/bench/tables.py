"""Tables in Markdown, and the one that most sections have: the sides of a comparison."""

from collections.abc import Iterable, Mapping, Sequence

KB = 1024
MB = KB * 1024
SIDES = ("", "requests/s", "processor, µs", "p50, ms", "p99, ms", "load core", "rows after, s")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A head and its rows."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def sides_table(sides: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> str:
    """The sides that are named, as they are to be shown."""
    rows: list[Sequence[str]] = []
    for name, shown in names.items():
        side = sides[name]
        after = f"{side['rows_after']:.2f}" if side["rows"] else ""
        row = [shown, f"{side['rate']:,.0f} ({side['low']:,.0f} to {side['high']:,.0f})", f"{side['cpu_us']:,.1f}"]
        row += [f"{side['p50_ms']:.2f}", f"{side['p99_ms']:.1f}", f"{side['load_busy']:.0%}", after]
        rows.append(row)
    return table(SIDES, rows)

"""The figures as bars: one SVG of four panels, drawn by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, LABEL, VALUE, ROW, HEAD, FOOT = 860, 270, 150, 24, 46, 22
OURS, OTHER = "#1f6feb", "#9aa4b2"
STYLE = """
text { font-family: system-ui, "Segoe UI", "DejaVu Sans", Helvetica, Arial, sans-serif; font-size: 13px; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.note { font-size: 12px; fill: #57606a }
""".strip()


@dataclass(frozen=True)
class Bar:
    """One bar, with what is written behind it."""

    label: str
    value: float
    shown: str
    ours: bool


@dataclass(frozen=True)
class Panel:
    """Bars of one scale, which begins at nothing."""

    title: str
    note: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        """In pixels."""
        return HEAD + ROW * len(self.bars) + FOOT


def plot(cases: Mapping[str, Any]) -> str:
    """The panels of the cases that were run."""
    makers = {"b": _doors, "c": _peers, "e": _sizes, "g": _flood}
    panels = [maker(cases) for name, maker in makers.items() if name in cases]
    height = sum(panel.height for panel in panels) + FOOT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        "<title>Keyledger's performance</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    top = FOOT // 2
    for panel in panels:
        lines += _drawn(panel, top)
        top += panel.height
    return "\n".join([*lines, "</svg>"]) + "\n"


def _drawn(panel: Panel, top: int) -> list[str]:
    scale = (WIDTH - LABEL - VALUE) / max(bar.value for bar in panel.bars)
    lines = [
        f'<text class="title" x="16" y="{top + 18}">{escape(panel.title)}</text>',
        f'<text class="note" x="16" y="{top + 36}">{escape(panel.note)}</text>',
    ]
    for number, bar in enumerate(panel.bars):
        y = top + HEAD + ROW * number
        width = max(1.0, bar.value * scale)
        colour = OURS if bar.ours else OTHER
        lines += [
            f'<text x="{LABEL - 10}" y="{y + 16}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{LABEL}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}" rx="2" fill="{colour}"/>',
            f'<text x="{LABEL + width + 8:.1f}" y="{y + 16}">{escape(bar.shown)}</text>',
        ]
    return lines


def _rate(label: str, side: Mapping[str, float], *, ours: bool) -> Bar:
    return Bar(label, side["rate"], f"{side['rate']:,.0f}", ours)


def _doors(cases: Mapping[str, Any]) -> Panel:
    sides = cases["b"]["sides"]
    bars = [
        _rate("bare ASGI answer", sides["bare"], ours=False),
        _rate("/auth/forward", sides["forward"], ours=True),
        _rate("/auth/forward, commit", sides["commit"], ours=True),
    ]
    if "a" in cases:
        sides = cases["a"]["sides"]
        bars += [
            _rate("Litestar route, plain application", sides["plain"], ours=False),
            _rate("the route in ours, open", sides["open"], ours=False),
            _rate("the route in ours, authenticated", sides["protected"], ours=True),
            _rate("the same, commit", sides["commit"], ours=True),
        ]
    return Panel(
        "With and without authentication", "Requests per second, one worker on one core; access rows written", bars
    )


def _peers(cases: Mapping[str, Any]) -> Panel:
    sides = cases["c"]["sides"]
    ordered = sorted(sides.items(), key=lambda item: -item[1]["rate"])
    bars = [_rate(name, side, ours=name.startswith("Keyledger")) for name, side in ordered]
    return Panel(
        "The same work in other libraries",
        "Requests per second, one worker on the same core, PostgreSQL on the other",
        bars,
    )


def _sizes(cases: Mapping[str, Any]) -> Panel:
    bars: list[Bar] = []
    for what, name in (("hits", "hit"), ("misses", "miss")):
        for size in cases["e"]["sizes"]:
            cost = cases["e"][what]["sides"][str(size)]["cpu_us"]
            bars.append(Bar(f"{name}, {size:,} keys", cost, f"{cost:.0f} µs", ours=True))
    return Panel("Cost by the number of keys", "Processor time of the worker for each request", bars)


def _flood(cases: Mapping[str, Any]) -> Panel:
    bars: list[Bar] = []
    for name, seen in cases["g"].items():
        door = name.partition(",")[0]
        if door == name:
            bars.append(_rate(f"{door}, alone", seen["sides"]["alone"], ours=False))
        bars.append(_rate(f"{door}, a flood over {seen['connections']}", seen["sides"]["beside"], ours=True))
    return Panel(
        "Good traffic beside a flood of forged keys",
        "Requests per second of the good traffic, 32 connections, one worker",
        bars,
    )

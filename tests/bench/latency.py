"""How latency grows with load, up to saturation: measured points, and the picture that docs/performance.md shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from tests.bench.calls import Load, Row, checked
from tests.bench.machine import Server

SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9)
"""Of what the server carries at most."""
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 56, 40, 130, 48
COLOURS = {"authorize": "#1f77b4", "native_authorize": "#2ca02c", "cerbos": "#d62728"}
NAMES = {"authorize": "Doorward", "native_authorize": "Doorward, native", "cerbos": "Cerbos"}


@dataclass(frozen=True)
class Point:
    """Calls answered in a second, and milliseconds."""

    rate: float
    p50: float
    p99: float


def curve(row: Row, server: Server, load: Load, seconds: float) -> list[Point]:
    """Measure *row* at shares of the rate that it reached before, and at that rate itself. Needs h2load."""
    most, found = row.median(row.rates), []
    for share in SHARES:
        calls = max(20, int(most * share * seconds))
        rate = most * share
        took = checked(row, server, calls, lambda calls=calls, rate=rate: load.calls(row, server, calls, rate=rate))  # type: ignore[misc]  # mypy infers no lambda with defaults
        found.append(Point(calls / took.seconds, took.percentile(0.5), took.percentile(0.99)))
    return [*found, Point(most, row.median(row.p50s), row.median(row.p99s))]


def picture(curves: dict[str, list[Point]], caption: str) -> str:
    """Return an SVG: calls per second to the right, milliseconds upwards on a logarithmic scale."""
    points = [point for each in curves.values() for point in each]
    most = max(point.rate for point in points)
    low = math.floor(math.log10(min(point.p50 for point in points)))
    high = math.ceil(math.log10(max(point.p99 for point in points)))

    def x(rate: float) -> float:
        return LEFT + rate / most * (WIDTH - LEFT - RIGHT)

    def y(ms: float) -> float:
        share = (math.log10(ms) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 20, caption), *_grid(most, low, high, x, y)]
    for number, (name, each) in enumerate(curves.items()):
        colour = COLOURS.get(name, "#555")
        for dash, values in (("", [p.p50 for p in each]), ("5 3", [p.p99 for p in each])):
            where = " ".join(f"{x(p.rate):.1f},{y(ms):.1f}" for p, ms in zip(each, values, strict=True))
            parts.append(
                f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
            )
        parts.append(_text(WIDTH - RIGHT + 8, TOP + 20 + 18 * number, NAMES.get(name, name), colour))
    parts.append(_text(WIDTH - RIGHT + 8, TOP + 26 + 18 * len(curves), "— p50   - - p99"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _grid(most: float, low: int, high: int, x: object, y: object) -> list[str]:
    assert callable(x)
    assert callable(y)
    parts = []
    for power in range(low, high + 1):
        level = y(10.0**power)
        parts.append(f'<path d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(8, level + 4, f"{10.0**power:g} ms"))
    step = 10 ** math.floor(math.log10(most))
    step = step / 5 if most / step < 2 else step / 2 if most / step < 5 else step
    for count in range(int(most / step) + 1):
        parts.append(_text(x(count * step) - 10, HEIGHT - BOTTOM + 18, f"{count * step:g}"))
    parts.append(_text(LEFT, HEIGHT - 8, "calls per second on one core"))
    return parts


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{text}</text>'


def draw(curves: dict[str, list[Point]], caption: str, target: Path) -> None:
    """Write the picture to *target*."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(picture(curves, caption), "utf-8")

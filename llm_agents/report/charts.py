"""The geometry of the report's charts, in pixels; the template draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llm_agents.evaluation.statistics import Estimate

BAR_WIDTH = 460
ROW_HEIGHT = 24
CHARACTER = 6.7  # width of a letter at 12 pixels
MAX_LABEL = 30  # characters shown of an agent's name
CURVE_WIDTH, CURVE_HEIGHT = 260, 96
MAX_POINTS = 200


@dataclass(frozen=True)
class Bar:
    """One bar: the middle of its row, its end and the ends of its interval."""

    name: str
    label: str
    value: str
    y: float
    end: float
    low: float
    high: float


@dataclass(frozen=True)
class BarChart:
    """Success rates of agents as horizontal bars on an axis from 0 to 1; ``ticks`` are (x, text)."""

    title: str
    note: str
    width: float
    height: float
    left: float
    bars: list[Bar]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Curve:
    """One metric over the steps of a stage, as runs of points "x,y x,y"; a gap where it is not finite."""

    title: str
    last: str
    lines: list[str]
    low: str
    high: str
    first_step: str
    last_step: str


def bar_chart(title: str, note: str, rates: dict[str, Estimate]) -> BarChart:
    """Lay out a bar with its interval for each agent, in the order given."""
    labels = {name: name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "…" for name in rates}
    left = max(map(len, labels.values()), default=0) * CHARACTER + 10
    scale = BAR_WIDTH - left - 50  # the numbers are on the right
    bars = [
        Bar(
            name,
            labels[name],
            f"{rate.value:.2f}",
            y=ROW_HEIGHT * (row + 0.5),
            end=left + scale * rate.value,
            low=left + scale * rate.low,
            high=left + scale * rate.high,
        )
        for row, (name, rate) in enumerate(rates.items())
    ]
    ticks = [(left + scale * value, f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1)]
    return BarChart(title, note, BAR_WIDTH, ROW_HEIGHT * len(bars), left, bars, ticks)


def curve(title: str, steps: Sequence[int], values: Sequence[float]) -> Curve | None:
    """Lay out a line chart that fills its frame, thinned to 200 points; None if nothing is finite."""
    every = math.ceil(len(steps) / MAX_POINTS)
    points = list(zip(steps, values, strict=True))
    points = points[::-1][::every][::-1]  # the last point stays
    finite = [value for _, value in points if math.isfinite(value)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    first, last = points[0][0], points[-1][0]
    lines: list[list[str]] = [[]]
    for step, value in points:
        if not math.isfinite(value):
            lines.append([])
            continue
        x = CURVE_WIDTH * (step - first) / max(1, last - first)
        y = CURVE_HEIGHT * (high - value) / (high - low) if high > low else CURVE_HEIGHT / 2
        lines[-1].append(f"{x:.1f},{y:.1f}")
    return Curve(
        title,
        last=number(points[-1][1]),
        lines=[" ".join(line) for line in lines if line],
        low=number(low),
        high=number(high),
        first_step=f"{first:,}",
        last_step=f"{last:,}",
    )


def number(value: float) -> str:
    """Format a number for people: whole numbers with thousands separators, others with three significant digits."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"

"""Two ways to do one thing, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

MIN_SECONDS = 0.5  # of work by each side in a round


@dataclass(frozen=True)
class Comparison:
    """Our way and theirs: each side is a function that does some of the work and returns how much, in ``unit``."""

    name: str
    unit: str
    peer: str
    ours: Callable[[], float]
    theirs: Callable[[], float]


@dataclass(frozen=True)
class Skipped:
    """A comparison that cannot be made here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Result:
    """Rates of both sides in units per second, one per round."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        """How much faster ours is, in each round."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    def __str__(self) -> str:
        return f"{median(self.ratios):.2f} [{min(self.ratios):.2f}, {max(self.ratios):.2f}]"


def measure(comparison: Comparison, num_rounds: int) -> Result:
    """Let the two sides take turns for a number of rounds, after one call of each that is not counted."""
    comparison.ours()
    comparison.theirs()
    result = Result([], [])
    sides = [(comparison.ours, result.ours), (comparison.theirs, result.theirs)]
    for _ in range(num_rounds):
        for side, rates in sides:
            rates.append(_rate(side))
        sides.reverse()  # a temporary slowdown of the machine then hits both first and second turns
    return result


def _rate(side: Callable[[], float]) -> float:
    done, begin, elapsed = 0.0, time.perf_counter(), 0.0
    while elapsed < MIN_SECONDS:
        done += side()
        elapsed = time.perf_counter() - begin
    return done / elapsed

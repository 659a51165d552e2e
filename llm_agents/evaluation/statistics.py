"""Intervals: Wilson for a rate, paired bootstrap for a difference, stratified bootstrap over seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, trim_mean

NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A value with a 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def success_rate(successes: int, episodes: int) -> Estimate:
    """The success rate with its Wilson score interval (Wilson, 1927), which stays inside [0, 1]."""
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return Estimate(successes / episodes, float(interval.low), float(interval.high))


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all scores (Agarwal et al., 2021)."""
    return float(trim_mean(np.ravel(scores), 0.25))


def over_seeds(scores: ArrayLike, statistic: Callable[[NDArray], float] = np.mean, seed: int = 0) -> Estimate:
    """A statistic of per-episode scores (seeds, episodes), with a bootstrap interval.

    Seeds are resampled, and within each seed its episodes: both the luck of a training run and the luck of the panel
    are in the interval. With few seeds this is the honest, wide interval.
    """
    scores = np.asarray(scores, np.float64)
    rng = np.random.default_rng(seed)
    num_seeds, num_episodes = scores.shape
    resampled = np.empty(NUM_RESAMPLES)
    for i in range(NUM_RESAMPLES):
        rows = rng.integers(num_seeds, size=(num_seeds, 1))
        resampled[i] = statistic(scores[rows, rng.integers(num_episodes, size=(num_seeds, num_episodes))])
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(float(statistic(scores)), float(low), float(high))


def paired_difference(scores: ArrayLike, baseline: ArrayLike, seed: int = 0) -> Estimate:
    """The mean of ``scores - baseline`` over the same seeds and cases, (episodes,) or (seeds, episodes) each."""
    difference = np.atleast_2d(np.asarray(scores, np.float64) - np.asarray(baseline, np.float64))
    return over_seeds(difference, seed=seed)

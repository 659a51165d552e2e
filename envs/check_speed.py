"""Measure how fast an environment with goals in words is, including its texts and predicates."""

from __future__ import annotations

import time
from typing import Any, NamedTuple


class Speed(NamedTuple):
    """The speed of one environment in one process, under random actions."""

    steps_per_s: float
    resets_per_s: float


def measure_speed(env: Any, seconds: float = 2.0) -> Speed:
    """Play random actions for about ``seconds``, at least one episode, and return the speed.

    Args:
        env: a `LanguageEnv`, bare or as wrapped by ``gymnasium.make``. It is left at the end of an episode.
        seconds: wall time.
    """
    env.action_space.seed(0)
    num_steps = num_resets = 0
    stepping = resetting = 0.0
    while num_resets == 0 or stepping + resetting < seconds:
        start = time.perf_counter()
        env.reset(seed=num_resets)
        resetting += time.perf_counter() - start
        num_resets += 1
        start, ended = time.perf_counter(), False
        while not ended:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            num_steps += 1
            ended = terminated or truncated
        stepping += time.perf_counter() - start
    return Speed(num_steps / stepping, num_resets / resetting)

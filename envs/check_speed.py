"""How fast an environment with goals in words is, texts and judgement included."""

from __future__ import annotations

import time
from typing import Any, NamedTuple


class Speed(NamedTuple):
    """Of one environment in one process, under random actions."""

    steps_per_s: float
    resets_per_s: float


def measure_speed(env: Any, seconds: float = 2.0) -> Speed:
    """Play random actions for about so long, with at least one episode.

    Args:
        env: a `LanguageEnv`, bare or as ``gymnasium.make`` wraps it. It is left in the middle of some episode.
        seconds: of wall time.
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

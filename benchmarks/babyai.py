"""BabyAI as text against minigrid itself, and parallel episodes in one process against Gymnasium's vector ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from benchmarks.harness import Comparison

LEVELS = ("BabyAI-GoToLocal-v0", "BabyAI-BossLevel-v0")
NUM_STEPS = 500  # in one call of a side
NUM_LANES = 8


def comparisons() -> Iterator[Comparison]:
    """Compare steps of random actions, resets included: our text with minigrid's images, then eight parallel episodes.

    Published wrappers that make text of BabyAI run at 0.38 (GLAM) and 0.15 (BALROG) of raw minigrid.
    """
    for level in LEVELS:
        name = f"{level.removeprefix('BabyAI-')}, steps with text"
        theirs = _play([_make_raw(level)])
        yield Comparison(name, "steps", "raw minigrid", _play([_make_text(level)]), theirs)
    make = partial(_make_text, LEVELS[0])
    for kind in (SyncVectorEnv, AsyncVectorEnv):
        vector = kind([make] * NUM_LANES)
        name = f"{NUM_LANES} lanes in one process"
        yield Comparison(name, "steps", kind.__name__, _play([make() for _ in range(NUM_LANES)]), _play_vector(vector))
        vector.close()


def _make_text(level: str) -> gymnasium.Env:
    return gymnasium.make("envs:BabyAIText-v0", level=level)


def _make_raw(level: str) -> gymnasium.Env:
    import minigrid  # noqa: F401 (registers its levels)

    return gymnasium.make(level)


def _play(envs: list[gymnasium.Env]) -> Callable[[], float]:
    """Return a function that takes random actions in each environment in turn, resetting it when an episode ends."""
    rng, seeds = np.random.default_rng(0), count()
    for env in envs:
        env.reset(seed=next(seeds))

    def play() -> float:
        for actions in rng.integers(6, size=(NUM_STEPS // len(envs), len(envs))).tolist():
            for env, action in zip(envs, actions, strict=True):
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset(seed=next(seeds))
        return NUM_STEPS // len(envs) * len(envs)

    return play


def _play_vector(vector: VectorEnv[Any, Any, Any]) -> Callable[[], float]:
    rng = np.random.default_rng(0)
    vector.reset(seed=0)

    def play() -> float:
        for actions in rng.integers(6, size=(NUM_STEPS // NUM_LANES, NUM_LANES)):
            vector.step(actions)
        return NUM_STEPS // NUM_LANES * NUM_LANES

    return play

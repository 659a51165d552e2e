"""Meta-World with the hand brought to rest only once and without its reward, against the library's own environments.

The library's are as its ``MT1`` gives them: one class for each task, its target observed, a goal set before each reset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.harness import Comparison, Skipped

TASKS = ("reach", "pick-place", "door-open", "coffee-button")
NUM_STEPS = 50


def comparisons() -> Iterator[Comparison | Skipped]:
    """Compare resets alone, and steps of fixed actions, each over four tasks."""
    names = {"Meta-World resets": 0, "Meta-World steps": NUM_STEPS}
    if find_spec("metaworld") is None:
        reason = "metaworld is missing; pip install -c constraints.txt -e '.[meta-world]'"
        yield from (Skipped(name, reason) for name in names)
        return
    for name, length in names.items():
        yield Comparison(name, "steps" if length else "resets", "metaworld", _play_ours(length), _play_theirs(length))


def _play_ours(length: int) -> Callable[[], float]:
    from envs.meta_world.env import MetaWorldEnv

    env = MetaWorldEnv()

    def play() -> float:
        for seed, task in enumerate(TASKS):
            env.reset(seed=seed, options={"task": task})
            for action in _actions(length):
                env.step(action)
        return len(TASKS) * (length or 1)

    return play


def _play_theirs(length: int) -> Callable[[], float]:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    from envs.meta_world.scene import scene

    envs: dict[str, Any] = {task: ALL_V3_ENVIRONMENTS[f"{task}-v3"]() for task in TASKS}
    for env in envs.values():
        env._partially_observable = False
        vars(env).pop("sawyer_observation_space", None)
        env._set_task_called = True

    def play() -> float:
        for seed, (task, env) in enumerate(envs.items()):
            env._last_rand_vec = scene(task).draw(np.random.default_rng(seed))
            env.reset()
            for action in _actions(length):
                env.step(action)
        return len(TASKS) * (length or 1)

    return play


def _actions(length: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (length, 4)).astype(np.float32)

"""CLEVR-Robot with one compiled scene, against compiling the scene at each reset, as the original does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mujoco

from benchmarks.harness import Comparison
from envs.clevr_robot.env import NUM_ACTIONS, ClevrRobotEnv
from envs.clevr_robot.scene import compile_model
from envs.clevr_robot.task import ClevrRobotTask
from envs.language import LanguageEnv

PEER = "compiling each time"


class RecompilingEnv(ClevrRobotEnv):
    """Compiles the scene at each reset, as google-research/clevr_robot_env does."""

    def reset(self, **kwargs):
        self._model = compile_model()
        self._data = mujoco.MjData(self._model)
        return super().reset(**kwargs)


def comparisons() -> Iterator[Comparison]:
    """Compare resets alone, and steps in episodes as long as the expert's for one pair (3) and for three (12)."""
    task = ClevrRobotTask()
    ours, theirs = LanguageEnv(ClevrRobotEnv(), task), LanguageEnv(RecompilingEnv(), task)
    yield Comparison("resets", "resets", PEER, _play(ours, 0), _play(theirs, 0))
    for length in (3, 12):
        yield Comparison(f"episodes of {length} steps", "steps", PEER, _play(ours, length), _play(theirs, length))


def _play(env: LanguageEnv, length: int) -> Callable[[], float]:
    """Return a function that plays ten episodes of this length with fixed actions, and counts steps, or resets."""

    def play() -> float:
        for seed in range(10):
            env.reset(seed=seed)
            for step in range(length):
                env.step((7 * step + seed) % NUM_ACTIONS)
        return 10 * (length or 1)

    return play

"""The shortest path to any goal, by Taxi's own table of transitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.goals import Goal
from envs.language import LanguageEnv


class ShortestPath:
    """Takes the first action of a shortest path; the distances of a goal are computed once."""

    def __init__(self) -> None:
        self._distances: dict[str, np.ndarray] = {}

    def act(self, envs: Sequence[LanguageEnv]) -> list[int]:
        return [self._act(env) for env in envs]

    def _act(self, env: LanguageEnv) -> int:
        if env.goal.id not in self._distances:
            self._distances[env.goal.id] = _distances(env, env.goal)
        distances = self._distances[env.goal.id]
        taxi = env.env.unwrapped
        actions = taxi.P[taxi.encode(*env.state.astype(int))]
        return min(actions, key=lambda action: distances[actions[action][0][1]])


def _distances(env: LanguageEnv, goal: Goal) -> np.ndarray:
    """Count the steps to the goal from each of Taxi's 500 states; infinite where a ride has ended without it."""
    taxi = env.env.unwrapped
    states = np.array([list(taxi.decode(index)) for index in range(len(taxi.P))])
    achieved = env.task.achieved(goal, states)
    nexts = np.array([[taxi.P[index][action][0][1] for action in range(6)] for index in range(len(states))])
    ended = states[:, 2] == states[:, 3]  # the passenger is where they want to go
    distances = np.where(achieved, 0.0, np.inf)
    while True:
        shorter = np.where(achieved, 0.0, np.where(ended, np.inf, 1 + distances[nexts].min(1)))
        if np.array_equal(shorter, distances):
            return distances
        distances = shorter

"""Judge many imagined rollouts at once, by the predicates that judge real ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from envs.episodes import Episode
from envs.language import LanguageEnv, LanguageTask
from llm_agents.rollouts.specs import EpisodeSpec


def start_states(make_env: Callable[[], LanguageEnv], specs: Sequence[EpisodeSpec]) -> NDArray[np.float32]:
    """The real start state of each case, (N, D): where its imagined rollout begins."""
    env = make_env()
    starts = []
    for spec in specs:
        options = {"goal": spec.goal_id, "split": spec.split, "instruction": spec.instruction}
        observation, _ = env.reset(seed=spec.seed, options=options)
        starts.append(observation["state"])
    env.close()
    return np.stack(starts)


class GoalPredicates:
    """Judges many rollouts for different goals at once: rows with the same goal are judged together."""

    def __init__(self, task: LanguageTask, specs: Sequence[EpisodeSpec], starts: NDArray) -> None:
        self._task = task
        self._starts = starts
        rows = defaultdict(list)
        for row, spec in enumerate(specs):
            rows[spec.goal_id, spec.split].append(row)
        self._groups = [(task.goal_set.find(*key), np.array(group)) for key, group in rows.items()]

    def achieved(self, states: NDArray) -> NDArray[np.bool_]:
        """(N, D) -> (N,)."""
        result = np.zeros(len(states), bool)
        for goal, rows in self._groups:
            result[rows] = self._task.achieved(goal, states[rows], self._starts[rows])
        return result

    def all_achieved(self, states: NDArray) -> bool:
        """Whether each row has been achieved in this state or in one shown before."""
        self._ever = getattr(self, "_ever", False) | self.achieved(states)
        return bool(self._ever.all())

    def rewards(self, states: NDArray, outcomes: NDArray) -> NDArray:
        """Rewards of the outcomes of K actions: (N, D), (N, K, D) -> (N, K)."""
        result = np.empty(outcomes.shape[:2])
        for goal, rows in self._groups:
            starts = self._starts[rows, None]
            result[rows] = self._task.reward(goal, states[rows, None], outcomes[rows], starts)
        return result


def to_episodes(task: LanguageTask, specs: Sequence[EpisodeSpec], states: NDArray, actions: NDArray) -> list[Episode]:
    """One episode a row, each cut where its goal is first achieved, or at the goal's horizon."""
    episodes = []
    for spec, row_states, row_actions in zip(specs, states, actions, strict=True):
        goal = goal_of(task, spec)
        horizon = min(len(row_actions), task.horizon(goal))
        achieved = task.achieved(goal, row_states[1 : horizon + 1], row_states[:1])
        length = int(achieved.argmax()) + 1 if achieved.any() else horizon
        episodes.append(to_episode(task, spec, row_states[: length + 1], row_actions[:length]))
    return episodes


def to_episode(task: LanguageTask, spec: EpisodeSpec, states: NDArray, actions: NDArray) -> Episode:
    """An imagined episode, judged by the code that judges real ones."""
    goal = goal_of(task, spec)
    start = states[:1]
    success = bool(task.achieved(goal, states[-1:], start)[0])
    return Episode(
        goal_id=goal.id,
        family=goal.family,
        split=spec.split,
        instruction=spec.instruction,
        states=np.asarray(states, np.float32).copy(),
        actions=np.asarray(actions).copy(),
        rewards=np.asarray(task.reward(goal, states[:-1], states[1:], start), np.float32),
        terminated=success,
        truncated=not success,
        success=success,
        source="imagined",
        seed=spec.seed,
    )


def goal_of(task: LanguageTask, spec: EpisodeSpec):
    return task.goal_set.find(spec.goal_id, spec.split)

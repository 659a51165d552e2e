"""Judge many imagined rollouts at once, by the predicates that judge real ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from envs.episodes import Episode
from envs.language import LanguageEnv, LanguageTask
from llm_agents.rollouts.cases import Case


def start_states(make_env: Callable[[], LanguageEnv], cases: Sequence[Case]) -> NDArray[np.float32]:
    """The real start state of each case, (N, D): where its imagined rollout begins."""
    env = make_env()
    starts = []
    for case in cases:
        options = {"goal": case.goal_id, "split": case.split, "instruction": case.instruction}
        observation, _ = env.reset(seed=case.seed, options=options)
        starts.append(observation["state"])
    env.close()
    return np.stack(starts)


class Judges:
    """Judges many rollouts for different goals at once: rows with the same goal are judged together."""

    def __init__(self, task: LanguageTask, cases: Sequence[Case], starts: NDArray) -> None:
        self._task = task
        self._starts = starts
        rows = defaultdict(list)
        for row, case in enumerate(cases):
            rows[case.goal_id, case.split].append(row)
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


def to_episodes(task: LanguageTask, cases: Sequence[Case], states: NDArray, actions: NDArray) -> list[Episode]:
    """One episode a row, each cut where its goal is first achieved, or at the goal's horizon."""
    episodes = []
    for case, row_states, row_actions in zip(cases, states, actions, strict=True):
        goal = goal_of(task, case)
        horizon = min(len(row_actions), task.horizon(goal))
        achieved = task.achieved(goal, row_states[1 : horizon + 1], row_states[:1])
        length = int(achieved.argmax()) + 1 if achieved.any() else horizon
        episodes.append(to_episode(task, case, row_states[: length + 1], row_actions[:length]))
    return episodes


def to_episode(task: LanguageTask, case: Case, states: NDArray, actions: NDArray) -> Episode:
    """An imagined episode, judged by the code that judges real ones."""
    goal = goal_of(task, case)
    start = states[:1]
    success = bool(task.achieved(goal, states[-1:], start)[0])
    return Episode(
        goal_id=goal.id,
        family=goal.family,
        split=case.split,
        instruction=case.instruction,
        states=np.asarray(states, np.float32).copy(),
        actions=np.asarray(actions).copy(),
        rewards=np.asarray(task.reward(goal, states[:-1], states[1:], start), np.float32),
        terminated=success,
        truncated=not success,
        success=success,
        source="imagined",
        seed=case.seed,
    )


def goal_of(task: LanguageTask, case: Case):
    return task.goal_set.find(case.goal_id, case.split)

"""The goals of Meta-World and their predicates, rewards and texts."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from envs.goals import SPLITS, Goal, GoalSet
from envs.language import Expert, InvalidAction, LanguageTask, start_of
from envs.meta_world.describe import describe
from envs.meta_world.phrasings import PHRASES, phrasings
from envs.meta_world.picture import draw
from envs.meta_world.plausible import plausible
from envs.meta_world.predicates import STEPS, achieved, cost

SUCCESS_BONUS = 10.0
REWARD_SCALE = 10.0
MAX_HORIZON = 500  # the library's own limit

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)


class MetaWorldTask(LanguageTask):
    """Twenty tasks of Meta-World and two composed ones, as in ImagineBench; each is one goal and one family.

    The reward of a transition is ``10 * (cost(s) - cost(s')) + 10 * achieved(s')``, with a cost in metres that grades
    how far a state is from done (`envs.meta_world.predicates.cost`); it needs no simulator.

    Args:
        horizon: the number of steps after which an episode is truncated, at most 500; doubled for tasks of two steps.
    """

    def __init__(self, horizon: int = 100) -> None:
        if not 1 <= horizon <= MAX_HORIZON:
            raise ValueError(f"the horizon is {horizon}: it must be from 1 to {MAX_HORIZON}, the library's limit")
        self._horizon = horizon
        self.goal_set = GoalSet(Goal(t, t, split, phrasings(t, split)) for split in SPLITS for t in PHRASES[split])

    def describe(self, state: NDArray) -> str:
        return describe(state)

    def action_texts(self, state: NDArray) -> None:
        return None

    def parse_action(self, text: str) -> NDArray[np.float32]:
        """Return the action (4,) of a text such as ``0.1 -0.5 0 1``: steps right, ahead and up, and the gripper."""
        numbers = np.array(_NUMBER.findall(text), np.float32)
        if numbers.shape != (4,) or not (np.abs(numbers) <= 1).all():
            raise InvalidAction(f"{text!r} is no action: four numbers from -1 to 1 are, such as '0.1 -0.5 0 1'")
        return numbers

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        return achieved(goal.id, np.asarray(states), start_of(states, start))

    def cost(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.floating]:
        """Return how far each state is from the goal, (..., D) -> (...), in metres."""
        return cost(goal.id, np.asarray(states), start_of(states, start))

    def reward(
        self, goal: Goal, states: NDArray, next_states: NDArray, start: NDArray | None = None
    ) -> NDArray[np.floating]:
        start = start_of(states, start)
        progress = self.cost(goal, states, start) - self.cost(goal, next_states, start)
        return REWARD_SCALE * progress + SUCCESS_BONUS * self.achieved(goal, next_states, start)

    def horizon(self, goal: Goal) -> int:
        return min(MAX_HORIZON, self._horizon * len(STEPS[goal.id]))

    def plausible(self, states: NDArray, actions: NDArray, next_states: NDArray) -> NDArray[np.bool_]:
        return plausible(np.asarray(states), np.asarray(next_states))

    def render_state(self, state: NDArray) -> NDArray[np.uint8]:
        return draw(state)

    def expert(self) -> Expert:
        from envs.meta_world.expert import MetaWorldExpert

        return MetaWorldExpert()

    def reset_options(self, goal: Goal) -> dict[str, str]:
        return {"task": goal.id}

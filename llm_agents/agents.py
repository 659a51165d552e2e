"""Agents that need no training. The trained ones stand beside what they are trained by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.language import LanguageTask
from llm_agents.errors import UserError
from llm_agents.rollout import Agent, Decision, Lane


class RandomAgent:
    """Draws every action uniformly."""

    def act(self, lanes: Sequence[Lane]) -> list[Decision]:
        return [Decision(random_action(lane)) for lane in lanes]


class ExpertAgent:
    """The task's scripted expert.

    Raises:
        UserError: the task has none.
    """

    def __init__(self, task: LanguageTask) -> None:
        expert = task.expert()
        if expert is None:
            raise UserError(f"{type(task).__name__} has no scripted expert")
        self._expert = expert

    def act(self, lanes: Sequence[Lane]) -> list[Decision]:
        return [Decision(action) for action in self._expert.act([lane.env for lane in lanes])]


class NoisyAgent:
    """Another agent that takes a random action with a given probability."""

    def __init__(self, agent: Agent, random_share: float) -> None:
        self._agent = agent
        self._random_share = random_share

    def act(self, lanes: Sequence[Lane]) -> list[Decision]:
        decisions = self._agent.act(lanes)
        return [
            Decision(random_action(lane)) if lane.rng.random() < self._random_share else decision
            for lane, decision in zip(lanes, decisions, strict=True)
        ]


class LateAgent:
    """Another agent that takes over after some random actions: so it meets states that its own doing does not lead to.

    Args:
        most: at most so many; how many is a matter of the episode's seed alone, see `num_random_actions`.
    """

    def __init__(self, agent: Agent, most: int) -> None:
        self._agent, self._most = agent, most

    def act(self, lanes: Sequence[Lane]) -> list[Decision]:
        is_due = [len(lane.actions) >= num_random_actions(lane.case.seed, self._most) for lane in lanes]
        decisions = iter(self._agent.act([lane for lane, due in zip(lanes, is_due, strict=True) if due]))
        return [
            next(decisions) if due else Decision(random_action(lane)) for lane, due in zip(lanes, is_due, strict=True)
        ]


def num_random_actions(seed: int, most: int) -> int:
    """After how many random actions a `LateAgent` takes over in an episode with this seed, from 0 to ``most``."""
    return int(np.random.default_rng([seed, 11]).integers(most + 1))


def random_action(lane: Lane) -> int | np.ndarray:
    """An action drawn uniformly, by the episode's own randomness."""
    space = lane.env.action_space
    space.seed(int(lane.rng.integers(2**31)))
    return space.sample()

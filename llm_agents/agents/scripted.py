"""Agents that need no training. The trained ones stand beside what they are trained by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.language import LanguageTask
from llm_agents.rollouts.rollout import Agent, Decision, Lane
from llm_agents.runtime.errors import UserError


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


def random_action(lane: Lane) -> int | np.ndarray:
    """An action drawn uniformly, by the episode's own randomness."""
    space = lane.env.action_space
    space.seed(int(lane.rng.integers(2**31)))
    return space.sample()

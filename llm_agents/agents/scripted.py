"""Agents that need no training. The trained ones stand beside what they are trained by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.language import LanguageTask
from llm_agents.rollouts.rollout import ActionOutput, Agent, RunningEpisode
from llm_agents.runtime.errors import UserError


class RandomAgent:
    """Draws every action uniformly."""

    def act(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        return [ActionOutput(random_action(episode)) for episode in episodes]


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

    def act(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        return [ActionOutput(action) for action in self._expert.act([episode.env for episode in episodes])]


class NoisyAgent:
    """Another agent that takes a random action with a given probability."""

    def __init__(self, agent: Agent, random_fraction: float) -> None:
        self._agent = agent
        self._random_fraction = random_fraction

    def act(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        decisions = self._agent.act(episodes)
        return [
            ActionOutput(random_action(episode)) if episode.rng.random() < self._random_fraction else decision
            for episode, decision in zip(episodes, decisions, strict=True)
        ]


def random_action(episode: RunningEpisode) -> int | np.ndarray:
    """An action drawn uniformly, by the episode's own randomness."""
    space = episode.env.action_space
    space.seed(int(episode.rng.integers(2**31)))
    return space.sample()

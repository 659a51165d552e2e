"""Agents that need no training. They look at the environments themselves, which no learned agent may."""

from __future__ import annotations

from collections.abc import Sequence

from envs.language import LanguageTask
from llm_agents.rollouts.rollout import ActionOutput, AnyAgent, RunningEpisode, decide, random_action
from llm_agents.runtime.errors import UserError


class RandomAgent:
    """Draws every action uniformly."""

    def act_in(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        return [ActionOutput(random_action(episode.env, episode.rng)) for episode in episodes]


class ExpertAgent:
    """Acts by the task's scripted expert.

    Raises:
        UserError: the task has none.
    """

    def __init__(self, task: LanguageTask) -> None:
        expert = task.expert()
        if expert is None:
            raise UserError(f"{type(task).__name__} has no scripted expert")
        self._expert = expert

    def act_in(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        return [ActionOutput(action) for action in self._expert.act([episode.env for episode in episodes])]


class NoisyAgent:
    """Acts as another agent does, but takes a random action with a given probability."""

    def __init__(self, agent: AnyAgent, random_fraction: float) -> None:
        self._agent = agent
        self._random_fraction = random_fraction

    def act_in(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        outputs = decide(self._agent, episodes)
        return [
            ActionOutput(random_action(episode.env, episode.rng))
            if episode.rng.random() < self._random_fraction
            else output
            for episode, output in zip(episodes, outputs, strict=True)
        ]

"""What an agent is shown of an environment, in words."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from envs.episodes import Episode
from envs.language import LanguageTask
from llm_agents.agents.memory import Experience, TextualMemory
from llm_agents.rollouts.rollout import RunningEpisode
from llm_agents.runtime.errors import UserError


class Past(NamedTuple):
    """A step that lies behind: what was seen, and what was done then."""

    observation: str
    action: str


@dataclass(frozen=True)
class AgentObservation:
    """All that an agent may be shown before a decision.

    Attributes:
        goal: the instruction.
        observation: what it sees.
        actions: the admissible actions in words; empty where actions have none.
        past: the last steps, oldest first.
        memories: what it remembers of other episodes, the most useful first.
        invalid: whether what it wrote at the last step named no action.
    """

    goal: str
    observation: str
    actions: tuple[str, ...] = ()
    past: tuple[Past, ...] = ()
    memories: tuple[str, ...] = ()
    invalid: bool = False


class ContextBuilder:
    """Puts what happened in an environment into words.

    Args:
        num_past_actions: how many of the last actions a moment shows.
        num_past_observations: how many of the last observations, each beside the action that followed it.
        memory: experience that belongs to a moment. It is only read; fill it between rollouts.
    """

    def __init__(
        self, num_past_actions: int = 0, num_past_observations: int = 0, memory: TextualMemory | None = None
    ) -> None:
        self._num_past_actions, self._num_past_observations = num_past_actions, num_past_observations
        self._memory = memory
        self._names: dict[tuple[type, tuple[str, ...]], dict[Hashable, str]] = {}

    def of_running(self, episode: RunningEpisode) -> AgentObservation:
        """The present moment of a running episode."""
        return self._at(episode.env.task, episode, len(episode.actions), episode.text)

    def of_running_at(self, episode: RunningEpisode, step: int) -> AgentObservation:
        """What was shown at an earlier step of a running episode."""
        return self._at(episode.env.task, episode, step)

    def of_episode(self, task: LanguageTask, episode: Episode) -> list[AgentObservation]:
        """What the agent was, or would have been, shown: T moments before its actions, and where it ended."""
        return [self._at(task, episode, step) for step in range(len(episode) + 1)]

    def experience(self, task: LanguageTask, episode: Episode) -> Experience:
        """What is remembered of an episode.

        Raises:
            UserError: its actions have no words.
        """
        steps = zip(episode.states[:-1], episode.actions, strict=True)
        actions = tuple(self.action_in_words(task, state, action) for state, action in steps)
        return Experience(episode.instruction, actions, episode.success)

    def action_in_words(self, task: LanguageTask, state: np.ndarray, action: Hashable) -> str:
        """The text among those admissible in a state that names an action.

        Raises:
            UserError: none does, or actions have no words.
        """
        texts = tuple(task.action_texts(state) or ())
        if not texts:
            raise UserError(f"{type(task).__name__} has no action texts: what was done cannot be put into words")
        names = self._names.get((type(task), texts))
        if names is None:
            names = {task.parse_action(text): text for text in texts}
            self._names[type(task), texts] = names
        if action not in names:
            raise UserError(f"{type(task).__name__} has no text for action {action} among those admissible then")
        return names[action]

    def _at(
        self, task: LanguageTask, story: RunningEpisode | Episode, now: int, observation: str | None = None
    ) -> AgentObservation:
        state = story.states[now]
        return AgentObservation(
            goal=story.instruction,
            observation=task.describe(state) if observation is None else observation,
            actions=tuple(task.action_texts(state) or ()),
            past=self._past(task, story, now),
            memories=() if self._memory is None else tuple(self._memory.retrieve(story.instruction)),
            invalid=0 < now <= len(story.turns) and story.turns[now - 1].invalid,
        )

    def _past(self, task: LanguageTask, story: RunningEpisode | Episode, now: int) -> tuple[Past, ...]:
        first_seen = now - self._num_past_observations
        return tuple(
            Past(
                task.describe(story.states[t]) if t >= first_seen else "",
                self.action_in_words(task, story.states[t], story.actions[t]),
            )
            for t in range(max(0, now - self._num_past_actions), now)
        )

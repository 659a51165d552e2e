"""What an agent is shown: a typed record, never the environment itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.episodes import Episode, Turn
from envs.language import LanguageTask

MAX_ACTION_LISTS = 1024  # different lists of admissible actions whose names are remembered


@dataclass(frozen=True)
class PastStep:
    """A step that an agent may look back on.

    Attributes:
        text: the text observation in which it was taken.
        actions: the actions that were admissible then, in words; empty where actions have none.
        action: what was done, in words; None where it has none.
        turn: what an LLM agent was shown and wrote then.
    """

    text: str
    actions: tuple[str, ...] = ()
    action: str | None = None
    turn: Turn | None = field(default=None, compare=False)


@dataclass(frozen=True)
class AgentObservation:
    """All that an agent may look at before it acts.

    Attributes:
        instruction: what is asked, in words.
        text: the text observation.
        actions: the admissible actions in words; empty where actions have none.
        past: the steps of the episode so far, oldest first.
        invalid: whether what the agent wrote at the last step named no action.
        state: the state as numbers, (D,).
    """

    instruction: str
    text: str
    actions: tuple[str, ...] = ()
    past: tuple[PastStep, ...] = ()
    invalid: bool = False
    state: NDArray = field(default_factory=lambda: np.zeros(0, np.float32), compare=False, repr=False)
    randomness: np.random.Generator | None = field(default=None, compare=False, repr=False)

    @property
    def rng(self) -> np.random.Generator:
        """Randomness of this episode alone, so that an action does not depend on what runs alongside.

        Raises:
            ValueError: the observation is one of a stored episode, in which nothing is to be decided.
        """
        if self.randomness is None:
            raise ValueError("an observation of a stored episode has no randomness")
        return self.randomness


class ActionWords:
    """Puts the actions of a task into words."""

    def __init__(self, task: LanguageTask) -> None:
        self._task = task
        self._names = lru_cache(MAX_ACTION_LISTS)(self._parse)

    def admissible(self, state: NDArray) -> tuple[str, ...]:
        """Return the actions that are admissible in a state (D,); none where actions have no words."""
        return tuple(self._task.action_texts(state) or ())

    def name(self, texts: tuple[str, ...], action: Any) -> str | None:
        """Return which of the texts names an action; None where none of them does."""
        return self._names(texts).get(action) if texts else None

    def _parse(self, texts: tuple[str, ...]) -> dict[Any, str]:
        return {self._task.parse_action(text): text for text in texts}


def observations_of(task: LanguageTask, episode: Episode, words: ActionWords | None = None) -> list[AgentObservation]:
    """Rebuild what an agent was, or would have been, shown in an episode: T observations, and one of where it ended.

    Args:
        words: of the task, to be used for many episodes.
    """
    words = words or ActionWords(task)
    observations: list[AgentObservation] = []
    past: list[PastStep] = []
    for step, state in enumerate(episode.states):
        text, actions = task.describe(state), words.admissible(state)
        invalid = 0 < step <= len(episode.turns) and episode.turns[step - 1].invalid
        observations.append(AgentObservation(episode.instruction, text, actions, tuple(past), invalid, state))
        if step < len(episode):
            turn = episode.turns[step] if episode.turns else None
            past.append(PastStep(text, actions, words.name(actions, episode.actions[step]), turn))
    return observations

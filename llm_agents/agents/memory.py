"""Textual memory: what was tried for similar goals, and how it ended, in words for the prompt.

After Reflexion (Shinn et al., NeurIPS 2023), with a templated reflection in place of one that a large model writes.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations, groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional as F

from envs.episodes import Episode
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.rollouts.observation import ActionWords
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings

MAX_SHOWN_ACTIONS = 8


Similarity = Callable[[str, Sequence[str]], NDArray[np.floating]]


@dataclass(frozen=True)
class Experience:
    """An episode as it is remembered.

    Attributes:
        goal: the instruction.
        actions: the actions taken, in words.
        success: whether it ended well.
    """

    goal: str
    actions: tuple[str, ...]
    success: bool


class MemorySettings(Settings):
    """What is remembered and retrieved."""

    renamed: ClassVar[Mapping[str, str]] = {"num_recalled": "num_retrieved"}

    capacity: int = Field(1000, ge=1)
    """How many goals are remembered; the one least recently added to is forgotten first."""
    num_retrieved: int = Field(1, ge=1)
    """How many experiences are retrieved."""
    min_similarity: float = Field(0.3, ge=0, le=1)
    """Experiences of goals less similar than this are not retrieved."""


class TextualMemory:
    """One experience for each goal: its shortest success, or its last failure if it never succeeded.

    An agent only reads it. Add episodes between rollouts, not while one runs: otherwise the decisions in an episode
    would depend on which others ended before.

    Args:
        similarity: how similar a goal is to each of some others, at most 1: `word_overlap`, or `encoder_similarity`.
    """

    def __init__(self, settings: MemorySettings, similarity: Similarity) -> None:
        self._settings = settings
        self._similarity = similarity
        self._experiences: OrderedDict[str, Experience] = OrderedDict()
        self._retrieved: dict[str, list[str]] = {}  # since the last `add`

    def __len__(self) -> int:
        return len(self._experiences)

    @property
    def experiences(self) -> list[Experience]:
        """All that is remembered, least recently added to first: `add` them to another memory to restore it."""
        return list(self._experiences.values())

    def add(self, experiences: Iterable[Experience]) -> None:
        """Remember these, in their order."""
        self._retrieved.clear()
        for new in experiences:
            old = self._experiences.pop(new.goal, None)
            self._experiences[new.goal] = new if old is None or _better(new, old) else old
            if len(self._experiences) > self._settings.capacity:
                self._experiences.popitem(last=False)

    def retrieve(self, goal: str) -> list[str]:
        """Return what is worth knowing for a goal, the most similar first."""
        if goal not in self._retrieved:
            self._retrieved[goal] = self._search(goal)
        return self._retrieved[goal]

    def _search(self, goal: str) -> list[str]:
        experiences = self.experiences
        similarity = self._similarity(goal, [experience.goal for experience in experiences])
        order = np.argsort(-similarity, kind="stable")[: self._settings.num_retrieved]
        return [in_words(experiences[i]) for i in order if similarity[i] >= self._settings.min_similarity]


def experience_of(episode: Episode, words: ActionWords) -> Experience:
    """Return what is remembered of an episode.

    Raises:
        UserError: its actions have no words.
    """
    steps = zip(episode.states[:-1], episode.actions, strict=True)
    actions = [words.name(words.admissible(state), action) for state, action in steps]
    if None in actions:
        raise UserError("an episode whose actions have no words cannot be remembered: set memory to null")
    return Experience(episode.instruction, tuple(map(str, actions)), episode.success)


def restored(
    settings: MemorySettings, similarity: Similarity, metadata: Iterable[Mapping[str, Any]] = ()
) -> TextualMemory:
    """Restore a memory from what `as_metadata` recorded."""
    memory = TextualMemory(settings, similarity)
    memory.add(Experience(fact["goal"], tuple(fact["actions"]), fact["success"]) for fact in metadata)
    return memory


def as_metadata(memory: TextualMemory | None) -> list[dict[str, Any]]:
    """Return what is remembered in a form that JSON can hold."""
    return [] if memory is None else [asdict(experience) for experience in memory.experiences]


def in_words(experience: Experience) -> str:
    """Write an experience as it appears in a prompt; a failure with the lesson from it."""
    done = _run_lengths(experience.actions)
    if experience.success:
        return f"'{experience.goal}' was reached by: {done}."
    action, count = Counter(experience.actions).most_common(1)[0]
    return (
        f"'{experience.goal}' was not reached in {len(experience.actions)} steps by: {done}. "
        f"{count} of them were '{action}': do something else more often."
    )


def word_overlap(goal: str, others: Sequence[str]) -> NDArray[np.floating]:
    """Return the share of words and of ordered word pairs that a goal has in common with each of the others (Jaccard).

    The order counts because "red left of blue" and "blue left of red" have the same words. Adjacent pairs would not do:
    "the red ball left of the blue ball" has the same ones with the colours swapped.

    >>> word_overlap("red left of blue", ["red left of blue", "blue left of red", "purple"]).round(2).tolist()
    [1.0, 0.33, 0.0]
    """
    pieces = _pieces(goal)
    return np.array([len(pieces & _pieces(other)) / max(1, len(pieces | _pieces(other))) for other in others])


def encoder_similarity(encoder: TextEncoder) -> Similarity:
    """Return a similarity by the cosine between sentence embeddings.

    It knows synonyms, but hardly tells swapped arguments apart (see `llm_agents.models.text_encoder`).
    """

    def similarity(goal: str, others: Sequence[str]) -> NDArray[np.floating]:
        if not others:
            return np.zeros(0)
        embeddings = F.normalize(encoder.encode([goal, *others]).sentence_embedding(), dim=-1)
        return (embeddings[1:] @ embeddings[0]).cpu().numpy()

    return similarity


def _better(new: Experience, old: Experience) -> bool:
    """Return whether the new one teaches more: a success after a failure, a shorter success, a later failure."""
    if not (new.success and old.success):
        return new.success or not old.success
    return len(new.actions) <= len(old.actions)


def _run_lengths(actions: Sequence[str]) -> str:
    """List actions in their order, counting repeats; of many, only the last."""
    runs = [(action, len(list(group))) for action, group in groupby(actions)]
    words = [action if count == 1 else f"{action} ({count} times)" for action, count in runs]
    cut = ["..."] if len(words) > MAX_SHOWN_ACTIONS else []
    return ", ".join([*cut, *words[-MAX_SHOWN_ACTIONS:]]) or "nothing"


@lru_cache(maxsize=4096)
def _pieces(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return frozenset([*((word,) for word in words), *combinations(words, 2)])

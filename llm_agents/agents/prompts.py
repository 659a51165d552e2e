"""What an LLM agent is shown: the goal, what it sees, what it did, and what it may do; as text and as token ids.

The default lines are those of GLAM (Carta et al., ICML 2023). A prompt is written line by line, and each line is turned
into tokens by itself, so that a line has the same tokens in every prompt, and is tokenised once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from llm_agents.agents.memory import TextualMemory
from llm_agents.models.sampler import TokenReader
from llm_agents.rollouts.observation import AgentObservation, PastStep
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings

MAX_CACHED_LINES = 50_000


class PromptSettings(Settings):
    """What stands in a prompt, and in which words."""

    num_past_actions: int = Field(4, ge=0)
    """How many of the last actions are shown."""
    num_past_observations: int = Field(0, ge=0)
    """How many of the last observations stand beside the actions that followed them (GLAM: 2 of each)."""
    list_actions: bool = True
    """Whether the admissible actions are listed."""
    preamble: str = ""
    """First line; nothing by default."""
    actions_line: str = "Possible action of the agent: {actions}"
    """Line with the admissible actions."""
    goal_line: str = "Goal of the agent: {goal}"
    """Line with the goal."""
    goal_place: Literal["first", "last"] = "first"
    """Whether the goal stands before what happened, or behind what is seen, at a fixed distance from the answer. From
    which a small model learns faster depends on the tasks (docs/lab_notes.md)."""
    memory_line: str = "Experience: {memory}"
    """Line with something remembered."""
    observation_line: str = "Observation: {observation}"
    """Line with what is seen."""
    action_line: str = "Action: {action}"
    """Line with what was done."""
    invalid_line: str = "That is not a possible action."
    """Line that follows an answer that named no action."""
    ending: str = "Action:"
    """Last line, which the model continues."""

    @field_validator("actions_line", "goal_line", "memory_line", "observation_line", "action_line")
    @classmethod
    def _names_its_field(cls, line: str, info) -> str:
        field = info.field_name.removesuffix("_line")
        try:
            written = line.format(**{field: "\0"})
        except (KeyError, IndexError, ValueError):
            written = ""
        if "\0" not in written:
            raise ValueError(f"{line!r} must say where the {field} stands, as {{{field}}}, and have no other braces")
        return line

    @property
    def frame(self) -> list[str]:
        """What stands in every prompt around what it shows, line by line."""
        lines = [self.preamble, self.goal_line.format(goal=""), self.observation_line.format(observation="")]
        lines += [self.actions_line.format(actions="")] if self.list_actions else []
        lines += [self.action_line.format(action="")] if self.num_past_actions else []
        return [line.strip() for line in (*lines, self.ending) if line.strip()]

    @model_validator(mode="after")
    def _shows_observations_with_actions(self) -> PromptSettings:
        if self.num_past_observations > self.num_past_actions:
            raise ValueError(
                f"num_past_observations ({self.num_past_observations}) may not exceed num_past_actions "
                f"({self.num_past_actions}): a past observation stands beside the action that followed it"
            )
        return self


class PromptRenderer:
    """Writes observations as prompts of token ids.

    Args:
        reader: whose vocabulary and context length count.
        settings: what is shown.
        memory: experience to be recalled into the prompt. It is only read; fill it between rollouts.

    Raises:
        UserError: the model does not read tokens of its own vocabulary.
    """

    def __init__(self, reader: TokenReader, settings: PromptSettings, memory: TextualMemory | None = None) -> None:
        if not reader.reads_tokens:
            raise UserError("an LLM agent reads tokens, not encoder features: set text_input to 'words' or 'phrases'")
        self.settings = settings
        self._reader, self._memory = reader, memory
        self._cache: dict[str, list[int]] = {}
        tokenizer = reader.tokenizer
        self._begin = [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id]

    def prompts(self, observations: Sequence[AgentObservation], reserved_tokens: int) -> list[list[int]]:
        """Write a whole prompt for each observation.

        Where a prompt is too long for the context, the oldest past steps are left out, then the last memories.

        Args:
            reserved_tokens: how many tokens must be left free after each prompt.

        Raises:
            UserError: a prompt is too long even without them, or an action that is to be shown has no words.
        """
        if len(self._cache) > MAX_CACHED_LINES:
            self._cache.clear()
        self._tokenise(line for observation in observations for line in self.lines(observation))
        return [self._fit(observation, self._reader.context_length - reserved_tokens) for observation in observations]

    def lines(self, observation: AgentObservation) -> list[str]:
        """Return the lines of a prompt in which nothing is left out."""
        past = [line for step in self._past_steps(observation) for line in step]
        return [*self._head(observation), *self._memories(observation), *past, *self._tail(observation)]

    def opening(self, observation: AgentObservation) -> list[int]:
        """Return what an append-only history begins with, before the first observation."""
        return self._begin + self._ids([*self._head(observation), *self._memories(observation)])

    def next(self, observation: AgentObservation, listed: Sequence[str]) -> list[int]:
        """Return what follows in an append-only history: the observation, and the line to be continued.

        Args:
            listed: the actions that were admissible before; if others are now, they are listed again.
        """
        changed = self._actions(observation) if tuple(listed) != observation.actions else []
        return self._ids([*changed, *self._tail(observation)])

    def _fit(self, observation: AgentObservation, context_length: int) -> list[int]:
        head, tail = self._begin + self._ids(self._head(observation)), self._ids(self._tail(observation))
        memories = [self._ids([line]) for line in self._memories(observation)]
        past = [self._ids(lines) for lines in self._past_steps(observation)]
        spare = context_length - len(head) - len(tail)
        if spare < 0:
            raise UserError(
                f"a prompt of {len(head) + len(tail)} tokens without any history does not fit into the "
                f"{max(0, context_length)} that the model's window of {self._reader.context_length} leaves"
            )
        num_memories = _how_many_fit(memories, spare)
        spare -= sum(map(len, memories[:num_memories]))
        num_past = _how_many_fit(past[::-1], spare) if num_memories == len(memories) else 0
        parts = memories[:num_memories] + past[len(past) - num_past :]
        return head + [token for part in parts for token in part] + tail

    def _head(self, observation: AgentObservation) -> list[str]:
        preamble = [f"{self.settings.preamble}\n"] if self.settings.preamble else []
        return [*preamble, *self._actions(observation), *self._goal(observation, "first")]

    def _goal(self, observation: AgentObservation, place: str) -> list[str]:
        if self.settings.goal_place != place:
            return []
        return [self.settings.goal_line.format(goal=observation.instruction) + "\n"]

    def _actions(self, observation: AgentObservation) -> list[str]:
        if not (self.settings.list_actions and observation.actions):
            return []
        return [self.settings.actions_line.format(actions=", ".join(observation.actions)) + "\n"]

    def _memories(self, observation: AgentObservation) -> list[str]:
        memories = [] if self._memory is None else self._memory.retrieve(observation.instruction)
        return [self.settings.memory_line.format(memory=memory) + "\n" for memory in memories]

    def _past_steps(self, observation: AgentObservation) -> list[list[str]]:
        """The lines of each past step that is shown."""
        settings, now = self.settings, len(observation.past)
        first_seen = now - settings.num_past_observations
        return [
            self._past_step(observation.past[step], shows_text=step >= first_seen)
            for step in range(max(0, now - settings.num_past_actions), now)
        ]

    def _past_step(self, step: PastStep, shows_text: bool) -> list[str]:
        if step.action is None:
            raise UserError("an action without words cannot be shown in a prompt: set prompts.num_past_actions to 0")
        seen = [self._text(step.text)] if shows_text else []
        return [*seen, self.settings.action_line.format(action=step.action) + "\n"]

    def _text(self, text: str) -> str:
        return self.settings.observation_line.format(observation=text) + "\n"

    def _tail(self, observation: AgentObservation) -> list[str]:
        invalid = [f"{self.settings.invalid_line}\n"] if observation.invalid else []
        return [*invalid, self._text(observation.text), *self._goal(observation, "last"), self.settings.ending]

    def _ids(self, lines: Sequence[str]) -> list[int]:
        self._tokenise(lines)
        return [token for line in lines for token in self._cache[line]]

    def _tokenise(self, lines: Iterable[str]) -> None:
        new = list(dict.fromkeys(line for line in lines if line not in self._cache))
        if new:
            ids = self._reader.tokenizer(new, add_special_tokens=False)["input_ids"]
            self._cache.update(zip(new, ids, strict=True))


def _how_many_fit(parts: Sequence[Sequence[int]], reserved_tokens: int) -> int:
    """How many of the first parts have together at most ``reserved_tokens`` tokens."""
    return int((np.cumsum([len(part) for part in parts]) <= reserved_tokens).sum())

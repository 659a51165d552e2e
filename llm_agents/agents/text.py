"""An LLM agent that writes what it thinks and what it does, and is understood generously."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from envs.episodes import Turn
from envs.language import InvalidAction, LanguageTask
from llm_agents.agents.memory import TextualMemory
from llm_agents.agents.observations import AgentObservation
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.agents.scripted import random_action
from llm_agents.models.language_model import LanguageModel
from llm_agents.rollouts.rollout import ActionOutput, RunningEpisode
from llm_agents.runtime.config import Settings
from llm_agents.runtime.errors import UserError

RANDOM = "random"


class TextAgentSettings(Settings):
    """How a text agent is prompted, how it writes, and what follows when it names no action."""

    context: Literal["append", "rewrite"] = "rewrite"
    """``append``: an episode is one growing text, whose tokens are never touched again. ``rewrite``: each step has a
    prompt of its own, with the history that the prompt settings ask for."""
    max_new_tokens: int = Field(32, ge=1)
    """Tokens written at one step, at most."""
    temperature: float = Field(1.0, ge=0)
    """Temperature of sampling; 0 takes the most probable token."""
    invalid_action: str = RANDOM
    """What is done when no action was named: ``random`` draws an admissible one; else the text of an action, such as
    the one that does nothing. A penalty is for the recipe to give: the turn is marked."""
    end_when_invalid: bool = False
    """End the episode after that action."""


class Context(NamedTuple):
    """What the model is given: all of it, and what of it is new since the turn before (None: all, a new sample)."""

    token_ids: list[int]
    new: list[int] | None


class TextAgent:
    """Acts by what a language model writes. Token in, token out: turns keep ids and log-probabilities as sampled.

    An append-only history that outgrows the window begins anew, as a new sample: with the opening and as many of the
    latest turns, as they were sampled, as fit into half of the window.

    Args:
        lm: put into eval mode; it reads tokens of its own vocabulary.
        settings: how it writes.
        prompts: what it is shown. In append-only histories the numbers of past actions and observations have no part.
        memory: experience to be recalled into the prompt. It is read only; fill it between rollouts.
    """

    def __init__(
        self,
        lm: LanguageModel,
        settings: TextAgentSettings,
        prompts: PromptSettings,
        memory: TextualMemory | None = None,
    ) -> None:
        if settings.context == "append":  # the text itself is the history
            prompts = prompts.model_copy(update={"num_past_actions": 0, "num_past_observations": 0})
        self._lm = lm.eval()
        self._settings = settings
        self._context_builder = prompts.context_builder(memory)
        self._renderer = PromptRenderer(lm, prompts)

    @torch.inference_mode()
    def act(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        """One decision a lane, drawn by its own randomness.

        Raises:
            UserError: a prompt that does not fit into the model's window, or an ``invalid_action`` that is none.
        """
        settings = self._settings
        moments = [self._context_builder.of_running(episode) for episode in episodes]
        contexts = self._contexts(episodes, moments)
        texts, *sampled = self._lm.continue_from(
            *self._lm.embed_rows([context.token_ids for context in contexts]),
            settings.max_new_tokens,
            settings.temperature,
            uniforms=torch.from_numpy(np.stack([episode.rng.random(settings.max_new_tokens) for episode in episodes])),
        )
        return [
            self._decide(episode, moment, context, text, ids[real].tolist(), log_probs[real].tolist())
            for episode, moment, context, text, ids, log_probs, real in zip(
                episodes, moments, contexts, texts, *(tensor.cpu() for tensor in sampled), strict=True
            )
        ]

    def _decide(
        self,
        episode: RunningEpisode,
        moment: AgentObservation,
        context: Context,
        text: str,
        token_ids: list[int],
        log_probs: list[float],
    ) -> ActionOutput:
        action = parse_action_text(text, episode.env.task, moment.actions)
        turn = Turn(
            prompt_ids=context.token_ids if context.new is None else context.new,
            token_ids=token_ids,
            log_probs=log_probs,
            continues=context.new is not None,
            invalid=action is None,
        )
        if action is None:
            return ActionOutput(self._instead(episode, moment), turn, ends_episode=self._settings.end_when_invalid)
        return ActionOutput(action, turn)

    def _instead(self, episode: RunningEpisode, moment: AgentObservation) -> Any:
        """The action that is taken where none was named."""
        task, name = episode.env.task, self._settings.invalid_action
        if name == RANDOM and not moment.actions:
            return random_action(episode)
        if name == RANDOM:
            return task.parse_action(moment.actions[episode.rng.integers(len(moment.actions))])
        if moment.actions and name not in moment.actions:
            raise UserError(f"invalid_action is {name!r}, which is not admissible: {', '.join(moment.actions)} are")
        return task.parse_action(name)

    def _contexts(self, episodes: Sequence[RunningEpisode], moments: Sequence[AgentObservation]) -> list[Context]:
        reserved_tokens = self._settings.max_new_tokens
        if self._settings.context == "rewrite":
            return [Context(prompt, None) for prompt in self._renderer.prompts(moments, reserved_tokens)]
        return [self._append(episode, moment) for episode, moment in zip(episodes, moments, strict=True)]

    def _append(self, episode: RunningEpisode, moment: AgentObservation) -> Context:
        new = self._renderer.next(moment, _admissible(episode, len(episode.turns) - 1))
        begin = max((step for step, turn in enumerate(episode.turns) if not turn.continues), default=None)
        if begin is None:
            return self._begin_with(self._renderer.opening(moment) + new)
        before = [token for turn in episode.turns[begin:] for token in (*turn.prompt_ids, *turn.token_ids)]
        if len(before) + len(new) + self._settings.max_new_tokens <= self._lm.context_length:
            return Context(before + new, new)
        return self._begin_anew(episode, moment, new)

    def _begin_anew(self, episode: RunningEpisode, moment: AgentObservation, new: list[int]) -> Context:
        """The opening, the latest turns that fit into half of the window, and what is new."""
        opening = self._renderer.opening(moment)
        spare = (self._lm.context_length - self._settings.max_new_tokens) // 2 - len(opening) - len(new)
        kept: list[int] = []
        for step in range(len(episode.turns) - 1, -1, -1):
            shown = self._renderer.next(
                self._context_builder.of_running_at(episode, step), _admissible(episode, step - 1)
            )
            turn = [*shown, *episode.turns[step].token_ids]
            if len(turn) + len(kept) > spare:
                break
            kept = turn + kept
        return self._begin_with(opening + kept + new)

    def _begin_with(self, token_ids: list[int]) -> Context:
        new = self._settings.max_new_tokens
        if len(token_ids) + new > self._lm.context_length:
            raise UserError(
                f"a prompt of {len(token_ids)} tokens and {new} new ones do not fit into the model's window of "
                f"{self._lm.context_length}"
            )
        return Context(token_ids, None)


def _admissible(episode: RunningEpisode, step: int) -> tuple[str, ...]:
    """The actions in words that were admissible at a step; before the first, those that were so then."""
    return tuple(episode.env.task.action_texts(episode.states[max(0, step)]) or ())


def parse_action_text(written: str, task: LanguageTask, actions: Sequence[str]) -> Any | None:
    """The action that a text names, or None.

    Only what follows the last "Action:" counts, where there is one. In it the admissible action that is mentioned last
    is taken, of several that end together the longest; case, punctuation and quotes do not matter. Where actions have
    no words, all of it goes to the task's own parser.
    """
    said = re.split(r"\baction\s*:", written, flags=re.IGNORECASE)[-1].strip()
    named = find_last(said, actions) if actions else said
    if named is None:
        return None
    try:
        return task.parse_action(named)
    except InvalidAction:
        return None


def find_last(said: str, actions: Sequence[str]) -> str | None:
    """The action that is mentioned last, word by word; of several that end together, the longest."""
    words = _words(said)
    best, best_end, best_length = None, 0, 0
    for action in actions:
        wanted = _words(action)
        ends = [i for i in range(len(wanted), len(words) + 1) if words[i - len(wanted) : i] == wanted]
        if wanted and ends and (ends[-1], len(wanted)) > (best_end, best_length):
            best, best_end, best_length = action, ends[-1], len(wanted)
    return best


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())

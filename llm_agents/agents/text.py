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
from llm_agents.agents.observations import Moment
from llm_agents.agents.prompts import Prompter, PromptSettings
from llm_agents.agents.scripted import random_action
from llm_agents.models.language_model import LanguageModel
from llm_agents.rollouts.rollout import Decision, Lane
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
        self._narrator = prompts.narrator(memory)
        self._prompter = Prompter(lm, prompts)

    @torch.inference_mode()
    def act(self, lanes: Sequence[Lane]) -> list[Decision]:
        """One decision a lane, drawn by its own randomness.

        Raises:
            UserError: a prompt that does not fit into the model's window, or an ``invalid_action`` that is none.
        """
        settings = self._settings
        moments = [self._narrator.of_lane(lane) for lane in lanes]
        contexts = self._contexts(lanes, moments)
        texts, *sampled = self._lm.continue_from(
            *self._lm.embed_rows([context.token_ids for context in contexts]),
            settings.max_new_tokens,
            settings.temperature,
            uniforms=torch.from_numpy(np.stack([lane.rng.random(settings.max_new_tokens) for lane in lanes])),
        )
        return [
            self._decide(lane, moment, context, text, ids[real].tolist(), log_probs[real].tolist())
            for lane, moment, context, text, ids, log_probs, real in zip(
                lanes, moments, contexts, texts, *(tensor.cpu() for tensor in sampled), strict=True
            )
        ]

    def _decide(
        self, lane: Lane, moment: Moment, context: Context, text: str, token_ids: list[int], log_probs: list[float]
    ) -> Decision:
        action = understand(text, lane.env.task, moment.actions)
        turn = Turn(
            prompt_ids=context.token_ids if context.new is None else context.new,
            token_ids=token_ids,
            log_probs=log_probs,
            continues=context.new is not None,
            invalid=action is None,
        )
        if action is None:
            return Decision(self._instead(lane, moment), turn, ends_episode=self._settings.end_when_invalid)
        return Decision(action, turn)

    def _instead(self, lane: Lane, moment: Moment) -> Any:
        """The action that is taken where none was named."""
        task, name = lane.env.task, self._settings.invalid_action
        if name == RANDOM and not moment.actions:
            return random_action(lane)
        if name == RANDOM:
            return task.parse_action(moment.actions[lane.rng.integers(len(moment.actions))])
        if moment.actions and name not in moment.actions:
            raise UserError(f"invalid_action is {name!r}, which is not admissible: {', '.join(moment.actions)} are")
        return task.parse_action(name)

    def _contexts(self, lanes: Sequence[Lane], moments: Sequence[Moment]) -> list[Context]:
        room = self._settings.max_new_tokens
        if self._settings.context == "rewrite":
            return [Context(prompt, None) for prompt in self._prompter.prompts(moments, room)]
        return [self._append(lane, moment) for lane, moment in zip(lanes, moments, strict=True)]

    def _append(self, lane: Lane, moment: Moment) -> Context:
        new = self._prompter.next(moment, _admissible(lane, len(lane.turns) - 1))
        begin = max((step for step, turn in enumerate(lane.turns) if not turn.continues), default=None)
        if begin is None:
            return self._begin_with(self._prompter.opening(moment) + new)
        before = [token for turn in lane.turns[begin:] for token in (*turn.prompt_ids, *turn.token_ids)]
        if len(before) + len(new) + self._settings.max_new_tokens <= self._lm.window:
            return Context(before + new, new)
        return self._begin_anew(lane, moment, new)

    def _begin_anew(self, lane: Lane, moment: Moment, new: list[int]) -> Context:
        """The opening, the latest turns that fit into half of the window, and what is new."""
        opening = self._prompter.opening(moment)
        spare = (self._lm.window - self._settings.max_new_tokens) // 2 - len(opening) - len(new)
        kept: list[int] = []
        for step in range(len(lane.turns) - 1, -1, -1):
            shown = self._prompter.next(self._narrator.of_lane_at(lane, step), _admissible(lane, step - 1))
            turn = [*shown, *lane.turns[step].token_ids]
            if len(turn) + len(kept) > spare:
                break
            kept = turn + kept
        return self._begin_with(opening + kept + new)

    def _begin_with(self, token_ids: list[int]) -> Context:
        new = self._settings.max_new_tokens
        if len(token_ids) + new > self._lm.window:
            raise UserError(
                f"a prompt of {len(token_ids)} tokens and {new} new ones do not fit into the model's window of "
                f"{self._lm.window}"
            )
        return Context(token_ids, None)


def _admissible(lane: Lane, step: int) -> tuple[str, ...]:
    """The actions in words that were admissible at a step; before the first, those that were so then."""
    return tuple(lane.env.task.action_texts(lane.states[max(0, step)]) or ())


def understand(written: str, task: LanguageTask, actions: Sequence[str]) -> Any | None:
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

"""An LLM agent that writes what it thinks and what it does, and is understood generously."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from envs.episodes import Turn
from llm_agents.agents.memory import TextualMemory
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.models.sampler import Completion, Sampler
from llm_agents.rollouts.observation import AgentObservation
from llm_agents.rollouts.rollout import RANDOM, ActionOutput, OnInvalid
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings


class TextAgentSettings(Settings):
    """How a text agent is prompted, how it writes, and what follows when it names no action."""

    context: Literal["append", "rewrite"] = "rewrite"
    """``append``: an episode is one growing text, whose tokens are never touched again. ``rewrite``: each step has a
    prompt of its own, with the history that the prompt settings ask for."""
    max_new_tokens: int = Field(32, ge=1)
    """Tokens written at one step, at most."""
    temperature: float = Field(1.0, ge=0)
    """Temperature of sampling; 0 takes the most probable token."""
    stop: tuple[str, ...] = ()
    """Texts after which an answer ends, such as a line break."""
    invalid_action: str = RANDOM
    """What is done when no action was named: ``random`` draws an admissible one; otherwise the text of an action, such
    as the one that does nothing. A penalty is for the recipe to give: the turn is marked."""
    end_when_invalid: bool = False
    """End the episode after that action."""


class Context(NamedTuple):
    """What the model is given: all of it, and what of it is new since the turn before (None: all, a new sample)."""

    token_ids: list[int]
    new: list[int] | None


class TextAgent:
    """Acts by what a language model writes. Token in, token out: turns keep ids and log-probabilities as sampled.

    An append-only history that outgrows the context begins anew, as a new sample: with the opening and as many of the
    latest turns, as they were sampled, as fit into half of the context.

    Args:
        sampler: writes.
        settings: how it writes.
        prompts: what it is shown. In append-only histories the numbers of past actions and observations have no part.
        memory: experience to be recalled into the prompt. It is read only; fill it between rollouts.
    """

    def __init__(
        self,
        sampler: Sampler,
        settings: TextAgentSettings,
        prompts: PromptSettings,
        memory: TextualMemory | None = None,
    ) -> None:
        if settings.context == "append":  # the text itself is the history
            prompts = prompts.model_copy(update={"num_past_actions": 0, "num_past_observations": 0})
        self._sampler, self._settings = sampler, settings
        self._renderer = PromptRenderer(sampler, prompts, memory)
        self._on_invalid = OnInvalid(settings.invalid_action, settings.end_when_invalid)

    def act(self, observations: Sequence[AgentObservation]) -> list[ActionOutput]:
        """Write once for each observation, by the randomness of its episode.

        Raises:
            UserError: a prompt that does not fit into the model's context.
        """
        settings = self._settings
        contexts = self._contexts(observations)
        completions = self._sampler.sample(
            [context.token_ids for context in contexts],
            [observation.rng for observation in observations],
            settings.max_new_tokens,
            settings.temperature,
            settings.stop,
        )
        return [self._output(*each) for each in zip(observations, contexts, completions, strict=True)]

    def _output(self, observation: AgentObservation, context: Context, completion: Completion) -> ActionOutput:
        named = parse_action_text(completion.text, observation.actions)
        turn = Turn(
            prompt_ids=context.token_ids if context.new is None else context.new,
            token_ids=completion.token_ids,
            log_probs=completion.log_probs,
            continues=context.new is not None,
        )
        return ActionOutput(text=named, turn=turn, on_invalid=self._on_invalid)

    def _contexts(self, observations: Sequence[AgentObservation]) -> list[Context]:
        reserved = self._settings.max_new_tokens
        if self._settings.context == "rewrite":
            return [Context(prompt, None) for prompt in self._renderer.prompts(observations, reserved)]
        return [self._append(observation) for observation in observations]

    def _append(self, observation: AgentObservation) -> Context:
        new = self._renderer.next(observation, _listed_before(observation, len(observation.past)))
        turns = [step.turn for step in observation.past]
        begins = [step for step, turn in enumerate(turns) if turn is not None and not turn.continues]
        if not begins:
            return self._begin_with(self._renderer.opening(observation) + new)
        since = [turn for turn in turns[begins[-1] :] if turn is not None]
        before = [token for turn in since for token in (*turn.prompt_ids, *turn.token_ids)]
        if len(before) + len(new) + self._settings.max_new_tokens <= self._sampler.context_length:
            return Context(before + new, new)
        return self._begin_anew(observation, new)

    def _begin_anew(self, observation: AgentObservation, new: list[int]) -> Context:
        """The opening, the latest turns that fit into half of the context, and what is new."""
        opening = self._renderer.opening(observation)
        spare = (self._sampler.context_length - self._settings.max_new_tokens) // 2 - len(opening) - len(new)
        kept: list[int] = []
        for step in range(len(observation.past) - 1, -1, -1):
            turn = observation.past[step].turn
            if turn is None:
                break
            shown = self._renderer.next(_earlier(observation, step), _listed_before(observation, step))
            tokens = [*shown, *turn.token_ids]
            if len(tokens) + len(kept) > spare:
                break
            kept = tokens + kept
        return self._begin_with(opening + kept + new)

    def _begin_with(self, token_ids: list[int]) -> Context:
        new, context_length = self._settings.max_new_tokens, self._sampler.context_length
        if len(token_ids) + new > context_length:
            raise UserError(
                f"a prompt of {len(token_ids)} tokens and {new} new ones do not fit into the model's window of "
                f"{context_length}"
            )
        return Context(token_ids, None)


def _earlier(observation: AgentObservation, step: int) -> AgentObservation:
    """What was shown at an earlier step of the episode."""
    past = observation.past[:step]
    invalid = bool(past) and past[-1].turn is not None and past[-1].turn.invalid
    then = observation.past[step]
    return AgentObservation(observation.instruction, then.text, then.actions, past, invalid)


def _listed_before(observation: AgentObservation, step: int) -> tuple[str, ...]:
    """The actions that were admissible at the step before; before the first, those that were so then."""
    if not observation.past:
        return observation.actions
    return observation.past[max(0, step - 1)].actions


def parse_action_text(written: str, actions: Sequence[str]) -> str | None:
    """Find the action that a text names; None if it names none.

    Only what follows the last "Action:" counts, where there is one. In it the admissible action that is mentioned last
    is taken, of several that end together the longest; case, punctuation and quotes do not matter. Where actions have
    no words, all of it is for the task's own parser.
    """
    said = re.split(r"\baction\s*:", written, flags=re.IGNORECASE)[-1].strip()
    return find_last(said, actions) if actions else said


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

"""An LLM agent that chooses among the admissible action texts by how probable its model finds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.episodes import Turn
from llm_agents.agents.memory import TextualMemory
from llm_agents.agents.observations import AgentObservation
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.models.action_scorer import ActionScorer
from llm_agents.rollouts.rollout import ActionOutput, RunningEpisode
from llm_agents.runtime.errors import UserError


class ScoringAgent:
    """Acts by an `ActionScorer`.

    Each turn keeps what training needs to compute the same probability again: prompt, candidates and choice, with the
    behaviour policy's log-probability and value.

    Args:
        scorer: put into eval mode. Train it without dropout, or what is trained is not what acted.
        prompts: what the model is shown.
        temperature: scores are divided by it; 0 takes the best action (and notes its log-probability at 1).
        memory: experience to be recalled into the prompt. It is read only; fill it between rollouts.
    """

    def __init__(
        self,
        scorer: ActionScorer,
        prompts: PromptSettings,
        temperature: float = 1.0,
        memory: TextualMemory | None = None,
    ) -> None:
        self._scorer = scorer.eval()
        self._context_builder = prompts.context_builder(memory)
        self._renderer = PromptRenderer(scorer.lm, prompts)
        self._temperature = temperature

    @torch.inference_mode()
    def act(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        """One decision a lane, drawn by its own randomness.

        Raises:
            UserError: an environment without action texts, or a prompt that does not fit into the model's window.
        """
        moments = [self._context_builder.of_running(episode) for episode in episodes]
        for episode, moment in zip(episodes, moments, strict=True):
            if not moment.actions:
                raise UserError(f"{type(episode.env.task).__name__} has no action texts: a ScoringAgent needs some")
        prompts = self.prompts(moments)
        scores = self._scorer(prompts, [moment.actions for moment in moments])
        log_probs = (scores.logits / (self._temperature or 1.0)).log_softmax(-1).cpu()
        values = [None] * len(episodes) if scores.values is None else scores.values.tolist()
        choices = self._choose(log_probs, episodes)
        return [
            self._decide(episode, moment, prompt, choice, float(row[choice]), value)
            for episode, moment, prompt, choice, row, value in zip(
                episodes, moments, prompts, choices, log_probs, values, strict=True
            )
        ]

    def prompts(self, moments: Sequence[AgentObservation]) -> list[list[int]]:
        """The token ids of the prompt of each moment, as this agent shows it to its model."""
        reserved_tokens = max((self._scorer.reserved_tokens(moment.actions) for moment in moments), default=0)
        return self._renderer.prompts(moments, reserved_tokens)

    def _choose(self, log_probs: Tensor, episodes: Sequence[RunningEpisode]) -> list[int]:
        if self._temperature == 0:
            return log_probs.argmax(-1).tolist()
        cumulative = log_probs.double().exp().cumsum(-1).numpy()
        draws = [episode.rng.random() * row[-1] for episode, row in zip(episodes, cumulative, strict=True)]
        return [int((row <= draw).sum()) for row, draw in zip(cumulative, draws, strict=True)]

    def _decide(
        self,
        episode: RunningEpisode,
        moment: AgentObservation,
        prompt: list[int],
        choice: int,
        log_prob: float,
        value: float | None,
    ) -> ActionOutput:
        text = moment.actions[choice]
        turn = Turn(
            prompt_ids=prompt,
            token_ids=list(self._scorer.action_set(tuple(moment.actions)).rows[choice]),
            log_probs=[log_prob],
            candidates=moment.actions,
            choice=choice,
            value=value,
        )
        return ActionOutput(episode.env.task.parse_action(text), turn)

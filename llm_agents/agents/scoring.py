"""An LLM agent that chooses among the admissible action texts by how probable its model finds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.episodes import Turn
from llm_agents.agents.memory import TextualMemory
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.models.action_scorer import ActionScorer
from llm_agents.rollouts.observation import AgentObservation
from llm_agents.rollouts.rollout import ActionOutput
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
        self._renderer = PromptRenderer(scorer.lm, prompts, memory)
        self._temperature = temperature

    @torch.inference_mode()
    def act(self, observations: Sequence[AgentObservation]) -> list[ActionOutput]:
        """Choose once for each observation, by the randomness of its episode.

        Raises:
            UserError: an environment without action texts, or a prompt that does not fit into the model's context.
        """
        if not all(observation.actions for observation in observations):
            raise UserError("an environment without action texts: a ScoringAgent needs some to choose from")
        prompts = self.prompts(observations)
        scores = self._scorer(prompts, [observation.actions for observation in observations])
        log_probs = (scores.logits / (self._temperature or 1.0)).log_softmax(-1).cpu()
        values = [None] * len(observations) if scores.values is None else scores.values.tolist()
        choices = self._choose(log_probs, observations)
        return [
            self._output(observation, prompt, choice, float(row[choice]), value)
            for observation, prompt, choice, row, value in zip(
                observations, prompts, choices, log_probs, values, strict=True
            )
        ]

    @torch.inference_mode()
    def values(self, observations: Sequence[AgentObservation]) -> list[float]:
        """Return the value of each observation; zeros without a value head."""
        scores = self._scorer(self.prompts(observations), [observation.actions for observation in observations])
        return [0.0] * len(observations) if scores.values is None else scores.values.tolist()

    def prompts(self, observations: Sequence[AgentObservation]) -> list[list[int]]:
        """Return the token ids of the prompt of each observation, as this agent shows it to its model."""
        reserved = max((self._scorer.reserved_tokens(observation.actions) for observation in observations), default=0)
        return self._renderer.prompts(observations, reserved)

    def _choose(self, log_probs: Tensor, observations: Sequence[AgentObservation]) -> list[int]:
        if self._temperature == 0:
            return log_probs.argmax(-1).tolist()
        cumulative = log_probs.double().exp().cumsum(-1).numpy()
        draws = [o.rng.random() * row[-1] for o, row in zip(observations, cumulative, strict=True)]
        return [int((row <= draw).sum()) for row, draw in zip(cumulative, draws, strict=True)]

    def _output(
        self, observation: AgentObservation, prompt: list[int], choice: int, log_prob: float, value: float | None
    ) -> ActionOutput:
        turn = Turn(
            prompt_ids=prompt,
            token_ids=list(self._scorer.action_set(observation.actions).rows[choice]),
            log_probs=[log_prob],
            candidates=observation.actions,
            choice=choice,
            value=value,
        )
        return ActionOutput(text=observation.actions[choice], turn=turn)

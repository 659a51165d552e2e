"""The grounded language model as the policy itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kalm.trajectory_lm import TrajectoryLM
from llm_agents.rollouts.observation import AgentObservation
from llm_agents.rollouts.rollout import ActionOutput


class TrajectoryLMAgent:
    """Acts by the model's action head, as if each state were the first of a rollout for the instruction.

    Rollouts in training are read from any of their states on, so this is what the model was trained for; and the cost
    of a decision does not grow with the episode.

    Args:
        temperature: 0 takes the most probable action.
    """

    def __init__(self, model: TrajectoryLM, temperature: float) -> None:
        self._model = model.eval()
        self._temperature = temperature

    @torch.inference_mode()
    def act(self, observations: Sequence[AgentObservation]) -> list[ActionOutput]:
        states = torch.stack([torch.from_numpy(observation.state) for observation in observations]).to(
            self._model.device
        )
        logits = self._model.first_action_logits(
            [observation.instruction for observation in observations], states
        ).cpu()
        actions = self._model.actions.decide(
            logits, [observation.rng for observation in observations], self._temperature
        )
        return [ActionOutput(action) for action in actions]

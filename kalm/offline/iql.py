"""Implicit Q-learning (Kostrikov et al., ICLR 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kalm.action_space import ActionSpace
from kalm.offline.cql import move_target
from kalm.offline.policy import OfflineAlgorithm, PolicySettings
from kalm.trajectory_lm import StateNormalizer
from llm_agents.training.loop import Batch

MAX_WEIGHT = 100.0


class IQLSettings(PolicySettings):
    """Implicit Q-learning."""

    algorithm: Literal["iql"] = "iql"
    """Implicit Q-learning."""
    discount: float = Field(0.95, ge=0, lt=1)
    """Discount of future reward."""
    target_rate: float = Field(0.005, gt=0, le=1)
    """Fraction of the online weights that moves into the target network at each step."""
    expectile: float = Field(0.8, gt=0.5, lt=1)
    """Expectile of the value function."""
    inverse_temperature: float = Field(3.0, ge=0)
    """How sharply the policy prefers advantageous actions; 0 is behaviour cloning."""


class ImplicitQLearning(OfflineAlgorithm):
    """Learns values without ever asking for the value of an action outside the data.

    Value, equation 5: ``L_V = E[ |expectile - 1(u < 0)| u^2 ]`` with ``u = Q_target(s, a) - V(s)``

    Q, equation 6: ``L_Q = E[ (r + discount * (1 - terminated) * V(s') - Q(s, a))^2 ]``

    Policy, equation 7: ``L_pi = -E[ exp(inverse_temperature * u) log pi(a | s) ]``, the weight at most 100.

    The three have networks of their own, so one backward pass through their sum trains each by its own loss.
    """

    Settings: ClassVar[type[PolicySettings]] = IQLSettings
    settings: IQLSettings

    def __init__(
        self, text_dim: int, normalizer: StateNormalizer, actions: ActionSpace, settings: PolicySettings
    ) -> None:
        super().__init__(text_dim, normalizer, actions, settings)
        self.q_network = self.network(text_dim, normalizer, actions.num_q_outputs, actions.num_q_inputs)
        self.v_network = self.network(text_dim, normalizer, 1)
        self.target = self.network(text_dim, normalizer, actions.num_q_outputs, actions.num_q_inputs).requires_grad_(
            False
        )
        self.target.load_state_dict(self.q_network.state_dict())

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        states, text, actions = batch["states"], batch["text"], batch["actions"]
        with torch.no_grad():
            target_q = self.actions.q_values(self.target, states, text, actions)
            next_value = self.v_network(batch["next_states"], text)[:, 0]
            td_target = batch["rewards"] + self.settings.discount * (~batch["terminated"]) * next_value
        advantage = target_q - self.v_network(states, text)[:, 0]
        value_loss = expectile_loss(advantage, self.settings.expectile)
        q_value = self.actions.q_values(self.q_network, states, text, actions)
        q_loss = F.mse_loss(q_value, td_target)
        weight = (self.settings.inverse_temperature * advantage.detach()).exp().clamp_max(MAX_WEIGHT)
        log_probs = self.actions.log_probs(self.policy(states, text), actions)
        policy_loss = -(weight * log_probs).mean()
        metrics = {"loss/value": value_loss.item(), "loss/q": q_loss.item(), "loss/policy": policy_loss.item()}
        return value_loss + q_loss + policy_loss, metrics

    def after_step(self) -> None:
        move_target(self.target, self.q_network, self.settings.target_rate)


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """The asymmetric squared error of equation 5; at 0.5 half the mean squared error."""
    weight = torch.where(difference < 0, 1 - expectile, expectile)
    return (weight * difference**2).mean()

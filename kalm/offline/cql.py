"""Discrete conservative Q-learning (Kumar et al., NeurIPS 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kalm.action_space import ActionSpace
from kalm.offline.policy import OfflineAlgorithm, PolicySettings
from kalm.trajectory_lm import StateNormalizer
from llm_agents.runtime.errors import UserError
from llm_agents.training.loop import Batch


class CQLSettings(PolicySettings):
    """Discrete conservative Q-learning."""

    algorithm: Literal["cql"] = "cql"
    """Conservative Q-learning, for discrete actions only."""
    discount: float = Field(0.95, ge=0, lt=1)
    """Discount of future reward."""
    conservative_weight: float = Field(1.0, ge=0)
    """Weight of the conservative term."""
    target_rate: float = Field(0.005, gt=0, le=1)
    """Fraction of the online weights that moves into the target network at each step."""


class ConservativeQLearning(OfflineAlgorithm):
    """Double DQN with the conservative term CQL(H), equation 4 of the paper, for discrete actions.

    ``y = r + discount * (1 - terminated) * Q_target(s', argmax_a Q(s', a))``

    ``L = huber(Q(s, a) - y) + conservative_weight * (logsumexp_a' Q(s, a') - Q(s, a))``

    A truncated episode is not a terminated one: the value of its last state still counts.

    Continuous actions are refused; for these there are `BehaviourCloning` and `ImplicitQLearning`.
    """

    Settings: ClassVar[type[PolicySettings]] = CQLSettings
    settings: CQLSettings

    @classmethod
    def check(cls, actions: ActionSpace) -> None:
        if actions.num_q_inputs:
            raise UserError("cql needs discrete actions: for continuous ones use --policy.algorithm bc or iql")

    def __init__(
        self, text_dim: int, normalizer: StateNormalizer, actions: ActionSpace, settings: PolicySettings
    ) -> None:
        super().__init__(text_dim, normalizer, actions, settings)
        self.target = self.network(text_dim, normalizer, actions.num_q_outputs).requires_grad_(False)
        self.target.load_state_dict(self.policy.state_dict())

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        values = self.policy(batch["states"], batch["text"])
        taken = values.gather(1, batch["actions"][:, None])[:, 0]
        td_loss = F.smooth_l1_loss(taken, self.td_target(batch))
        conservative = (values.logsumexp(1) - taken).mean()
        loss = td_loss + self.settings.conservative_weight * conservative
        return loss, {
            "loss/td": td_loss.item(),
            "loss/conservative": conservative.item(),
            "value/q": taken.mean().item(),
        }

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """The double-DQN target of each transition, (N,)."""
        best = self.policy(batch["next_states"], batch["text"]).argmax(1, keepdim=True)
        next_values = self.target(batch["next_states"], batch["text"]).gather(1, best)[:, 0]
        return batch["rewards"] + self.settings.discount * (~batch["terminated"]) * next_values

    def after_step(self) -> None:
        move_target(self.target, self.policy, self.settings.target_rate)


@torch.no_grad()
def move_target(target: torch.nn.Module, online: torch.nn.Module, rate: float) -> None:
    """Polyak averaging: ``target += rate * (online - target)``."""
    for old, new in zip(target.parameters(), online.parameters(), strict=True):
        old.lerp_(new, rate)

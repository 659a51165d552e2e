"""Behaviour cloning: the policy that makes the data most probable."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from kalm.offline.policy import OfflineAlgorithm, PolicySettings
from llm_agents.training.loop import Batch


class BCSettings(PolicySettings):
    """Behaviour cloning."""

    algorithm: Literal["bc"] = "bc"
    """Behaviour cloning."""


class BehaviourCloning(OfflineAlgorithm):
    """Minimises ``-log pi(a | s, g)`` over the data (Pomerleau, 1988)."""

    Settings: ClassVar[type[PolicySettings]] = BCSettings

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        logits = self.policy(batch["states"], batch["text"])
        accuracy = self.actions.accuracy(logits, batch["actions"])
        return self.actions.loss(logits, batch["actions"]), {"policy/accuracy": accuracy.item()}

"""Behaviour cloning: the policy that makes the data most probable."""

from __future__ import annotations

from torch import Tensor

from kalm.offline.policy import OfflineAlgorithm
from llm_agents.training.loop import Batch


class BehaviourCloning(OfflineAlgorithm):
    """Minimises ``-log pi(a | s, g)`` over the data (Pomerleau, 1988)."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        logits = self.policy(batch["states"], batch["text"])
        accuracy = self.actions.accuracy(logits, batch["actions"])
        return self.actions.loss(logits, batch["actions"]), {"action_accuracy": accuracy.item()}

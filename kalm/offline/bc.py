"""Behaviour cloning: the policy that makes the data most probable."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kalm.offline.policy import OfflineAlgorithm
from llm_agents.training import Batch


class BehaviourCloning(OfflineAlgorithm):
    """Minimises ``-log pi(a | s, g)`` over the data (Pomerleau, 1988)."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        logits = self.policy(batch["states"], batch["text"])
        loss = F.cross_entropy(logits, batch["actions"])
        accuracy = (logits.argmax(-1) == batch["actions"]).float().mean()
        return loss, {"action_accuracy": accuracy.item()}

"""REINFORCE (Williams, 1992): the policy gradient itself."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from llm_agents.losses.policy.ratio import log_ratio, ratio_metrics
from llm_agents.losses.policy.settings import PolicyLossSettings
from llm_agents.losses.tokens import require_shapes, weighted_sum


class ReinforceLossSettings(PolicyLossSettings):
    """The policy gradient itself; take one epoch over what was rolled out."""

    kind: Literal["reinforce"] = "reinforce"
    """REINFORCE (Williams, 1992)."""

    def loss(
        self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        loss, metrics = reinforce_loss(log_probs, advantages, weights)
        log_ratios = log_ratio(log_probs, old_log_probs, weights)
        return loss, metrics | ratio_metrics(log_ratios, log_ratios.exp(), weights)


def reinforce_loss(log_probs: Tensor, advantages: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return ``L = -sum w * A * log pi(a | s)``, whose gradient is the policy gradient if this policy sampled ``a``.

    Args:
        log_probs: (N,) decisions or (B, T) tokens.
        advantages: of the same shape; returns, less any baseline that does not depend on the action.
        weights: see `token_weights`.

    Returns:
        The loss, whose value has no meaning, and the metric ``loss/policy``.

    Raises:
        ValueError: the shapes differ.
    """
    require_shapes(log_probs.shape, advantages=advantages, weights=weights)
    loss = -weighted_sum(log_probs * advantages, weights)
    return loss, {"loss/policy": loss.item()}

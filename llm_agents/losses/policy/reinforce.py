"""REINFORCE (Williams, 1992): the policy gradient itself."""

from __future__ import annotations

from torch import Tensor

from llm_agents.losses.tokens import require_shapes, weighted_sum


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

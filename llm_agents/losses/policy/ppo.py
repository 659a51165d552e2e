"""Proximal policy optimization (Schulman et al., 2017): clipped policy and value losses, and the entropy bonus.

All take tensors of one shape: (N,) for one decision per step, (B, T) for tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm_agents.losses.policy.ratio import importance_ratio, log_ratio, ratio_metrics
from llm_agents.losses.tokens import mean_of_kept, require_shapes, weighted_sum


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_range: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the negated clipped surrogate (equation 7); see `clipped_surrogate`.

    ``L = -sum w * min(r A, clip(r, 1 - clip_range, 1 + clip_range) A)`` with ``r = exp(log_probs - old_log_probs)``

    Args:
        log_probs: of what was sampled, under the policy being trained.
        old_log_probs: the same under the behaviour policy, as stored when it was sampled.
        advantages: of the same shape.
        weights: see `token_weights`; zero for padding and for what the environment wrote.
        dual_clip: see `clipped_surrogate`.

    Returns:
        The loss, and the metrics ``loss/policy``, ``policy/clip_fraction`` and those of `ratio_metrics`.

    Raises:
        ValueError: the shapes differ.
    """
    require_shapes(log_probs.shape, advantages=advantages)
    log_ratios = log_ratio(log_probs, old_log_probs, weights)
    ratio = importance_ratio(log_ratios, weights, "token")
    surrogate, clipped = clipped_surrogate(ratio, advantages, clip_range, clip_range, dual_clip)
    loss = -weighted_sum(surrogate, weights)
    metrics = {"loss/policy": loss.item(), "policy/clip_fraction": mean_of_kept(clipped, weights)}
    return loss, metrics | ratio_metrics(log_ratios, ratio, weights)


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the pessimistic surrogate, to be maximised, and where the clip removed its gradient (booleans).

    ``S = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)``; with ``dual_clip``, ``max(S, dual_clip * A)`` for
    ``A < 0`` (Ye et al., AAAI 2020), without which a bad action that has become very probable has unbounded weight.

    Raises:
        ValueError: ``dual_clip`` is not above 1.
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
    unclipped = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    surrogate = torch.minimum(unclipped, bounded)
    clipped = bounded < unclipped
    if dual_clip is not None:
        floor = torch.where(advantages < 0, dual_clip * advantages, -torch.inf)
        clipped = clipped | (surrogate < floor)
        surrogate = torch.maximum(surrogate, floor)
    return surrogate, clipped


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, clip_range: float | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return half the squared error of a value head, clipped around the values that the advantages were computed with.

    ``L = sum w * 0.5 * max((V - R)^2, (V_clipped - R)^2)``, ``V_clipped = V_old + clip(V - V_old, +-clip_range)``

    The clip comes from OpenAI's baselines, not from the paper. It is in units of the return: 0.2 is a lot for returns
    up to 1, and next to nothing for returns up to 20.

    Args:
        clip_range: None for no clipping.

    Returns:
        The loss, and the metrics ``loss/value``, ``value/clip_fraction`` and ``value/explained_variance`` (of the old
        values, over this batch).

    Raises:
        ValueError: the shapes differ.
    """
    require_shapes(values.shape, old_values=old_values, returns=returns, weights=weights)
    errors = (values - returns) ** 2
    clipped = torch.zeros_like(weights, dtype=torch.bool)
    if clip_range is not None:
        bounded = old_values + (values - old_values).clamp(-clip_range, clip_range)
        bounded_errors = (bounded - returns) ** 2
        clipped = bounded_errors > errors
        errors = torch.maximum(errors, bounded_errors)
    loss = 0.5 * weighted_sum(errors, weights)
    return loss, {
        "loss/value": loss.item(),
        "value/clip_fraction": mean_of_kept(clipped, weights),
        "value/explained_variance": explained_variance(old_values, returns, weights > 0),
    }


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Return ``1 - Var(R - V) / Var(R)`` over the mask: 1 for perfect values, 0 for a constant; NaN for equal returns.

    All three have the same shape, whatever it is.
    """
    left, total = (returns - values)[mask], returns[mask]
    variance = total.var(correction=0)
    return (1 - left.var(correction=0) / variance).item() if variance > 0 else float("nan")


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each distribution in nats, (..., K) -> (...): ``-sum_k p_k log p_k``.

    Choices with a logit of minus infinity, such as inadmissible actions, do not contribute.
    """
    log_probs = logits.log_softmax(-1)
    # Filled before the product: minus infinity times zero is NaN, and so is its gradient.
    return -(log_probs.exp() * log_probs.masked_fill(logits == -torch.inf, 0.0)).sum(-1)


def entropy_loss(entropies: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return ``L = -sum w * H``, to be added with the entropy coefficient, and the metric ``policy/entropy``.

    Raises:
        ValueError: the shapes differ.
    """
    require_shapes(weights.shape, entropies=entropies)
    return -weighted_sum(entropies, weights), {"policy/entropy": mean_of_kept(entropies, weights)}

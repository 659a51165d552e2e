"""How much more probable one policy makes what was sampled than another does."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from llm_agents.losses.tokens import mean_of_kept, require_shapes

RatioLevel = Literal["token", "geometric", "sequence"]


MAX_LOG_RATIO = 10.0  # exp(89) is infinite in float32, and one such token has turned whole models into NaN


def log_ratio(log_probs: Tensor, other_log_probs: Tensor, weights: Tensor) -> Tensor:
    """Return ``log pi(a) - log pi'(a)``, clamped to +-10, in the common shape; zero, without gradient, for weight zero.

    Raises:
        ValueError: the shapes differ.
    """
    require_shapes(log_probs.shape, other_log_probs=other_log_probs, weights=weights)
    # The mask comes before anything else: a gradient of zero times the derivative at padding could be NaN.
    difference = torch.where(weights > 0, log_probs - other_log_probs, 0.0)
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def importance_ratio(log_ratios: Tensor, weights: Tensor, level: RatioLevel) -> Tensor:
    """Return importance ratios given log-ratios (B, T): (B, T) for tokens, (B, 1) for sequences.

    - ``token``: ``r_t = exp(d_t)``, which PPO and GRPO clip one by one.
    - ``geometric``: ``r = exp(mean_t d_t)``, the ``|o|``-th root of the sequence's ratio (GSPO; Zheng et al., 2025,
      equation 7): what is rewarded as a whole is clipped as a whole, on a scale that does not depend on its length.
    - ``sequence``: ``r = exp(sum_t d_t)``, the true ratio of the sequence (RLOO). Its logarithm is clamped to +-10.

    Raises:
        ValueError: the level is unknown, or it needs sequences and the tensors are not (B, T).
    """
    if level == "token":
        return log_ratios.exp()
    if level not in ("geometric", "sequence"):
        raise ValueError(f"the level of a ratio must be token, geometric or sequence, got {level!r}")
    if log_ratios.ndim != 2:
        raise ValueError(f"a ratio of sequences needs tokens of shape (B, T), got {tuple(log_ratios.shape)}")
    total = log_ratios.sum(1, keepdim=True)
    if level == "geometric":
        return (total / (weights > 0).sum(1, keepdim=True).clamp_min(1)).exp()
    return total.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def ratio_metrics(log_ratios: Tensor, ratio: Tensor, weights: Tensor) -> dict[str, float]:
    """Measure how far the policy has moved from the one that acted.

    ``policy/kl`` is ``mean(r - 1 - log r)`` over tokens, an unbiased estimate of KL(old || new) that is never negative
    (Schulman, "Approximating KL divergence", 2020). ``policy/ratio_min`` and ``policy/ratio_max`` are the extremes of
    the ratio that was clipped.
    """
    detached = log_ratios.detach()
    kept = ratio.detach().expand_as(weights)[weights > 0]
    return {
        "policy/kl": mean_of_kept(detached.exp() - 1 - detached, weights),
        "policy/ratio_min": kept.min().item() if len(kept) else 1.0,
        "policy/ratio_max": kept.max().item() if len(kept) else 1.0,
    }

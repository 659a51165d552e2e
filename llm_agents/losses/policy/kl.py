"""How far the policy is from a reference, estimated from what the policy sampled."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from llm_agents.losses.policy.ratio import log_ratio
from llm_agents.losses.tokens import mean_of_kept, weighted_sum

KlEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, weights: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate KL(pi || reference) from each sampled token, in the common shape; zero where the weight is zero.

    With ``d = log pi(a) - log ref(a)``, clamped to +-10, and ``a`` sampled from ``pi`` (Schulman, "Approximating KL
    divergence", 2020):

    - ``k1 = d``: unbiased, often negative, of high variance. For rewards.
    - ``k2 = d^2 / 2``: biased, but its *gradient* is an unbiased estimate of the KL's. For losses.
    - ``k3 = exp(-d) - 1 + d``: unbiased and never negative. For metrics. As a loss, as in GRPO, its gradient is that of
      KL(reference || pi).

    The gradient of k1 is zero in expectation, so as a loss it does nothing (Tang and Munos, 2025).

    Raises:
        ValueError: the estimator is unknown or the shapes differ.
    """
    difference = log_ratio(log_probs, reference_log_probs, weights)
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference**2 / 2
    if estimator == "k3":
        return (-difference).exp() - 1 + difference
    raise ValueError(f"the KL estimator must be k1, k2 or k3, got {estimator!r}")


def kl_loss(
    log_probs: Tensor, reference_log_probs: Tensor, weights: Tensor, estimator: KlEstimator
) -> tuple[Tensor, dict[str, float]]:
    """Return ``L = sum w * k``, to be added with the KL coefficient; see `kl_estimate` for which estimator does what.

    Returns:
        The loss, and the metrics ``loss/reference_kl`` and ``policy/reference_kl``, the latter always by k3.

    Raises:
        ValueError: as in `kl_estimate`.
    """
    loss = weighted_sum(kl_estimate(log_probs, reference_log_probs, weights, estimator), weights)
    watched = kl_estimate(log_probs.detach(), reference_log_probs, weights, "k3")
    return loss, {"loss/reference_kl": loss.item(), "policy/reference_kl": mean_of_kept(watched, weights)}

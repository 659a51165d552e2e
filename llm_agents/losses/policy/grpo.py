"""Losses for advantages that belong to a whole sequence: GRPO and its family.

They differ in what a reward is compared with, which ratio is clipped, and how tokens are averaged. `VARIANTS` names the
usual combinations:

    variant = VARIANTS["dapo"]
    credit = variant.advantages(rewards, groups, group_size=8)
    weights = token_weights(mask & credit.informative[:, None], variant.aggregation)
    loss, metrics = grpo_loss(
        log_probs, old_log_probs, credit.advantages, weights, variant.clip_low, variant.clip_high, variant.ratio_level
    )

The KL to a reference is a separate loss, `kl_loss`. For GiGPO a sequence is one turn of an episode, and has the
advantage of its step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from llm_agents.credit.groups import AdvantageScaling, GroupCredit, group_relative_advantages, leave_one_out_advantages
from llm_agents.losses.policy.ppo import clipped_surrogate
from llm_agents.losses.policy.ratio import RatioLevel, importance_ratio, log_ratio, ratio_metrics
from llm_agents.losses.tokens import Aggregation, mean_of_kept, weighted_sum


@dataclass(frozen=True)
class Variant:
    """One member of the family.

    Attributes:
        advantages: a function of rewards (N,), groups (N,) and optionally ``group_size``.
        ratio_level: see `importance_ratio`.
        aggregation: see `token_weights`.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        step_scale: the scale of `gigpo_advantages`; None if steps have no advantages of their own.
    """

    advantages: Callable[..., GroupCredit]
    ratio_level: RatioLevel
    aggregation: Aggregation
    clip_low: float
    clip_high: float
    step_scale: AdvantageScaling | None = None


UNSCALED = partial(group_relative_advantages, scale="none")


VARIANTS = {
    # Shao et al., 2024
    "grpo": Variant(group_relative_advantages, "token", "sequence_mean", 0.2, 0.2, "group"),
    # Liu et al., 2025: no division by the deviation or by the length
    "dr_grpo": Variant(UNSCALED, "token", "constant", 0.2, 0.2, "none"),
    # Yu et al., 2025: room for improbable tokens to grow; its dynamic sampling is the mask of `GroupCredit`
    "dapo": Variant(group_relative_advantages, "token", "token_mean", 0.2, 0.28, "group"),
    # Zheng et al., 2025
    "gspo": Variant(group_relative_advantages, "geometric", "sequence_mean", 3e-4, 4e-4),
    # Ahmadian et al., 2024, with the clip of TRL
    "rloo": Variant(leave_one_out_advantages, "sequence", "sequence_mean", 0.2, 0.2),
}


def grpo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio_level: RatioLevel = "token",
) -> tuple[Tensor, dict[str, float]]:
    """Return the negated clipped surrogate with one advantage per sequence (Shao et al., 2024, equation 3, without KL).

    ``L = -sum_{b,t} w_{b,t} * min(r A_b, clip(r, 1 - clip_low, 1 + clip_high) A_b)``, ``r = r_{b,t}`` or ``r_b``

    Args:
        log_probs: (B, T), of what was sampled, under the policy being trained.
        old_log_probs: (B, T), the same under the behaviour policy, as stored when it was sampled.
        advantages: (B,), the advantage of each sequence.
        weights: (B, T), see `token_weights`; zero for padding, for what the environment wrote and for sequences that
            are not ``informative``.
        clip_low, clip_high: DAPO allows more above than below.
        ratio_level: see `importance_ratio`.

    Returns:
        The loss, and the metrics ``loss/policy``, ``policy/clip_fraction`` and those of `ratio_metrics`.

    Raises:
        ValueError: the shapes do not match or the level is unknown.
    """
    if advantages.shape != log_probs.shape[:1]:
        raise ValueError(f"advantages must have shape {(len(log_probs),)}, got {tuple(advantages.shape)}")
    log_ratios = log_ratio(log_probs, old_log_probs, weights)
    ratio = importance_ratio(log_ratios, weights, ratio_level)
    surrogate, clipped = clipped_surrogate(ratio, advantages[:, None], clip_low, clip_high)
    loss = -weighted_sum(surrogate, weights)
    metrics = {"loss/policy": loss.item(), "policy/clip_fraction": mean_of_kept(clipped, weights)}
    return loss, metrics | ratio_metrics(log_ratios, ratio, weights)

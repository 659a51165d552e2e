"""Losses: pure functions of tensors, one file per family. None of them contains a model.

Shapes are (B, T) for the tokens of B sequences, with a mask or weights of that shape, and (N,) for one decision per
step or one number per sequence. Every policy loss takes weights from `token_weights` and returns a scalar and metrics,
whose names are the same everywhere:

- ``loss/policy``, ``loss/value``, ``loss/reference_kl``: the parts of the loss, without their coefficients
- ``policy/kl``: how far the policy has moved from the one that acted; ``policy/reference_kl``: from the reference
- ``policy/entropy``, ``policy/clip_fraction``, ``policy/ratio_min``, ``policy/ratio_max``
- ``policy/step_fraction``: how much of its step TRPO took
- ``value/explained_variance``, ``value/clip_fraction``
"""

from llm_agents.losses.policy.grpo import VARIANTS, Variant, grpo_loss
from llm_agents.losses.policy.kl import KlEstimator, kl_estimate, kl_loss
from llm_agents.losses.policy.ppo import entropy, entropy_loss, explained_variance, policy_loss, value_loss
from llm_agents.losses.policy.ratio import RatioLevel, importance_ratio, log_ratio
from llm_agents.losses.policy.reinforce import reinforce_loss
from llm_agents.losses.policy.trust_region import conjugate_gradient, natural_gradient_step, trpo_step
from llm_agents.losses.tokens import Aggregation, token_weights

__all__ = [
    "VARIANTS",
    "Aggregation",
    "KlEstimator",
    "RatioLevel",
    "Variant",
    "conjugate_gradient",
    "entropy",
    "entropy_loss",
    "explained_variance",
    "grpo_loss",
    "importance_ratio",
    "kl_estimate",
    "kl_loss",
    "log_ratio",
    "natural_gradient_step",
    "policy_loss",
    "reinforce_loss",
    "token_weights",
    "trpo_step",
    "value_loss",
]

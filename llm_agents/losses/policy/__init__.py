"""Losses that improve a policy: one file a loss, and one entry in ``POLICY_LOSSES`` for one that a config can name."""

from typing import Annotated

from llm_agents.losses.policy.ppo import ClippedLossSettings
from llm_agents.losses.policy.reinforce import ReinforceLossSettings
from llm_agents.losses.policy.settings import PolicyLossSettings
from llm_agents.runtime.settings import OneOf

POLICY_LOSSES: dict[str, type[PolicyLossSettings]] = {
    "clipped": ClippedLossSettings,
    "reinforce": ReinforceLossSettings,
}
PolicyLossChoice = Annotated[PolicyLossSettings, OneOf("kind", POLICY_LOSSES, default="clipped")]
"""A section of a config that says which loss improves the policy."""

__all__ = ["POLICY_LOSSES", "ClippedLossSettings", "PolicyLossChoice", "PolicyLossSettings", "ReinforceLossSettings"]

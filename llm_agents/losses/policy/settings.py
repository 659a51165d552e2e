"""What the settings of every policy loss have in common."""

from __future__ import annotations

from torch import Tensor

from llm_agents.runtime.settings import Settings


class PolicyLossSettings(Settings):
    """Which loss improves a policy that chooses once a step, with its coefficients."""

    kind: str
    """``clipped`` or ``reinforce``."""

    def loss(
        self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of decisions (N,), and metrics.

        Args:
            log_probs: of what was chosen, under the policy that is trained.
            old_log_probs: the same under the behaviour policy.
            advantages: of the choices.
            weights: see `token_weights`.
        """
        raise NotImplementedError

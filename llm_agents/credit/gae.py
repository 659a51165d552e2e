"""Credit through time: returns and generalized advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor

from llm_agents.runtime.checks import require_finite_tensor, require_shape


def discounted_returns(rewards: Tensor, ends: Tensor, discount: float) -> Tensor:
    """Sum the discounted rewards from each step to the end of its episode, (T, N).

    ``R_t = r_t + discount * (1 - end_t) * R_{t+1}``

    Nothing is added for what lies beyond the last step; if that counts, use `gae`.

    Args:
        rewards: (T, N). Padding after the end of an episode must be zero, or cut off by ``ends``.
        ends: (T, N) booleans, true at the last step of an episode.
        discount: in [0, 1].

    Raises:
        UserError: a reward is not finite.

    Two episodes, one after the other, the first of two steps:

    >>> rewards = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])[:, None]
    >>> ends = torch.tensor([False, True, False, False, True])[:, None]
    >>> discounted_returns(rewards, ends, discount=0.5)[:, 0]
    tensor([0.5000, 1.0000, 0.2500, 0.5000, 1.0000])
    """
    require_finite_tensor("reward", rewards)
    require_shape("ends", ends, rewards.shape)
    return _accumulate(rewards, ends, discount)


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    discount: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Estimate generalized advantages (Schulman et al., ICLR 2016, equation 16).

    ``delta_t = r_t + discount * (1 - terminated_t) * V(s_{t+1}) - V(s_t)``

    ``A_t = delta_t + discount * gae_lambda * (1 - terminated_t) * (1 - truncated_t) * A_{t+1}``

    After termination nothing has value. A truncated episode would have gone on: the value of its last state counts,
    but nothing of the next episode in its column.

    Args:
        rewards: (T, N), each column holding the steps of one episode after another.
        values: (T, N), the value of the state in which each action was taken.
        next_values: (T, N), the value of the state that it led to, before the next episode starts: ``values`` one step
            later where the episode goes on, the value of the last state where it ends or the column is cut off.
        terminated, truncated: (T, N) booleans, true at the last step of an episode.
        discount, gae_lambda: in [0, 1].

    Returns:
        The advantages, and the returns ``A_t + V(s_t)`` towards which a value head is trained, both (T, N).

    Raises:
        UserError: a reward or a value is not finite.

    The last step of an episode, from a state worth 1 to one worth 2, terminated or truncated:

    >>> reward, value, next_value = (torch.tensor([[number]]) for number in (0.0, 1.0, 2.0))
    >>> yes, no = torch.tensor([[True]]), torch.tensor([[False]])
    >>> gae(reward, value, next_value, terminated=yes, truncated=no, discount=0.5, gae_lambda=1.0)[0].item()
    -1.0
    >>> gae(reward, value, next_value, terminated=no, truncated=yes, discount=0.5, gae_lambda=1.0)[0].item()
    0.0
    """
    for name, tensor in (("reward", rewards), ("value", values), ("next value", next_values)):
        require_finite_tensor(name, tensor)
    for name, tensor in (
        ("values", values),
        ("next_values", next_values),
        ("terminated", terminated),
        ("truncated", truncated),
    ):
        require_shape(name, tensor, rewards.shape)
    deltas = rewards + discount * next_values * ~terminated - values
    advantages = _accumulate(deltas, terminated | truncated, discount * gae_lambda)
    return advantages, advantages + values


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Scale advantages to mean zero and variance one over the mask, and zero outside it. Any shape.

    ``(A - mean(A)) / sqrt(var(A) + 1e-8)``, the variance with Bessel's correction. A single advantage becomes zero.
    """
    chosen = advantages[mask]
    variance = chosen.var() if len(chosen) > 1 else chosen.new_zeros(())
    return torch.where(mask, (advantages - chosen.mean()) * (variance + 1e-8).rsqrt(), 0.0)


def _accumulate(amounts: Tensor, ends: Tensor, decay: float) -> Tensor:
    """Return ``y_t = x_t + decay * (1 - end_t) * y_{t+1}``, for all columns at once."""
    total = torch.empty_like(amounts)
    following = torch.zeros_like(amounts[0])
    for step in reversed(range(len(amounts))):
        following = amounts[step] + decay * following * ~ends[step]
        total[step] = following
    return total

"""Credit through time: returns and generalized advantage estimation.

Episodes stand one after the other in tensors (M,), one entry a step; ``ends`` says where each ends. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm_agents.runtime.checks import require_finite, require_shape


def discounted_returns(rewards: Tensor, ends: Tensor, discount: float) -> Tensor:
    """Sum the discounted rewards from each step to the end of its episode, (M,).

    ``R_t = r_t + discount * (1 - end_t) * R_{t+1}``

    Nothing is added for what lies beyond the last step; where that counts, use `gae`.

    >>> discounted_returns(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([False, True, True]), 0.5)
    tensor([0.5000, 1.0000, 2.0000])

    Args:
        rewards: (M,).
        ends: (M,) booleans, true at the last step of each episode.
        discount: in [0, 1].

    Raises:
        UserError: a reward is not finite.
        ValueError: the shapes differ, or the last step does not end an episode.

    Two episodes, one after the other, the first of two steps:

    >>> rewards = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
    >>> discounted_returns(rewards, ends_of([2, 3]), discount=0.5)
    tensor([0.5000, 1.0000, 0.2500, 0.5000, 1.0000])
    """
    require_finite(rewards, "reward")
    require_shape("ends", ends, rewards.shape)
    return _accumulate(rewards, ends, discount)


def gae(
    rewards: Tensor, values: Tensor, last_values: Tensor, ends: Tensor, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Estimate advantages by generalized advantage estimation (Schulman et al., ICLR 2016, equation 16).

    ``delta_t = r_t + discount * V(s_{t+1}) - V(s_t)``

    ``A_t = delta_t + discount * gae_lambda * (1 - end_t) * A_{t+1}``

    A terminated episode is worth nothing any more, so the value of its last state is zero. A truncated one would have
    gone on: the value of its last state counts.

    Args:
        rewards: (M,).
        values: (M,), the value of the state in which each action was taken.
        last_values: (N,), for each episode the value of the state in which it ended: zero if it terminated.
        ends: (M,) booleans, true at the last step of each of the N episodes.
        discount, gae_lambda: in [0, 1].

    Returns:
        The advantages, and the returns ``A_t + V(s_t)`` towards which a value head is trained, both (M,).

    Raises:
        UserError: a reward or a value is not finite.
        ValueError: the shapes do not fit, or the last step does not end an episode.

    The last step of an episode, from a state worth 1 to one worth 2, truncated or terminated:

    >>> reward, value, next_value = (torch.tensor([number]) for number in (0.0, 1.0, 2.0))
    >>> end = torch.tensor([True])
    >>> gae(reward, value, next_value, end, discount=0.5, gae_lambda=1.0)[0]
    tensor([0.])
    >>> gae(reward, value, 0 * next_value, end, discount=0.5, gae_lambda=1.0)[0]
    tensor([-1.])
    """
    for name, tensor in (("reward", rewards), ("value", values), ("last value", last_values)):
        require_finite(tensor, name)
    require_shape("values", values, rewards.shape)
    require_shape("ends", ends, rewards.shape)
    require_shape("last_values", last_values, torch.Size([int(ends.sum())]))
    next_values = torch.cat([values[1:], values[:1]])
    next_values[ends] = last_values.to(next_values)
    advantages = _accumulate(rewards + discount * next_values - values, ends, discount * gae_lambda)
    return advantages, advantages + values


def whiten(advantages: Tensor) -> Tensor:
    """Give advantages mean zero and variance one. Any shape.

    ``(A - mean(A)) / sqrt(var(A) + 1e-8)``, the variance with Bessel's correction. A single advantage becomes zero.
    """
    variance = advantages.var() if advantages.numel() > 1 else advantages.new_zeros(())
    return (advantages - advantages.mean()) * (variance + 1e-8).rsqrt()


def ends_of(lengths: Sequence[int]) -> Tensor:
    """Mark the last step of each episode, (M,) bool, from how many steps each has."""
    ends = torch.zeros(sum(lengths), dtype=torch.bool)
    ends[torch.tensor(lengths).cumsum(0) - 1] = True
    return ends


def episode_index(ends: Tensor) -> Tensor:
    """Return the number of the episode that each step belongs to, (M,), from where episodes end."""
    return ends.long().cumsum(0) - ends.long()


def _accumulate(amounts: Tensor, ends: Tensor, decay: float) -> Tensor:
    """``y_t = x_t + decay * (1 - end_t) * y_{t+1}``, in as many operations as the longest episode has steps."""
    if not len(ends) or not ends[-1]:
        raise ValueError("the last step must end an episode")
    last = ends.nonzero()[:, 0]
    lengths = last.diff(prepend=last.new_tensor([-1]))
    longest_first = lengths.argsort(descending=True)
    last, lengths = last[longest_first], lengths[longest_first]
    total = torch.empty_like(amounts)
    following = torch.zeros_like(amounts[: len(last)])
    for distance in range(int(lengths[0])):
        place = last[lengths > distance] - distance  # of the episodes that are so long
        following = amounts[place] + decay * following[: len(place)]
        total[place] = following
    return total

"""Credit: how much better each action turned out than was to be expected.

Shapes are (T, N) for steps of N lanes (an episode each, or several one after the other) and (N,) for one number an
episode. Nothing here knows tokens: every token of an action gets the advantage of the action.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llm_agents.errors import UserError

Scale = Literal["group", "batch", "none"]

STD_EPSILON = 1e-4  # as in TRL: with rewards of 0 and 1 it changes an advantage by less than a thousandth


class GroupCredit(NamedTuple):
    """What group methods give.

    Attributes:
        advantages: of the shape that the method states; zero where ``informative`` is false.
        informative: of the same shape; false where nothing can be learnt because all that was compared is equal. Leave
            these out of the loss's mask, or they dilute its mean.
        metrics: ``credit/groups`` and ``credit/zero_variance_groups``, how many groups there were and how many of them
            had nothing but equal rewards.
    """

    advantages: Tensor
    informative: Tensor
    metrics: dict[str, float]


# Credit through time


def discounted_returns(rewards: Tensor, ends: Tensor, discount: float) -> Tensor:
    """The discounted sum of the rewards from each step to the end of its episode, (T, N).

    ``R_t = r_t + discount * (1 - end_t) * R_{t+1}``

    Nothing is added for what lies beyond the last step; where that counts, use `gae`.

    Args:
        rewards: (T, N). Padding after the end of an episode must be zero, or cut off by ``ends``.
        ends: (T, N) booleans, true at the last step of an episode.
        discount: in [0, 1].

    Raises:
        UserError: a reward is not finite.
    """
    _require_finite("reward", rewards)
    _require_shape("ends", ends, rewards.shape)
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
    """Generalized advantage estimation (Schulman et al., ICLR 2016, equation 16).

    ``delta_t = r_t + discount * (1 - terminated_t) * V(s_{t+1}) - V(s_t)``

    ``A_t = delta_t + discount * gae_lambda * (1 - terminated_t) * (1 - truncated_t) * A_{t+1}``

    A terminated episode is worth nothing any more. A truncated one would have gone on: the value of its last state
    counts, but nothing of the episode that follows it in the lane.

    Args:
        rewards: (T, N).
        values: (T, N), the value of the state in which each action was taken.
        next_values: (T, N), the value of the state that it led to, before the lane starts anew: ``values`` one step
            later where the episode goes on, the value of the last state where it ends or the lane is cut off.
        terminated, truncated: (T, N) booleans, true at the last step of an episode.
        discount, gae_lambda: in [0, 1].

    Returns:
        The advantages, and the returns ``A_t + V(s_t)`` towards which a value head is trained, both (T, N).

    Raises:
        UserError: a reward or a value is not finite.
    """
    for name, tensor in (("reward", rewards), ("value", values), ("next value", next_values)):
        _require_finite(name, tensor)
    for name, tensor in (
        ("values", values),
        ("next_values", next_values),
        ("terminated", terminated),
        ("truncated", truncated),
    ):
        _require_shape(name, tensor, rewards.shape)
    deltas = rewards + discount * next_values * ~terminated - values
    advantages = _accumulate(deltas, terminated | truncated, discount * gae_lambda)
    return advantages, advantages + values


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages of mean zero and variance one over the mask, and zero outside it. Any shape.

    ``(A - mean(A)) / sqrt(var(A) + 1e-8)``, the variance with Bessel's correction. A single advantage becomes zero.
    """
    chosen = advantages[mask]
    variance = chosen.var() if len(chosen) > 1 else chosen.new_zeros(())
    return torch.where(mask, (advantages - chosen.mean()) * (variance + 1e-8).rsqrt(), 0.0)


def _accumulate(amounts: Tensor, ends: Tensor, decay: float) -> Tensor:
    """``y_t = x_t + decay * (1 - end_t) * y_{t+1}``, for all lanes at once."""
    total = torch.empty_like(amounts)
    following = torch.zeros_like(amounts[0])
    for step in reversed(range(len(amounts))):
        following = amounts[step] + decay * following * ~ends[step]
        total[step] = following
    return total


# Credit within a group of episodes that share goal and start


def group_relative_advantages(
    rewards: Tensor, groups: Tensor, scale: Scale = "group", group_size: int | None = None
) -> GroupCredit:
    """Rewards relative to those of the same group, (N,).

    ``A_i = (r_i - mean(r)) / (std(r) + 1e-4)`` with the group's mean

    ``scale`` says whose standard deviation: the group's for GRPO (Shao et al., 2024, section 4.1.2); that of the whole
    batch, which does not blow up groups that nearly agree; or none, for Dr. GRPO (Liu et al., 2025, section 3), which
    shows that dividing favours goals that are too easy or too hard. It has Bessel's correction, as in TRL.

    Args:
        rewards: (N,), one an episode.
        groups: (N,) integers; episodes of a group share one and need not be neighbours.
        scale: ``group``, ``batch`` or ``none``.
        group_size: how many members every group must have; None if groups may differ.

    Raises:
        UserError: a reward is not finite, a group has one member, or one has not ``group_size`` members.
        ValueError: the groups are not integers or not as many as the rewards.
    """
    return _relative(rewards, _validated(rewards, groups, group_size), scale)


def leave_one_out_advantages(rewards: Tensor, groups: Tensor, group_size: int | None = None) -> GroupCredit:
    """Rewards relative to the mean of the *other* members of the group, (N,): RLOO (Ahmadian et al., ACL 2024).

    ``A_i = r_i - sum_{j != i} r_j / (n - 1) = n / (n - 1) * (r_i - mean(r))``

    The baseline does not depend on the episode that it judges, so the policy gradient stays unbiased.

    Args and errors are those of `group_relative_advantages`.
    """
    members = _validated(rewards, groups, group_size)
    sizes = members.sizes[members.index]
    return _credit(sizes / (sizes - 1) * (rewards - members.mean(rewards)), rewards, members)


def centre(advantages: Tensor, groups: Tensor) -> Tensor:
    """Advantages (M,) less the mean of their group, where an episode is as many of the M as it has steps.

    A baseline that counts each episode once is no baseline for steps: a failure lasts longer than a success, so that
    most steps would be bad ones. What is pushed down takes probability from what was written and gives it to what never
    was, until the model writes nonsense (docs/lab_notes.md). Where each episode is one of the M, nothing changes.

    Args:
        advantages: (M,), one a step.
        groups: (M,) integers, that of each step's episode.

    Returns:
        (M,), with the mean zero in every group.
    """
    members, owners = groups.unique(return_inverse=True)
    sums = advantages.new_zeros(len(members)).index_add(0, owners, advantages)
    return advantages - (sums / owners.bincount(minlength=len(members)))[owners]


def gigpo_advantages(
    rewards: Tensor,
    mask: Tensor,
    states: Tensor,
    groups: Tensor,
    discount: float,
    step_weight: float = 1.0,
    scale: Scale = "group",
    group_size: int | None = None,
) -> GroupCredit:
    """GiGPO (Feng et al., NeurIPS 2025): episodes compared within their group, steps among those from the same state.

    ``A_{t,i} = A^E_i + step_weight * A^S_{t,i}``

    ``A^E`` is `group_relative_advantages` of the undiscounted sums of rewards. ``A^S`` is the same of the discounted
    returns, among all steps of the group's episodes that were taken in the same state; a step whose state was met only
    once has none.

    Args:
        rewards: (T, N).
        mask: (T, N) booleans, true for steps, false for padding after the end of an episode.
        states: (T, N) integers that are equal where states are; see `state_hash`.
        groups: (N,) integers; see `group_relative_advantages`.
        discount: of the returns that steps are compared by, in [0, 1]; the paper has 0.95.
        step_weight: the paper's omega, 1.
        scale: of both advantages; ``batch`` takes the deviation over all episodes, or all steps.
        group_size: as in `group_relative_advantages`.

    Returns:
        Advantages and ``informative`` of shape (T, N). A step counts as informative if its episode or its state is.
        The metrics have ``credit/shared_states`` too: the share of steps whose state was met more than once.

    Raises:
        UserError: as in `group_relative_advantages`.
    """
    _require_shape("mask", mask, rewards.shape)
    _require_shape("states", states, rewards.shape)
    rewards = torch.where(mask, rewards, 0.0)
    returns = discounted_returns(rewards, torch.zeros_like(mask), discount)[mask]
    of_episodes = group_relative_advantages(rewards.sum(0), groups, scale, group_size)
    places = torch.stack([groups.expand_as(states)[mask], states[mask]])
    members = _Groups(torch.unique(places, dim=1, return_inverse=True)[1])
    of_steps = _relative(returns, members, scale)
    advantages, informative = torch.zeros_like(rewards), torch.zeros_like(mask)
    advantages[mask] = of_episodes.advantages.expand_as(rewards)[mask] + step_weight * of_steps.advantages
    informative[mask] = of_episodes.informative.expand_as(mask)[mask] | of_steps.informative
    shared = (members.sizes[members.index] > 1).float().mean().item()
    return GroupCredit(advantages, informative, of_episodes.metrics | {"credit/shared_states": shared})


def state_hash(state: str | bytes) -> int:
    """A 64-bit signed integer that is equal for equal states, in every process; see `gigpo_advantages`."""
    data = state.encode() if isinstance(state, str) else state
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), signed=True)


class _Groups:
    """Which of N items belong together.

    Attributes:
        index: (N,), the number of each item's group.
        sizes: (G,), how many items each group has.
    """

    def __init__(self, ids: Tensor) -> None:
        _, self.index, self.sizes = torch.unique(ids, return_inverse=True, return_counts=True)

    def mean(self, items: Tensor) -> Tensor:
        """The mean of each item's group, (N,)."""
        return (self._sum(items) / self.sizes)[self.index]

    def std(self, items: Tensor) -> Tensor:
        """The standard deviation of each item's group with Bessel's correction, (N,); zero in a group of one."""
        squares = self._sum((items - self.mean(items)) ** 2)
        return (squares / (self.sizes - 1).clamp_min(1)).sqrt()[self.index]

    def agree(self, items: Tensor) -> Tensor:
        """Whether all items of a group are equal, (G,)."""
        # Not a variance near zero: the mean of equal numbers is not always that number, but their extremes are.
        largest, smallest = (
            torch.empty_like(items[: len(self.sizes)]).scatter_reduce(0, self.index, items, extreme, include_self=False)
            for extreme in ("amax", "amin")
        )
        return largest == smallest

    def _sum(self, items: Tensor) -> Tensor:
        return items.new_zeros(len(self.sizes)).index_add(0, self.index, items)


def _validated(rewards: Tensor, ids: Tensor, group_size: int | None) -> _Groups:
    _require_finite("reward", rewards)
    _require_shape("groups", ids, rewards.shape)
    if ids.is_floating_point():
        raise ValueError(f"groups must be integers, got {ids.dtype}")
    groups = _Groups(ids)
    if group_size is not None and (groups.sizes != group_size).any():
        found = sorted(set(groups.sizes.tolist()))
        raise UserError(f"every group must have {group_size} episodes, got groups of {', '.join(map(str, found))}")
    if (groups.sizes == 1).any():
        alone = ids[groups.sizes[groups.index] == 1][0].item()
        raise UserError(f"group {alone} has one episode: nothing to compare it with; group_size must be at least 2")
    return groups


def _relative(rewards: Tensor, members: _Groups, scale: Scale) -> GroupCredit:
    advantages = rewards - members.mean(rewards)
    if scale == "group":
        advantages = advantages / (members.std(rewards) + STD_EPSILON)
    elif scale == "batch":
        advantages = advantages / (rewards.std() + STD_EPSILON)
    elif scale != "none":
        raise ValueError(f"scale must be group, batch or none, got {scale!r}")
    return _credit(advantages, rewards, members)


def _credit(advantages: Tensor, rewards: Tensor, members: _Groups) -> GroupCredit:
    agree = members.agree(rewards)
    informative = ~agree[members.index]
    metrics = {"credit/groups": float(len(agree)), "credit/zero_variance_groups": agree.sum().item()}
    return GroupCredit(torch.where(informative, advantages, 0.0), informative, metrics)


def _require_finite(what: str, tensor: Tensor) -> None:
    wrong = ~tensor.isfinite()
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise UserError(f"the {what} at {place} is {tensor[tuple(place)].item()}; it must be finite")


def _require_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")

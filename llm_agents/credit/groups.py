"""Credit within a group of episodes that share a goal and a start."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llm_agents.credit.gae import discounted_returns, episode_index
from llm_agents.runtime.checks import require_finite, require_shape
from llm_agents.runtime.errors import UserError

AdvantageScaling = Literal["group", "batch", "none"]


STD_EPSILON = 1e-4  # as in TRL: with rewards of 0 and 1 it changes an advantage by less than a thousandth


class GroupCredit(NamedTuple):
    """The result of a group method.

    Attributes:
        advantages: of the shape that the method states; zero where ``informative`` is false.
        informative: of the same shape; false where nothing can be learnt because all that was compared is equal. Leave
            these out of the loss's mask, or they dilute its mean.
        metrics: ``credit/groups`` and ``credit/zero_variance_groups``: how many groups there were, and in how many of
            them all rewards were equal.
    """

    advantages: Tensor
    informative: Tensor
    metrics: dict[str, float]


def group_relative_advantages(
    rewards: Tensor, groups: Tensor, scale: AdvantageScaling = "group", group_size: int | None = None
) -> GroupCredit:
    """Compare rewards with others of the same group, (N,).

    ``A_i = (r_i - mean(r)) / (std(r) + 1e-4)`` with the group's mean

    ``scale`` says whose standard deviation: the group's for GRPO (Shao et al., 2024, section 4.1.2); the whole batch's,
    which does not blow up groups that nearly agree; or none, for Dr. GRPO (Liu et al., 2025, section 3), which shows
    that dividing favours goals that are too easy or too hard. It has Bessel's correction, as in TRL.

    Args:
        rewards: (N,), one per episode.
        groups: (N,) integers; episodes of a group share one and need not be adjacent.
        scale: ``group``, ``batch`` or ``none``.
        group_size: how many members every group must have; None if groups may differ.

    Raises:
        UserError: a reward is not finite, a group has one member, or one does not have ``group_size`` members.
        ValueError: the groups are not integers or differ in number from the rewards.

    In the second of two groups nothing can be compared:

    >>> rewards, groups = torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1])
    >>> credit = group_relative_advantages(rewards, groups, scale="none")
    >>> credit.advantages
    tensor([-0.5000,  0.5000,  0.0000,  0.0000])
    >>> credit.informative
    tensor([ True,  True, False, False])
    """
    return _relative(rewards, _validated(rewards, groups, group_size), scale)


def leave_one_out_advantages(rewards: Tensor, groups: Tensor, group_size: int | None = None) -> GroupCredit:
    """Compare rewards with the mean of the *other* members of the group, (N,): RLOO (Ahmadian et al., ACL 2024).

    ``A_i = r_i - sum_{j != i} r_j / (n - 1) = n / (n - 1) * (r_i - mean(r))``

    The baseline does not depend on the episode that it judges, so the policy gradient stays unbiased.

    Arguments and errors are as in `group_relative_advantages`.
    """
    members = _validated(rewards, groups, group_size)
    sizes = members.sizes[members.index]
    return _credit(sizes / (sizes - 1) * (rewards - members.mean(rewards)), rewards, members)


def centre(advantages: Tensor, groups: Tensor) -> Tensor:
    """Subtract from advantages (M,) the mean of their group, over all steps of its episodes.

    A baseline that counts each episode once is no baseline for steps: failures last longer than successes, so most
    steps would be bad ones. Pushing these down takes probability from what was written and gives it to what never was,
    until the model writes nonsense (docs/lab_notes.md). If each episode is only one of the M, nothing changes.

    Args:
        advantages: (M,), one per step.
        groups: (M,) integers, the group of each step's episode.

    Returns:
        (M,), with mean zero in every group.
    """
    members, owners = groups.unique(return_inverse=True)
    sums = advantages.new_zeros(len(members)).index_add(0, owners, advantages)
    return advantages - (sums / owners.bincount(minlength=len(members)))[owners]


def gigpo_advantages(
    rewards: Tensor,
    ends: Tensor,
    states: Tensor,
    groups: Tensor,
    discount: float,
    step_weight: float = 1.0,
    scale: AdvantageScaling = "group",
    group_size: int | None = None,
) -> GroupCredit:
    """Compare episodes in their group, and steps with others from the same state: GiGPO (Feng et al., NeurIPS 2025).

    ``A_{t,i} = A^E_i + step_weight * A^S_{t,i}``

    ``A^E`` is `group_relative_advantages` of the undiscounted sums of rewards. ``A^S`` is the same of the discounted
    returns, among all steps of the group's episodes that were taken in the same state; a step whose state was met only
    once has none.

    Args:
        rewards: (M,), the steps of N episodes one after the other.
        ends: (M,) booleans, true at the last step of each episode.
        states: (M,) integers that are equal where states are; see `state_hash`.
        groups: (N,) integers; see `group_relative_advantages`.
        discount: of the returns that steps are compared by, in [0, 1]; the paper has 0.95.
        step_weight: the paper's omega, 1.
        scale: of both advantages; ``batch`` takes the deviation over all episodes, or all steps.
        group_size: as in `group_relative_advantages`.

    Returns:
        Advantages and ``informative`` of shape (M,). A step counts as informative if its episode or its state is. The
        metrics have ``credit/shared_states`` too: the fraction of steps whose state was met more than once.

    Raises:
        UserError: as in `group_relative_advantages`.
        ValueError: the shapes do not fit.
    """
    require_shape("states", states, rewards.shape)
    returns, owners = discounted_returns(rewards, ends, discount), episode_index(ends)
    totals = rewards.new_zeros(len(groups)).index_add(0, owners, rewards)
    of_episodes = group_relative_advantages(totals, groups, scale, group_size)
    places = torch.stack([groups[owners], states])
    members = _Groups(torch.unique(places, dim=1, return_inverse=True)[1])
    of_steps = _relative(returns, members, scale)
    shared = (members.sizes[members.index] > 1).float().mean().item()
    return GroupCredit(
        of_episodes.advantages[owners] + step_weight * of_steps.advantages,
        of_episodes.informative[owners] | of_steps.informative,
        of_episodes.metrics | {"credit/shared_states": shared},
    )


def state_hash(state: str | bytes) -> int:
    """Return a 64-bit signed integer that is equal for equal states, in every process; see `gigpo_advantages`."""
    data = state.encode() if isinstance(state, str) else state
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), signed=True)


class _Groups:
    """A partition of N items into groups.

    Attributes:
        index: (N,), the number of each item's group.
        sizes: (G,), how many items each group has.
    """

    def __init__(self, ids: Tensor) -> None:
        _, self.index, self.sizes = torch.unique(ids, return_inverse=True, return_counts=True)

    def mean(self, items: Tensor) -> Tensor:
        """Return the mean of each item's group, (N,)."""
        return (self._sum(items) / self.sizes)[self.index]

    def std(self, items: Tensor) -> Tensor:
        """Return the standard deviation of each item's group with Bessel's correction, (N,); zero in a group of one."""
        squares = self._sum((items - self.mean(items)) ** 2)
        return (squares / (self.sizes - 1).clamp_min(1)).sqrt()[self.index]

    def agree(self, items: Tensor) -> Tensor:
        """Return whether all items of a group are equal, (G,)."""
        # Not a variance near zero: the mean of equal numbers is not always that number, but their extremes are.
        largest, smallest = (
            torch.empty_like(items[: len(self.sizes)]).scatter_reduce(0, self.index, items, extreme, include_self=False)
            for extreme in ("amax", "amin")
        )
        return largest == smallest

    def _sum(self, items: Tensor) -> Tensor:
        return items.new_zeros(len(self.sizes)).index_add(0, self.index, items)


def _validated(rewards: Tensor, ids: Tensor, group_size: int | None) -> _Groups:
    require_finite(rewards, "reward")
    require_shape("groups", ids, rewards.shape)
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


def _relative(rewards: Tensor, members: _Groups, scale: AdvantageScaling) -> GroupCredit:
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

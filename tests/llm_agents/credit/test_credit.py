"""Credit against stable-baselines3 and TRL, and by the identities that define it."""

import math
import subprocess
import sys

import pytest
import torch
from helpers.published import published
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from llm_agents.credit.gae import discounted_returns, gae, whiten
from llm_agents.credit.groups import (
    centre,
    gigpo_advantages,
    group_relative_advantages,
    leave_one_out_advantages,
    state_hash,
)
from llm_agents.runtime.errors import UserError

shapes = st.tuples(st.integers(1, 8), st.integers(1, 5))
seeds = st.integers(0, 2**31)


def episodes(seed: int, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Random steps of lanes in which episodes follow each other."""
    generator = torch.Generator().manual_seed(seed)
    terminated, truncated = torch.rand(2, *shape, generator=generator) < 0.2
    rewards, values, next_values = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    going_on = ~(terminated | truncated)[:-1]
    next_values[:-1] = torch.where(going_on, values[1:], next_values[:-1])
    return {
        "rewards": rewards,
        "values": values,
        "next_values": next_values,
        "terminated": terminated,
        "truncated": truncated & ~terminated,
    }


def grouped(seed: int, num_groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Rewards and the groups of episodes, members apart from each other."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(num_groups).repeat(size)[torch.randperm(num_groups * size, generator=generator)]
    return torch.randn(len(groups), generator=generator, dtype=torch.float64), groups


# Through time


@pytest.mark.parametrize("case", published("sb3_gae.json"))
def test_gae_is_that_of_stable_baselines3(case):
    expected = case.pop("advantages"), case.pop("returns")
    for ours, theirs in zip(gae(**case), expected, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@given(seeds, shapes)
@settings(max_examples=30, deadline=None)
def test_gae_with_lambda_zero_is_the_td_error(seed, shape):
    steps = episodes(seed, shape)
    advantages, _ = gae(**steps, discount=0.9, gae_lambda=0.0)
    targets = steps["rewards"] + 0.9 * torch.where(steps["terminated"], 0.0, steps["next_values"])
    assert_close(advantages, targets - steps["values"])


@given(seeds, shapes)
@settings(max_examples=30, deadline=None)
def test_gae_with_lambda_one_is_the_bootstrapped_return_less_the_value(seed, shape):
    steps = episodes(seed, shape)
    advantages, returns = gae(**steps, discount=0.9, gae_lambda=1.0)
    ends = steps["terminated"] | steps["truncated"]
    last = ends.clone()
    last[-1] = True
    bootstrap = torch.where(last & ~steps["terminated"], 0.9 * steps["next_values"], 0.0)
    expected = discounted_returns(steps["rewards"] + bootstrap, ends, 0.9)
    assert_close(returns, expected)
    assert_close(advantages, expected - steps["values"])


def test_a_truncated_episode_counts_the_value_of_its_last_state_and_a_terminated_one_does_not():
    one = {"rewards": torch.tensor([[1.0]]), "values": torch.tensor([[0.5]]), "next_values": torch.tensor([[10.0]])}
    yes, no = torch.tensor([[True]]), torch.tensor([[False]])
    assert gae(**one, terminated=yes, truncated=no, discount=0.9, gae_lambda=0.95)[0].item() == pytest.approx(0.5)
    assert gae(**one, terminated=no, truncated=yes, discount=0.9, gae_lambda=0.95)[0].item() == pytest.approx(9.5)


@given(seeds, shapes)
@settings(max_examples=30, deadline=None)
def test_an_episode_hears_nothing_of_the_next_one_in_its_lane(seed, shape):
    steps = episodes(seed, (shape[0] + 1, shape[1]))
    steps["truncated"][0] = ~steps["terminated"][0]
    before, _ = gae(**steps, discount=0.9, gae_lambda=0.95)
    steps["rewards"][1:] += 100
    after, _ = gae(**steps, discount=0.9, gae_lambda=0.95)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1:], after[1:])


@given(seeds, shapes)
@settings(max_examples=30, deadline=None)
def test_lanes_do_not_matter_to_each_other(seed, shape):
    steps = episodes(seed, shape)
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(seed))
    together, _ = gae(**steps, discount=0.9, gae_lambda=0.95)
    permuted, _ = gae(**{key: tensor[:, order] for key, tensor in steps.items()}, discount=0.9, gae_lambda=0.95)
    assert torch.equal(together[:, order], permuted)


def test_discounted_returns_of_a_sparse_reward_decay_towards_the_start():
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 2.0]])
    ends = torch.tensor([[False, True], [False, False], [True, True]])
    assert_close(discounted_returns(rewards, ends, 0.5), torch.tensor([[0.25, 1.0], [0.5, 1.0], [1.0, 2.0]]))


def test_whitened_advantages_have_mean_zero_and_variance_one_over_the_mask():
    advantages = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
    mask = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    white = whiten(advantages, mask)
    assert_close(white[mask].mean(), torch.tensor(0.0))
    assert_close(white[mask].var(), torch.tensor(1.0))
    assert not white[~mask].any()
    assert whiten(torch.tensor([3.0]), torch.tensor([True])).item() == 0


@pytest.mark.parametrize("name", ["rewards", "values", "next_values"])
def test_gae_refuses_what_is_not_finite(name):
    steps = episodes(0, (3, 2))
    steps[name][2, 1] = math.nan
    with pytest.raises(UserError, match=r"value at \[2, 1\] is nan|reward at \[2, 1\] is nan"):
        gae(**steps, discount=0.9, gae_lambda=0.95)


def test_gae_refuses_a_tensor_that_would_be_broadcast():
    steps = episodes(0, (3, 2))
    steps["terminated"] = steps["terminated"][:1]
    with pytest.raises(ValueError, match=r"terminated must have shape \(3, 2\), got \(1, 2\)"):
        gae(**steps, discount=0.9, gae_lambda=0.95)


# Within a group


@pytest.mark.parametrize("case", published("trl_grpo.json"))
def test_group_relative_advantages_are_those_of_trl(case):
    credit = group_relative_advantages(case["rewards"], case["groups"], case["scale"])
    assert_close(credit.advantages, case["advantages"])


@pytest.mark.parametrize("case", published("trl_rloo.json"))
def test_leave_one_out_advantages_are_those_of_trl(case):
    assert_close(leave_one_out_advantages(case["rewards"], case["groups"]).advantages, case["advantages"])


@given(seeds, st.integers(1, 4), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_leave_one_out_compares_with_the_mean_of_the_others(seed, num_groups, size):
    rewards, groups = grouped(seed, num_groups, size)
    same = groups[:, None] == groups
    others = same & ~torch.eye(len(groups), dtype=torch.bool)
    baseline = (others * rewards).sum(1) / (size - 1)
    advantages = leave_one_out_advantages(rewards, groups).advantages
    assert_close(advantages, rewards - baseline)
    assert_close(advantages, group_relative_advantages(rewards, groups, "none").advantages * size / (size - 1))


@given(seeds, st.integers(1, 4), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_neither_order_nor_names_of_groups_matter(seed, num_groups, size):
    rewards, groups = grouped(seed, num_groups, size)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    for method in (group_relative_advantages, leave_one_out_advantages):
        advantages = method(rewards, groups).advantages
        assert_close(method(rewards[order], 7 - 3 * groups[order]).advantages, advantages[order])


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 5))
def test_steps_are_centred_in_their_group_and_episodes_of_one_step_already_are(seed, num_groups, size):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(num_groups).repeat_interleave(size) * 7
    rewards = torch.rand(len(groups), generator=generator)
    advantages = group_relative_advantages(rewards, groups).advantages
    assert_close(centre(advantages, groups), advantages, atol=1e-5, rtol=0)
    lengths = torch.randint(1, 9, (len(groups),), generator=generator)
    of_steps, groups_of_steps = advantages.repeat_interleave(lengths), groups.repeat_interleave(lengths)
    centred = centre(of_steps, groups_of_steps)
    for group in groups.unique():
        inside = groups_of_steps == group
        assert abs(centred[inside].sum()) < 1e-4
        assert_close(centred[inside].diff(), of_steps[inside].diff(), atol=1e-5, rtol=0)


def test_groups_of_different_sizes_are_compared_each_by_itself():
    credit = group_relative_advantages(torch.tensor([1.0, 5.0, 3.0, 9.0, 1.0]), torch.tensor([4, 8, 4, 8, 8]), "none")
    assert_close(credit.advantages, torch.tensor([-1.0, 0.0, 1.0, 4.0, -4.0]))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_without_variance_are_masked_and_counted(scale):
    # 0.9 six times has, in floating point, a mean that is not 0.9.
    rewards = torch.tensor([0.9] * 6 + [0.0, 1.0])
    credit = group_relative_advantages(rewards, torch.tensor([0] * 6 + [1] * 2), scale)
    assert credit.informative.tolist() == [False] * 6 + [True] * 2
    assert not credit.advantages[:6].any()
    assert credit.advantages[6] < 0 < credit.advantages[7]
    assert credit.metrics == {"credit/groups": 2, "credit/zero_variance_groups": 1}


@pytest.mark.parametrize("method", [group_relative_advantages, leave_one_out_advantages])
@pytest.mark.parametrize(
    ("rewards", "groups", "group_size", "message"),
    [
        ([1.0, 2.0, 3.0], [5, 5, 6], None, "group 6 has one episode.*group_size must be at least 2"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], [0, 0, 1, 1, 1], 2, "must have 2 episodes, got groups of 2, 3"),
        ([1.0, math.nan], [0, 0], None, r"reward at \[1\] is nan"),
        ([1.0, math.inf], [0, 0], None, r"reward at \[1\] is inf"),
        ([1.0, 2.0], [0, 0, 0], None, r"groups must have shape \(2,\), got \(3,\)"),
        ([1.0, 2.0], [0.0, 0.0], None, "groups must be integers, got torch.float32"),
    ],
)
def test_groups_that_cannot_be_compared_are_refused(method, rewards, groups, group_size, message):
    with pytest.raises(ValueError, match=message):
        method(torch.tensor(rewards), torch.tensor(groups), group_size=group_size)


# From the same state


def two_episodes() -> dict[str, Tensor]:
    """Two episodes from state 1; only the first reaches the goal, by way of state 2; the second is one step long."""
    return {
        "rewards": torch.tensor([[0.0, 0.0], [1.0, 0.0]]),
        "mask": torch.tensor([[True, True], [True, False]]),
        "states": torch.tensor([[1, 1], [2, 0]]),
        "groups": torch.tensor([0, 0]),
    }


def test_gigpo_adds_what_a_step_gained_over_others_from_its_state():
    credit = gigpo_advantages(**two_episodes(), discount=0.5, step_weight=2.0, scale="none")
    # Episodes: +-0.5. Steps from state 1 have returns 0.5 and 0; state 2 was met once.
    assert_close(credit.advantages, torch.tensor([[0.5 + 2 * 0.25, -0.5 - 2 * 0.25], [0.5, 0.0]]))
    assert credit.informative.tolist() == [[True, True], [True, False]]
    assert credit.metrics["credit/shared_states"] == pytest.approx(2 / 3)


def test_gigpo_tells_steps_apart_in_groups_whose_episodes_all_succeed():
    episodes = two_episodes()
    episodes["rewards"][0, 1] = 1.0
    credit = gigpo_advantages(**episodes, discount=0.5, scale="none")
    assert_close(credit.advantages, torch.tensor([[-0.25, 0.25], [0.0, 0.0]]))
    assert credit.informative.tolist() == [[True, True], [False, False]]
    assert credit.metrics["credit/zero_variance_groups"] == 1


def test_gigpo_says_which_step_has_a_reward_that_is_not_finite():
    episodes = two_episodes()
    episodes["rewards"][1, 0] = math.inf
    with pytest.raises(UserError, match=r"reward at \[1, 0\] is inf"):
        gigpo_advantages(**episodes, discount=0.5)


def test_gigpo_never_compares_steps_of_different_groups():
    one = two_episodes()
    both = {key: torch.cat([tensor, tensor], -1) for key, tensor in one.items()}
    both["groups"] = torch.tensor([0, 0, 1, 1])
    both["rewards"][:, 2:] *= 3
    credit = gigpo_advantages(**both, discount=0.5, scale="none")
    alone = gigpo_advantages(**one, discount=0.5, scale="none").advantages
    assert_close(credit.advantages, torch.cat([alone, 3 * alone], -1))


@given(seeds, st.integers(1, 6), st.integers(1, 3), st.sampled_from(["group", "batch", "none"]))
@settings(max_examples=30, deadline=None)
def test_gigpo_without_steps_is_the_group_relative_advantage_of_every_step(seed, num_steps, num_groups, scale):
    generator = torch.Generator().manual_seed(seed)
    totals, groups = grouped(seed, num_groups, 3)
    lengths = torch.randint(1, num_steps + 1, totals.shape, generator=generator)
    mask = torch.arange(num_steps)[:, None] < lengths
    rewards = torch.full(mask.shape, math.nan, dtype=torch.float64)  # padding is never looked at
    rewards[mask] = (totals / lengths).expand_as(mask)[mask]
    states = torch.randint(3, mask.shape, generator=generator)
    credit = gigpo_advantages(rewards, mask, states, groups, discount=0.9, step_weight=0.0, scale=scale)
    expected = group_relative_advantages(totals, groups, scale).advantages
    assert_close(credit.advantages, torch.where(mask, expected, 0.0))


def test_a_state_hash_is_the_same_in_every_process():
    assert state_hash("a red ball") == state_hash(b"a red ball") != state_hash("a blue ball")
    code = "from llm_agents.credit.groups import state_hash; print(state_hash('a red ball'))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(elsewhere) == state_hash("a red ball")
    assert torch.tensor([state_hash(str(number)) for number in range(100)]).unique().numel() == 100

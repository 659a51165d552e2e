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

seeds = st.integers(0, 2**31)
lengths = st.lists(st.integers(1, 8), min_size=1, max_size=6)


def episodes(seed: int, lengths: list[int]) -> dict[str, Tensor]:
    """Random episodes of these lengths, one after the other; about half of them terminated."""
    generator = torch.Generator().manual_seed(seed)
    size, ends = sum(lengths), torch.zeros(sum(lengths), dtype=torch.bool)
    ends[torch.tensor(lengths).cumsum(0) - 1] = True
    rewards, values = torch.randn(2, size, generator=generator, dtype=torch.float64)
    last_values = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    last_values *= torch.rand(len(lengths), generator=generator) < 0.5
    return {"rewards": rewards, "values": values, "last_values": last_values, "ends": ends}


def from_lanes(case: dict) -> dict[str, Tensor]:
    """Steps (T, N) of lanes in which episodes follow each other, as flat episodes."""
    ends = case["terminated"] | case["truncated"]
    ends[-1] = True
    next_values = torch.where(case["terminated"], 0.0, case["next_values"])
    flat = {name: case[name].T.flatten() for name in ("rewards", "values")}
    return {**flat, "last_values": next_values.T[ends.T], "ends": ends.T.flatten()}


def grouped(seed: int, num_groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Rewards and the groups of episodes, members apart from each other."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(num_groups).repeat(size)[torch.randperm(num_groups * size, generator=generator)]
    return torch.randn(len(groups), generator=generator, dtype=torch.float64), groups


# Through time


@pytest.mark.parametrize("case", published("sb3_gae.json"))
def test_gae_is_that_of_stable_baselines3(case):
    expected = case.pop("advantages"), case.pop("returns")
    found = gae(**from_lanes(case), discount=case["discount"], gae_lambda=case["gae_lambda"])
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs.T.flatten(), atol=1e-5, rtol=1e-5)


def next_values(steps: dict[str, Tensor]) -> Tensor:
    following = steps["values"].roll(-1)
    following[steps["ends"]] = steps["last_values"]
    return following


@given(seeds, lengths)
@settings(max_examples=30, deadline=None)
def test_gae_with_lambda_zero_is_the_td_error(seed, lengths):
    steps = episodes(seed, lengths)
    advantages, _ = gae(**steps, discount=0.9, gae_lambda=0.0)
    assert_close(advantages, steps["rewards"] + 0.9 * next_values(steps) - steps["values"])


@given(seeds, lengths)
@settings(max_examples=30, deadline=None)
def test_gae_with_lambda_one_is_the_bootstrapped_return_less_the_value(seed, lengths):
    steps = episodes(seed, lengths)
    advantages, returns = gae(**steps, discount=0.9, gae_lambda=1.0)
    bootstrap = torch.where(steps["ends"], 0.9 * next_values(steps), 0.0)
    expected = discounted_returns(steps["rewards"] + bootstrap, steps["ends"], 0.9)
    assert_close(returns, expected)
    assert_close(advantages, expected - steps["values"])


@given(seeds, lengths)
@settings(max_examples=30, deadline=None)
def test_returns_are_what_their_definition_says_step_by_step(seed, lengths):
    steps = episodes(seed, lengths)
    following, expected = 0.0, []
    for reward, end in zip(reversed(steps["rewards"].tolist()), reversed(steps["ends"].tolist()), strict=True):
        following = reward + (0.0 if end else 0.9 * following)
        expected.append(following)
    found = discounted_returns(steps["rewards"], steps["ends"], 0.9)
    assert_close(found, torch.tensor(expected[::-1], dtype=torch.float64))


def test_the_value_of_the_last_state_of_a_truncated_episode_counts():
    one = {"rewards": torch.tensor([1.0]), "values": torch.tensor([0.5]), "ends": torch.tensor([True])}
    for last_value, advantage in ((0.0, 0.5), (10.0, 9.5)):
        found, _ = gae(**one, last_values=torch.tensor([last_value]), discount=0.9, gae_lambda=0.95)
        assert found.item() == pytest.approx(advantage)


@given(seeds, lengths, st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_an_episode_hears_nothing_of_those_alongside(seed, lengths, length):
    steps = episodes(seed, [length, *lengths])
    before, _ = gae(**steps, discount=0.9, gae_lambda=0.95)
    steps["rewards"][length:] += 100
    after, _ = gae(**steps, discount=0.9, gae_lambda=0.95)
    assert torch.equal(before[:length], after[:length])
    assert not torch.equal(before[length:], after[length:])
    alone = {name: tensor[:length] for name, tensor in steps.items() if name != "last_values"}
    assert torch.equal(
        gae(**alone, last_values=steps["last_values"][:1], discount=0.9, gae_lambda=0.95)[0], after[:length]
    )


def test_discounted_returns_of_a_sparse_reward_decay_towards_the_start():
    rewards, ends = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 2.0]), torch.tensor([0, 0, 1, 1, 0, 1]).bool()
    assert_close(discounted_returns(rewards, ends, 0.5), torch.tensor([0.25, 0.5, 1.0, 1.0, 1.0, 2.0]))


def test_whitened_advantages_have_mean_zero_and_variance_one():
    white = whiten(torch.randn(60, generator=torch.Generator().manual_seed(0)) * 3 + 2)
    assert_close(white.mean(), torch.tensor(0.0))
    assert_close(white.var(), torch.tensor(1.0))
    assert whiten(torch.tensor([3.0])).item() == 0


@pytest.mark.parametrize("name", ["rewards", "values", "last_values"])
def test_gae_refuses_what_is_not_finite(name):
    steps = episodes(0, [2, 1, 3])
    steps[name][2] = math.nan
    with pytest.raises(UserError, match=r"(reward|value) at \[2\] is nan"):
        gae(**steps, discount=0.9, gae_lambda=0.95)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ends": torch.tensor([True])}, r"ends must have shape \(6,\), got \(1,\)"),
        ({"last_values": torch.zeros(2)}, r"last_values must have shape \(3,\), got \(2,\)"),
        ({"ends": torch.tensor([0, 1, 1, 1, 0, 0]).bool()}, "the last step must end an episode"),
    ],
)
def test_gae_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        gae(**(episodes(0, [2, 1, 3]) | change), discount=0.9, gae_lambda=0.95)


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
    rewards = torch.rand(len(groups), generator=generator, dtype=torch.float64)
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
        "rewards": torch.tensor([0.0, 1.0, 0.0]),
        "ends": torch.tensor([False, True, True]),
        "states": torch.tensor([1, 2, 1]),
        "groups": torch.tensor([0, 0]),
    }


def test_gigpo_adds_what_a_step_gained_over_others_from_its_state():
    credit = gigpo_advantages(**two_episodes(), discount=0.5, step_weight=2.0, scale="none")
    # Episodes: +-0.5. Steps from state 1 have returns 0.5 and 0; state 2 was met once.
    assert_close(credit.advantages, torch.tensor([0.5 + 2 * 0.25, 0.5, -0.5 - 2 * 0.25]))
    assert credit.informative.tolist() == [True, True, True]
    assert credit.metrics["credit/shared_states"] == pytest.approx(2 / 3)


def test_gigpo_tells_steps_apart_in_groups_whose_episodes_all_succeed():
    episodes = two_episodes()
    episodes["rewards"][2] = 1.0
    credit = gigpo_advantages(**episodes, discount=0.5, scale="none")
    assert_close(credit.advantages, torch.tensor([-0.25, 0.0, 0.25]))
    assert credit.informative.tolist() == [True, False, True]
    assert credit.metrics["credit/zero_variance_groups"] == 1


def test_gigpo_says_which_step_has_a_reward_that_is_not_finite():
    episodes = two_episodes()
    episodes["rewards"][1] = math.inf
    with pytest.raises(UserError, match=r"reward at \[1\] is inf"):
        gigpo_advantages(**episodes, discount=0.5)


def test_gigpo_never_compares_steps_of_different_groups():
    one = two_episodes()
    both = {key: torch.cat([tensor, tensor]) for key, tensor in one.items()}
    both["groups"] = torch.tensor([0, 0, 1, 1])
    both["rewards"][3:] *= 3
    credit = gigpo_advantages(**both, discount=0.5, scale="none")
    alone = gigpo_advantages(**one, discount=0.5, scale="none").advantages
    assert_close(credit.advantages, torch.cat([alone, 3 * alone]))


@given(seeds, st.integers(1, 6), st.integers(1, 3), st.sampled_from(["group", "batch", "none"]))
@settings(max_examples=30, deadline=None)
def test_gigpo_without_steps_is_the_group_relative_advantage_of_every_step(seed, num_steps, num_groups, scale):
    generator = torch.Generator().manual_seed(seed)
    totals, groups = grouped(seed, num_groups, 3)
    lengths = torch.randint(1, num_steps + 1, totals.shape, generator=generator)
    ends = torch.zeros(int(lengths.sum()), dtype=torch.bool)
    ends[lengths.cumsum(0) - 1] = True
    rewards = (totals / lengths).repeat_interleave(lengths)
    states = torch.randint(3, rewards.shape, generator=generator)
    credit = gigpo_advantages(rewards, ends, states, groups, discount=0.9, step_weight=0.0, scale=scale)
    expected = group_relative_advantages(totals, groups, scale).advantages
    assert_close(credit.advantages, expected.repeat_interleave(lengths))


def test_a_state_hash_is_the_same_in_every_process():
    assert state_hash("a red ball") == state_hash(b"a red ball") != state_hash("a blue ball")
    code = "from llm_agents.credit.groups import state_hash; print(state_hash('a red ball'))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(elsewhere) == state_hash("a red ball")
    assert torch.tensor([state_hash(str(number)) for number in range(100)]).unique().numel() == 100

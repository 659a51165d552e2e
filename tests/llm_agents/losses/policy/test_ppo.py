"""PPO against TRL 1.12, and by its reductions."""

import math

import pytest
import torch
from helpers.published import published
from helpers.sampled import gradient_of, sampled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical
from torch.testing import assert_close

from llm_agents.credit.gae import gae, whiten
from llm_agents.losses import (
    entropy,
    entropy_loss,
    explained_variance,
    policy_loss,
    reinforce_loss,
    token_weights,
    value_loss,
)
from llm_agents.losses.policy.ppo import clipped_surrogate

seeds = st.integers(0, 2**31)


@pytest.mark.parametrize("case", published("trl_ppo.json"))
def test_policy_loss_is_that_of_trl(case):
    weights = token_weights(case["mask"], "token_mean")
    arguments = (case["log_probs"], case["old_log_probs"], case["advantages"], weights, case["cliprange"])
    loss, metrics = policy_loss(*arguments)
    assert loss.item() == pytest.approx(case["policy_loss"], rel=1e-6)
    assert metrics["loss/policy"] == loss.item()
    assert metrics["policy/clip_fraction"] == pytest.approx(case["clip_fraction"])


@pytest.mark.parametrize("case", published("trl_ppo.json"))
def test_value_loss_is_that_of_trl(case):
    weights = token_weights(case["mask"], "token_mean")
    arguments = (case["new_values"], case["values"], case["returns"], weights, case["cliprange_value"])
    loss, metrics = value_loss(*arguments)
    assert loss.item() == pytest.approx(case["value_loss"], rel=1e-6)
    assert metrics["value/clip_fraction"] == pytest.approx(case["value_clip_fraction"])


@pytest.mark.parametrize("case", published("trl_ppo.json"))
def test_whitened_token_advantages_are_those_of_trl(case):
    mask = case["mask"].T  # TRL has sequences first, steps second
    terminated = torch.arange(len(mask))[:, None] == mask.sum(0) - 1
    values = case["values"].T
    following = torch.cat([values[1:], torch.zeros_like(values[:1])])
    advantages, returns = gae(
        case["rewards"].T,
        values,
        following,
        terminated,
        torch.zeros_like(mask),
        discount=case["gamma"],
        gae_lambda=case["lam"],
    )
    assert_close(whiten(advantages, mask), case["advantages"].T)
    assert_close(returns[mask], case["returns"].T[mask])


@given(seeds, st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_at_ratio_one_the_gradient_is_that_of_reinforce(seed, num_sequences, num_tokens):
    batch = sampled(seed, num_sequences, num_tokens)
    old, advantages, weights = batch["old_log_probs"], batch["advantages"], batch["weights"]
    ours = gradient_of(lambda log_probs: policy_loss(log_probs, old, advantages, weights), old)
    assert_close(ours, gradient_of(lambda log_probs: reinforce_loss(log_probs, advantages, weights), old))


@given(seeds, st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_masked_tokens_have_no_part_and_no_gradient(seed, num_sequences, num_tokens):
    batch = sampled(seed, num_sequences, num_tokens)
    hidden = batch["weights"] == 0
    old, advantages, weights = batch["old_log_probs"], batch["advantages"], batch["weights"]
    garbage = torch.where(hidden, -math.inf, batch["log_probs"])

    def loss_of(log_probs):
        return policy_loss(log_probs, old, advantages, weights, dual_clip=3.0)

    assert loss_of(garbage)[1] == loss_of(batch["log_probs"])[1]
    gradient = gradient_of(loss_of, garbage)
    assert gradient.isfinite().all()
    assert not gradient[hidden].any()


@given(seeds, st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_batch_does_not_matter(seed, num_sequences, num_tokens):
    batch = sampled(seed, num_sequences, num_tokens)
    order = torch.randperm(num_sequences, generator=torch.Generator().manual_seed(seed))
    names = ("log_probs", "old_log_probs", "advantages", "weights")
    loss, metrics = policy_loss(*(batch[name] for name in names))
    permuted_loss, permuted_metrics = policy_loss(*(batch[name][order] for name in names))
    assert_close(permuted_loss, loss)
    assert permuted_metrics == pytest.approx(metrics)


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "clipped"),
    [
        (1.5, 1.0, 1.2, True),  # good and already more probable
        (0.5, 1.0, 0.5, False),  # good and less probable: to be mended
        (1.5, -1.0, -1.5, False),  # bad and more probable: to be mended
        (0.5, -1.0, -0.8, True),  # bad and already less probable
        (5.0, -1.0, -3.0, True),  # bad and much more probable: the dual clip
    ],
)
def test_the_surrogate_is_pessimistic_up_to_the_dual_clip(ratio, advantage, surrogate, clipped):
    found = clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage), 0.2, 0.2, dual_clip=3.0)
    assert found[0].item() == pytest.approx(surrogate)
    assert found[1].item() is clipped


def test_clipped_is_where_the_gradient_is_zero():
    batch = sampled(0, 20, 20)
    ratio = (batch["log_probs"] - batch["old_log_probs"]).exp().requires_grad_()
    surrogate, clipped = clipped_surrogate(ratio, batch["advantages"], 0.2, 0.2, dual_clip=1.5)
    gradient = torch.autograd.grad(surrogate.sum(), ratio)[0]
    assert 0 < clipped.sum() < clipped.numel()
    assert torch.equal(gradient == 0, clipped)


def test_a_dual_clip_that_would_undo_the_clip_is_refused():
    with pytest.raises(ValueError, match="dual_clip must be above 1"):
        clipped_surrogate(torch.ones(1), torch.ones(1), 0.2, 0.2, dual_clip=0.9)


def test_ratio_metrics_describe_the_move_from_the_old_policy():
    old = torch.tensor([0.0, 0.0, 0.0]) - 2
    new = old + torch.tensor([0.1, 0.2, 50.0])
    weights = torch.tensor([0.5, 0.5, 0.0])
    _, metrics = policy_loss(new, old, torch.ones(3), weights)
    assert metrics["policy/ratio_min"] == pytest.approx(math.exp(0.1))
    assert metrics["policy/ratio_max"] == pytest.approx(math.exp(0.2))
    expected = [math.exp(difference) - 1 - difference for difference in (0.1, 0.2)]
    assert metrics["policy/kl"] == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_a_runaway_log_ratio_stays_finite_and_nan_stays_nan():
    old, weights = torch.tensor([-200.0]), torch.ones(1)
    loss, metrics = policy_loss(torch.tensor([-0.1]), old, -torch.ones(1), weights)
    assert loss.isfinite()
    assert math.isfinite(metrics["policy/kl"])
    assert policy_loss(torch.tensor([math.nan]), old, torch.ones(1), weights)[0].isnan()


def test_tensors_that_would_be_broadcast_are_refused():
    tokens = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"advantages must have shape \(3, 3\), got \(3,\)"):
        policy_loss(tokens, tokens, torch.zeros(3), tokens)
    with pytest.raises(ValueError, match="returns must have shape"):
        value_loss(tokens, tokens, torch.zeros(3), tokens)
    with pytest.raises(ValueError, match="entropies must have shape"):
        entropy_loss(torch.zeros(3), tokens)


# Values


def test_without_clipping_the_value_loss_is_half_the_squared_error():
    values, returns = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    weights = token_weights(torch.ones(6, dtype=torch.bool), "token_mean")
    loss, metrics = value_loss(values, torch.zeros(6), returns, weights)
    assert_close(loss, 0.5 * torch.nn.functional.mse_loss(values, returns))
    assert metrics["value/clip_fraction"] == 0
    assert metrics["value/explained_variance"] == 0  # of the old values, which are constant


def test_a_value_that_moved_beyond_the_clip_has_no_gradient():
    old, returns = torch.zeros(2), torch.ones(2)
    weights = torch.tensor([0.5, 0.5])
    gradient = gradient_of(
        lambda values: value_loss(values, old, returns, weights, clip_range=0.2), torch.tensor([0.1, 0.5])
    )
    assert_close(gradient, torch.tensor([-0.45, 0.0]))


def test_explained_variance_is_one_for_perfect_values_and_zero_for_a_constant():
    returns = torch.tensor([1.0, 2.0, 3.0, 99.0])
    mask = torch.tensor([True, True, True, False])
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.full((4,), 7.0), returns, mask) == pytest.approx(0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3)
    assert math.isnan(explained_variance(returns, torch.ones(4), mask))


# Entropy


def test_entropy_is_that_of_torch_distributions():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert_close(entropy(logits), Categorical(logits=logits).entropy())


def test_choices_that_are_not_admissible_leave_entropy_and_its_gradient_alone():
    logits = torch.tensor([[0.3, -1.0, -math.inf]], requires_grad=True)
    found = entropy(logits)
    assert_close(found, entropy(logits[:, :2]))
    gradient = torch.autograd.grad(found.sum(), logits)[0]
    assert gradient.isfinite().all()
    assert gradient[0, 2] == 0


def test_the_entropy_loss_falls_as_entropy_rises():
    weights = torch.tensor([0.5, 0.5, 0.0])
    loss, metrics = entropy_loss(torch.tensor([1.0, 3.0, 9.0]), weights)
    assert loss.item() == -2
    assert metrics == {"policy/entropy": 2}

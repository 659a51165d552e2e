"""The GRPO family against TRL 1.16, and by its reductions."""

import math
from functools import partial

import pytest
import torch
from helpers.published import published
from helpers.sampled import gradient_of, sampled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from llm_agents.losses import VARIANTS, RatioLevel, grpo_loss, importance_ratio, kl_loss, reinforce_loss, token_weights

seeds = st.integers(0, 2**31)
lengths = st.integers(1, 6)


@pytest.mark.parametrize("case", published("trl_grpo.json"), ids=lambda case: f"{case['variant']}-{case['scale']}")
def test_losses_and_gradients_are_those_of_trl(case):
    variant = VARIANTS[case["variant"]]
    assert (variant.clip_low, variant.clip_high) == (case["clip_low"], case["clip_high"])
    max_tokens = case["max_tokens"] if variant.aggregation == "constant" else None
    weights = token_weights(case["mask"], variant.aggregation, max_tokens)

    def loss_of(log_probs):
        loss, metrics = grpo_loss(
            log_probs,
            case["old_log_probs"],
            case["advantages"],
            weights,
            variant.clip_low,
            variant.clip_high,
            variant.ratio_level,
        )
        penalty, _ = kl_loss(log_probs, case["reference_log_probs"], weights, "k3")
        return loss + case["kl_coefficient"] * penalty, metrics

    loss, metrics = loss_of(case["log_probs"])
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6, abs=1e-8)
    assert_close(gradient_of(loss_of, case["log_probs"]), case["gradient"], rtol=1e-6, atol=1e-8)
    if variant.ratio_level == "token":  # TRL counts clipped sequences otherwise, we count their tokens
        assert metrics["policy/clip_fraction"] == pytest.approx(case["clip_fraction"])


@pytest.mark.parametrize("case", published("trl_rloo.json"))
def test_the_loss_of_rloo_and_its_gradient_are_those_of_trl(case):
    variant = VARIANTS["rloo"]
    weights = token_weights(case["mask"], variant.aggregation)

    def loss_of(log_probs):
        return grpo_loss(log_probs, case["old_log_probs"], case["advantages"], weights, ratio_level=variant.ratio_level)

    assert loss_of(case["log_probs"])[0].item() == pytest.approx(case["loss"], rel=1e-6)
    assert_close(gradient_of(loss_of, case["log_probs"]), case["gradient"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_advantages_of_a_variant_are_those_its_paper_compares(name):
    rewards, groups = torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([0, 0, 1, 1])
    scale = {"dr_grpo": 0.5, "rloo": 1.0}.get(name, 0.5 / (math.sqrt(0.5) + 1e-4))
    credit = VARIANTS[name].advantages(rewards, groups, group_size=2)
    assert_close(credit.advantages, scale * torch.tensor([-1.0, 1.0, -1.0, 1.0]))


@given(seeds, lengths, lengths)
@settings(max_examples=30, deadline=None)
def test_on_policy_every_level_has_the_gradient_of_reinforce_per_sequence(seed, num_sequences, num_tokens):
    batch = sampled(seed, num_sequences, num_tokens)
    old, mask, advantages = batch["old_log_probs"], batch["mask"], batch["advantages"][:, 0]
    means = token_weights(mask, "sequence_mean")
    sums = token_weights(mask, "constant", max_tokens=1)
    for level, reinforced in (("token", means), ("geometric", means), ("sequence", sums)):
        ours = gradient_of(partial(unclipped, old, advantages, means, level), old)
        assert_close(ours, gradient_of(partial(reinforce, advantages, reinforced), old), rtol=1e-6, atol=1e-7)


def unclipped(old: Tensor, advantages: Tensor, weights: Tensor, level: RatioLevel, log_probs: Tensor):
    return grpo_loss(log_probs, old, advantages, weights, math.inf, math.inf, level)


def reinforce(advantages: Tensor, weights: Tensor, log_probs: Tensor):
    return reinforce_loss(log_probs, advantages[:, None].expand_as(log_probs), weights)


@given(seeds, lengths, lengths, st.sampled_from(["token", "geometric", "sequence"]))
@settings(max_examples=30, deadline=None)
def test_masked_tokens_have_no_part_and_no_gradient(seed, num_sequences, num_tokens, level):
    batch = sampled(seed, num_sequences, num_tokens)
    old, weights, advantages = batch["old_log_probs"], batch["weights"], batch["advantages"][:, 0]
    garbage = torch.where(batch["mask"], batch["log_probs"], -math.inf)

    def loss_of(log_probs):
        return grpo_loss(log_probs, old, advantages, weights, ratio_level=level)

    assert loss_of(garbage)[1] == loss_of(batch["log_probs"])[1]
    gradient = gradient_of(loss_of, garbage)
    assert gradient.isfinite().all()
    assert not gradient[~batch["mask"]].any()


@given(seeds, st.integers(2, 6), lengths, st.sampled_from(sorted(VARIANTS)))
@settings(max_examples=30, deadline=None)
def test_losses_of_micro_batches_add_up_to_that_of_the_batch(seed, num_sequences, num_tokens, name):
    batch, variant = sampled(seed, num_sequences, num_tokens), VARIANTS[name]
    max_tokens = num_tokens if variant.aggregation == "constant" else None
    weights = token_weights(batch["mask"], variant.aggregation, max_tokens)

    def loss_of(rows):
        columns = (batch["log_probs"][rows], batch["old_log_probs"][rows], batch["advantages"][rows, 0], weights[rows])
        return grpo_loss(*columns, variant.clip_low, variant.clip_high, variant.ratio_level)[0]

    parts = loss_of(slice(0, 1)) + loss_of(slice(1, None))
    assert_close(parts, loss_of(slice(None)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_batch_in_which_every_group_agrees_teaches_nothing(name):
    batch, variant = sampled(0, 4, 5), VARIANTS[name]
    credit = variant.advantages(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1]), group_size=2)
    max_tokens = 5 if variant.aggregation == "constant" else None
    weights = token_weights(batch["mask"] & credit.informative[:, None], variant.aggregation, max_tokens)

    def loss_of(log_probs):
        return grpo_loss(log_probs, batch["old_log_probs"], credit.advantages, weights)

    loss, metrics = loss_of(batch["log_probs"])
    assert loss == 0
    assert metrics["policy/ratio_min"] == metrics["policy/ratio_max"] == 1
    assert not gradient_of(loss_of, batch["log_probs"]).any()


def test_levels_of_the_ratio_are_the_mean_and_the_sum_of_the_tokens():
    log_ratios = torch.tensor([[0.2, 0.4, 0.0]])
    weights = torch.tensor([[0.5, 0.5, 0.0]])
    assert_close(importance_ratio(log_ratios, weights, "token"), log_ratios.exp())
    assert importance_ratio(log_ratios, weights, "geometric").item() == pytest.approx(math.exp(0.3))
    assert importance_ratio(log_ratios, weights, "sequence").item() == pytest.approx(math.exp(0.6))
    assert importance_ratio(torch.full((1, 1000), 5.0), torch.ones(1, 1000), "sequence").isfinite()


def test_tensors_that_do_not_fit_are_refused():
    tokens = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"advantages must have shape \(3,\), got \(3, 3\)"):
        grpo_loss(tokens, tokens, tokens, tokens)
    with pytest.raises(ValueError, match=r"other_log_probs must have shape \(3, 3\), got \(3, 2\)"):
        grpo_loss(tokens, tokens[:, :2], tokens[0], tokens)
    with pytest.raises(ValueError, match="token, geometric or sequence, got 'word'"):
        grpo_loss(tokens, tokens, tokens[0], tokens, ratio_level="word")
    with pytest.raises(ValueError, match=r"ratio of sequences needs tokens of shape \(B, T\), got \(3,\)"):
        grpo_loss(tokens[0], tokens[0], tokens[0], tokens[0], ratio_level="geometric")

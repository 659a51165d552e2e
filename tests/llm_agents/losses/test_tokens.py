"""How tokens are weighed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from llm_agents.losses import token_weights
from llm_agents.losses.tokens import mean_of_kept, weighted_sum

MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


@pytest.mark.parametrize(
    ("aggregation", "max_tokens", "expected"),
    [
        ("token_mean", None, [[1 / 4] * 3, [1 / 4, 0, 0], [0] * 3]),
        ("sequence_mean", None, [[1 / 6] * 3, [1 / 2, 0, 0], [0] * 3]),
        ("constant", 5, [[1 / 10] * 3, [1 / 10, 0, 0], [0] * 3]),
    ],
)
def test_each_aggregation_divides_by_what_it_says(aggregation, max_tokens, expected):
    assert_close(token_weights(MASK, aggregation, max_tokens), torch.tensor(expected))


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_means_have_weights_that_sum_to_one(seed, num_sequences, num_tokens):
    mask = torch.rand(num_sequences, num_tokens, generator=torch.Generator().manual_seed(seed)) < 0.5
    for aggregation in ("token_mean", "sequence_mean"):
        weights = token_weights(mask, aggregation)
        assert weights.sum().item() == pytest.approx(float(mask.any()))
        assert torch.equal(weights > 0, mask)


@pytest.mark.parametrize(
    ("aggregation", "max_tokens"), [("token_mean", None), ("sequence_mean", None), ("constant", 5)]
)
def test_a_sequence_that_is_masked_whole_is_as_if_it_were_not_there(aggregation, max_tokens):
    weights = token_weights(MASK, aggregation, max_tokens)
    assert torch.equal(weights[:2], token_weights(MASK[:2], aggregation, max_tokens))


def test_decisions_of_any_shape_have_a_plain_mean():
    assert_close(token_weights(torch.tensor([True, False, True]), "token_mean"), torch.tensor([0.5, 0.0, 0.5]))


@pytest.mark.parametrize(
    ("mask", "aggregation", "max_tokens", "message"),
    [
        (MASK, "constant", None, "max_tokens belongs to .*'constant', got None"),
        (MASK, "token_mean", 5, "max_tokens belongs to .*'constant', got 5 for 'token_mean'"),
        (MASK[0], "sequence_mean", None, r"sequence_mean needs a mask of shape \(B, T\), got \(3,\)"),
        (MASK, "sum", None, "aggregation must be token_mean, sequence_mean or constant, got 'sum'"),
    ],
)
def test_contradictory_options_are_refused(mask, aggregation, max_tokens, message):
    with pytest.raises(ValueError, match=message):
        token_weights(mask, aggregation, max_tokens)


def test_tokens_of_weight_zero_are_left_out_whatever_they_are():
    weights = torch.tensor([0.5, 0.0, 0.5])
    losses = torch.tensor([1.0, float("nan"), 3.0])
    assert weighted_sum(losses, weights).item() == 2
    assert mean_of_kept(losses, weights) == 2
    assert weighted_sum(losses, torch.ones(3)).isnan()

"""A short convolution reads each token with those before it, wherever they stand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from llm_agents.models.action_scorer import packed_mask
from llm_agents.models.short_convolution import ShortConvolution, positions_before

HIDDEN_SIZE = 3


@given(st.integers(1, 5), st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_it_is_a_depthwise_causal_convolution_of_what_is_real(size, rows):
    mask, convolution = torch.tensor(rows), ShortConvolution(HIDDEN_SIZE, size)
    embeds = torch.randn(*mask.shape, HIDDEN_SIZE)
    before = positions_before(mask)
    mixed = convolution(embeds, before, 6)
    for num_new in range(1, 6):
        torch.testing.assert_close(convolution(embeds, before, num_new), mixed[:, -num_new:])
    kernel = torch.cat([torch.ones(1, HIDDEN_SIZE), convolution.weight]).flip(0).T[:, None]
    for row in range(len(mask)):
        real = embeds[row, mask[row]].T
        expected = F.conv1d(F.pad(real, (size - 1, 0)), kernel, groups=HIDDEN_SIZE).T if real.numel() else real.T
        torch.testing.assert_close(mixed[row, mask[row]], expected)


def test_a_tree_follows_its_own_branches():
    # Behind a prompt of two stand a token (2) with its successor (3), and another beginning (4).
    paths = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]]).bool().numpy()
    attends = torch.from_numpy(packed_mask([2], [paths]))[:, None]
    assert positions_before(attends).tolist() == [[-1, 0, 1, 2, 1]]

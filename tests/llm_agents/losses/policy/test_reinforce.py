"""REINFORCE, by enumeration of a small distribution: its expected gradient is that of the expected reward."""

import pytest
import torch
from torch.testing import assert_close

from llm_agents.losses import reinforce_loss

REWARDS = torch.tensor([1.0, -2.0, 0.5])


@pytest.mark.parametrize("baseline", [0.0, 3.0])
def test_the_gradient_is_that_of_the_expected_reward_whatever_the_baseline(baseline):
    logits = torch.tensor([0.1, 0.7, -0.4], requires_grad=True)
    log_probs = logits.log_softmax(-1)
    loss, metrics = reinforce_loss(log_probs, REWARDS - baseline, log_probs.detach().exp())
    assert metrics["loss/policy"] == loss.item()
    expected_reward = (logits.softmax(-1) * REWARDS).sum()
    assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(-expected_reward, logits))


def test_masked_tokens_have_no_part_and_no_gradient():
    log_probs = torch.tensor([-1.0, -torch.inf], requires_grad=True)
    loss, _ = reinforce_loss(log_probs, torch.tensor([2.0, 5.0]), torch.tensor([0.5, 0.0]))
    assert loss.item() == 1
    assert torch.autograd.grad(loss, log_probs)[0].tolist() == [-1, 0]


def test_tensors_that_would_be_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"advantages must have shape \(2, 2\), got \(2,\)"):
        reinforce_loss(torch.zeros(2, 2), torch.zeros(2), torch.zeros(2, 2))

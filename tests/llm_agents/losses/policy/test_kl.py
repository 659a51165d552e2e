"""The estimators of KL, by enumeration of a small distribution: every expectation is exact."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.testing import assert_close

from llm_agents.losses import kl_estimate, kl_loss

ALL = torch.ones(4, dtype=torch.float64)
LOGITS = torch.tensor([0.5, -0.3, 0.2, -1.0], dtype=torch.float64)
REFERENCE = torch.tensor([-0.2, 0.4, 0.1, 0.3], dtype=torch.float64).log_softmax(-1)


def expected(estimator: str) -> Tensor:
    """The estimator's expectation over what the policy samples."""
    log_probs = LOGITS.log_softmax(-1)
    return (log_probs.exp() * kl_estimate(log_probs, REFERENCE, ALL, estimator)).sum()


def expected_gradient(estimator: str) -> Tensor:
    """The expectation of the gradient of the loss; what is sampled is not differentiated through."""
    logits = LOGITS.clone().requires_grad_()
    log_probs = logits.log_softmax(-1)
    loss, _ = kl_loss(log_probs, REFERENCE, log_probs.detach().exp(), estimator)
    return torch.autograd.grad(loss, logits)[0]


def exact_gradient(forward: bool) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    policy, reference = Categorical(logits=logits), Categorical(logits=REFERENCE)
    kl = kl_divergence(reference, policy) if forward else kl_divergence(policy, reference)
    return torch.autograd.grad(kl, logits)[0]


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator):
    assert_close(expected(estimator), kl_divergence(Categorical(logits=LOGITS), Categorical(logits=REFERENCE)))


def test_k2_is_biased_but_close():
    exact = kl_divergence(Categorical(logits=LOGITS), Categorical(logits=REFERENCE)).item()
    assert expected("k2").item() == pytest.approx(exact, rel=0.2)
    assert expected("k2").item() != pytest.approx(exact, rel=1e-3)


def test_gradients_as_losses_are_nothing_the_kl_and_the_other_kl():
    assert_close(expected_gradient("k1"), torch.zeros_like(LOGITS))
    assert_close(expected_gradient("k2"), exact_gradient(forward=False))
    assert_close(expected_gradient("k3"), exact_gradient(forward=True))
    assert not torch.allclose(exact_gradient(forward=True), exact_gradient(forward=False), rtol=0.05)


def test_k2_and_k3_are_never_negative_and_zero_for_the_reference():
    log_probs = LOGITS.log_softmax(-1)
    for estimator in ("k2", "k3"):
        assert (kl_estimate(log_probs, REFERENCE, ALL, estimator) > 0).all()
    for estimator in ("k1", "k2", "k3"):
        assert not kl_estimate(REFERENCE, REFERENCE, ALL, estimator).any()


def test_what_is_watched_does_not_depend_on_the_estimator_of_the_loss():
    watched = {kl_loss(LOGITS.log_softmax(-1), REFERENCE, ALL, name)[1]["policy/reference_kl"] for name in ("k1", "k2")}
    assert watched == {kl_estimate(LOGITS.log_softmax(-1), REFERENCE, ALL, "k3").float().mean().item()}


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_token_the_policy_has_all_but_forgotten_stays_finite(estimator):
    log_probs = torch.tensor([-500.0], requires_grad=True)
    loss, metrics = kl_loss(log_probs, torch.tensor([-0.1]), torch.ones(1), estimator)
    assert loss.isfinite()
    assert math.isfinite(metrics["policy/reference_kl"])
    assert torch.autograd.grad(loss, log_probs)[0].isfinite().all()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_masked_tokens_have_no_part_and_no_gradient(estimator):
    log_probs = torch.tensor([-1.0, -math.inf], requires_grad=True)
    reference = torch.tensor([-1.3, -math.inf])
    loss, metrics = kl_loss(log_probs, reference, torch.tensor([1.0, 0.0]), estimator)
    alone = kl_loss(log_probs[:1], reference[:1], torch.ones(1), estimator)
    assert_close(loss, alone[0])
    assert metrics == alone[1]
    gradient = torch.autograd.grad(loss, log_probs)[0]
    assert gradient[0] != 0
    assert gradient[1] == 0


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="must be k1, k2 or k3, got 'k4'"):
        kl_estimate(LOGITS, REFERENCE, ALL, "k4")

"""Natural gradient and TRPO on policies small enough to write the Fisher matrix down."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from torch.testing import assert_close

from llm_agents.losses import conjugate_gradient, natural_gradient_step, trpo_step
from llm_agents.runtime.errors import UserError

ADVANTAGES = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)


class Softmax(nn.Module):
    """A policy over three actions that is nothing but its logits, and its expected advantage."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))
        self.old = Categorical(logits=self.logits.detach().clone())

    def surrogate(self) -> Tensor:
        return (self.logits.softmax(-1) * ADVANTAGES).sum()

    def kl(self) -> Tensor:
        return kl_divergence(self.old, Categorical(logits=self.logits))


@given(st.integers(0, 2**31), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_conjugate_gradient_solves_positive_definite_systems(seed, size):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(size, dtype=torch.float64)
    target = torch.randn(size, generator=generator, dtype=torch.float64)
    solution = conjugate_gradient(lambda vector: matrix @ vector, target, 2 * size)
    assert_close(matrix @ solution, target, rtol=1e-6, atol=1e-6)
    assert not conjugate_gradient(lambda vector: matrix @ vector, torch.zeros_like(target), size).any()


def test_a_natural_gradient_step_is_the_inverse_fisher_matrix_times_the_gradient():
    policy, max_kl, damping = Softmax(), 1e-3, 1e-3
    start = policy.logits.detach().clone()
    probs = start.softmax(-1)
    fisher = probs.diag() - probs.outer(probs) + damping * torch.eye(3, dtype=torch.float64)
    gradient = torch.autograd.grad(policy.surrogate(), policy.logits)[0]
    direction = torch.linalg.solve(fisher, gradient)
    expected = start + math.sqrt(2 * max_kl / (gradient @ direction).item()) * direction
    metrics = natural_gradient_step(policy.parameters(), policy.surrogate, policy.kl, max_kl, damping)
    assert_close(policy.logits.detach(), expected)
    assert metrics["policy/kl"] == pytest.approx(max_kl, rel=0.1)


def test_a_natural_gradient_step_does_not_depend_on_how_the_policy_is_parametrised():
    plain, stretched = Softmax(), Softmax()
    stretch = torch.tensor([10.0, 0.1, 3.0], dtype=torch.float64)
    weights = nn.Parameter(stretched.logits.detach() / stretch)

    def probs() -> Tensor:
        return (weights * stretch).softmax(-1)

    natural_gradient_step(plain.parameters(), plain.surrogate, plain.kl, 1e-3, damping=1e-9)
    natural_gradient_step(
        [weights],
        lambda: (probs() * ADVANTAGES).sum(),
        lambda: kl_divergence(stretched.old, Categorical(probs())),
        1e-3,
        damping=1e-9,
    )
    assert_close(probs(), plain.logits.softmax(-1), rtol=1e-3, atol=1e-5)


@given(st.floats(1e-4, 1.0))
@settings(max_examples=20, deadline=None)
def test_a_trpo_step_gains_within_the_trust_region(max_kl):
    policy = Softmax()
    before = policy.surrogate().item()
    metrics = trpo_step(policy.parameters(), policy.surrogate, policy.kl, max_kl)
    assert policy.surrogate().item() > before == -metrics["loss/policy"]
    assert 0 < policy.kl().item() == metrics["policy/kl"] <= max_kl
    assert 0 < metrics["policy/step_fraction"] <= 1


def test_a_step_that_leaves_the_trust_region_is_shortened():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def kl() -> Tensor:
        """To second order the step is right; the fourth order doubles the divergence there."""
        return (weight**2 + 100 * weight**4).sum()

    metrics = trpo_step([weight], weight.sum, kl, max_kl=0.01, damping=0.0)
    assert weight.item() == pytest.approx(0.1 * metrics["policy/step_fraction"])
    assert metrics["policy/step_fraction"] == pytest.approx(0.8**2)  # 0.8 of it would still diverge by 0.0105
    assert metrics["policy/kl"] == kl().item() <= 0.01


def test_trpo_solves_a_bandit_in_a_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
    contexts = torch.eye(4)

    def log_probs() -> Tensor:
        return network(contexts).log_softmax(-1)

    for _ in range(60):
        old = log_probs().detach()
        advantages = torch.eye(4) - old.exp()  # in context k, action k is right

        def surrogate(old: Tensor = old, advantages: Tensor = advantages) -> Tensor:
            return ((log_probs() - old).exp() * old.exp() * advantages).sum(-1).mean()

        def kl(old: Tensor = old) -> Tensor:
            return (old.exp() * (old - log_probs())).sum(-1).mean()

        trpo_step(network.parameters(), surrogate, kl, max_kl=0.05)
    assert (log_probs().exp().diagonal() > 0.95).all()


def test_a_step_that_cannot_help_is_not_taken():
    policy = Softmax()
    start = policy.logits.detach().clone()

    def gone_wrong() -> Tensor:
        """Promises a gain by its gradient that it never keeps."""
        return policy.surrogate() - policy.surrogate().detach()

    assert trpo_step(policy.parameters(), gone_wrong, policy.kl)["policy/step_fraction"] == 0
    assert torch.equal(policy.logits.detach(), start)


def test_without_advantages_nothing_moves():
    policy = Softmax()
    start = policy.logits.detach().clone()
    natural_gradient_step(policy.parameters(), lambda: 0 * policy.surrogate(), policy.kl, 0.01)
    assert torch.equal(policy.logits.detach(), start)


def test_parameters_that_the_policy_does_not_use_stay():
    policy = Softmax()
    other = nn.Parameter(torch.ones(2, dtype=torch.float64))
    trpo_step([*policy.parameters(), other], policy.surrogate, policy.kl)
    assert other.tolist() == [1, 1]
    assert policy.kl() > 0


def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing():
    policy = Softmax()
    start = policy.logits.detach().clone()
    with pytest.raises(UserError, match="gradient of the policy's objective is not finite"):
        trpo_step(policy.parameters(), lambda: policy.surrogate() * math.nan, policy.kl)
    assert torch.equal(policy.logits.detach(), start)

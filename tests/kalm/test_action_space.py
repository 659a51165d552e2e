"""Actions, discrete and continuous: how they are scored, drawn and tried, and which spaces are refused."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.worlds import BOTH, World
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from kalm.action_space import ContinuousActions, DiscreteActions, ProposalSettings, action_space
from llm_agents.runtime.errors import UserError

LOW, HIGH = np.array([-1.0, 0.0, 10.0], np.float32), np.array([1.0, 0.3, 30.0], np.float32)
BOX = ContinuousActions(LOW, HIGH, num_bins=21)


def logits_of(count: int, actions=BOX) -> Tensor:
    return torch.randn(count, actions.num_logits, generator=torch.Generator().manual_seed(0))


def within(actions: Tensor) -> bool:
    return bool(((actions >= torch.from_numpy(LOW)) & (actions <= torch.from_numpy(HIGH))).all())


# Which spaces


def test_spaces_are_told_apart():
    assert action_space(spaces.Discrete(7), 5).num_logits == 7
    box = action_space(spaces.Box(LOW, HIGH), 5)
    assert (box.num_logits, box.num_q_inputs, box.num_q_outputs) == (15, 3, 1)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([2, 3]),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(0.0, np.inf, (2,)),
        spaces.Box(-1.0, 1.0, (2, 2)),
        spaces.Box(0, 9, (2,), np.int64),
        spaces.Text(5),
    ],
)
def test_other_spaces_are_refused_by_name(space):
    with pytest.raises(UserError, match=r"Discrete.*Box") as caught:
        action_space(space, 5)
    assert str(space) in str(caught.value)


def test_as_many_elites_as_candidates_are_refused():
    with pytest.raises(ValueError, match="num_elites"):
        ProposalSettings(num_candidates=4, num_elites=4)


# Scores


def test_a_continuous_action_is_a_choice_in_each_dimension():
    """By hand: the nearest of the evenly spaced values, and the mean of the dimensions' cross-entropies."""
    actions = torch.tensor([[-1.0, 0.3, 20.4], [0.04, 0.0, 30.0]])
    bins = torch.tensor([[0, 20, 10], [10, 0, 20]])
    by_dimension = logits_of(2).view(2, 3, 21)
    expected = -F.cross_entropy(by_dimension.flatten(0, 1), bins.flatten(), reduction="none").view(2, 3).mean(1)
    torch.testing.assert_close(BOX.log_probs(logits_of(2), actions), expected)
    assert BOX.loss(logits_of(2), actions).item() == pytest.approx(-expected.mean().item())
    best = by_dimension.argmax(-1)
    assert BOX.accuracy(logits_of(2), actions).item() == pytest.approx((best == bins).float().mean().item())


@BOTH
def test_the_loss_is_the_mean_of_what_single_actions_cost(world: World):
    actions, taken = world.actions, world.random_actions(50)
    logits = logits_of(50, actions)
    assert actions.loss(logits, taken).item() == pytest.approx(
        -actions.log_probs(logits, taken).mean().item(), rel=1e-5
    )


@BOTH
def test_the_loss_is_least_for_the_actions_taken(world: World):
    actions, taken = world.actions, world.random_actions(50)
    logits = torch.zeros(50, actions.num_logits, requires_grad=True)
    for _ in range(50):
        (gradient,) = torch.autograd.grad(actions.loss(logits, taken) * 50, logits)
        logits = (logits - 20 * gradient).detach().requires_grad_()
    assert actions.accuracy(logits, taken) == 1
    off = (actions.draw(logits, 0.0) - taken).abs().max()
    assert off <= (0 if taken.dtype == torch.int64 else 0.5 * 2 / 10 + 1e-6)  # half a bin


# Draws


@BOTH
def test_draws_cool_down_to_the_most_probable_and_depend_on_the_generator(world: World):
    actions = world.actions
    logits = logits_of(40, actions)

    def draw(temperature: float, seed: int) -> Tensor:
        return actions.draw(logits, temperature, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1e-6, 0), draw(0.0, 1))
    assert torch.equal(draw(1.0, 0), draw(1.0, 0))
    assert not torch.equal(draw(1.0, 0), draw(1.0, 1))
    rngs = [np.random.default_rng(seed) for seed in range(40)]
    assert np.array_equal(actions.decide(logits, rngs, 1e-6), draw(0.0, 0).numpy())
    assert np.array_equal(actions.decide(logits, rngs, 0.0), draw(0.0, 0).numpy())


@BOTH
@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_decisions_are_in_the_environments_own_space(world: World, temperature):
    space = world.make().action_space
    rngs = [np.random.default_rng(seed) for seed in range(40)]
    assert all(
        space.contains(action) for action in world.actions.decide(logits_of(40, world.actions), rngs, temperature)
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_discrete_actions_are_as_frequent_as_their_probability(temperature):
    logits = torch.tensor([1.0, -1.0, 0.0, 2.0])
    count = 10_000
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    actions = DiscreteActions(4).decide(logits.expand(count, -1), rngs, temperature)
    fractions = np.bincount(actions, minlength=4) / count
    expected = (logits / temperature).softmax(-1).numpy()
    assert np.abs(fractions - expected).max() < 4 * np.sqrt(0.25 / count)


@pytest.mark.parametrize("decide", [True, False])
def test_each_dimension_is_as_frequent_as_its_probability(decide):
    """Whatever the other dimensions are, of which each has its own distribution."""
    logits, count = logits_of(1) * 2, 4_000
    if decide:
        drawn = np.stack(
            BOX.decide(logits.expand(count, -1), [np.random.default_rng(seed) for seed in range(count)], 1.0)
        )
    else:
        drawn = BOX.draw(logits.expand(count, -1), 1.0, torch.Generator().manual_seed(0)).numpy()
    bins = np.rint((drawn - LOW) / (HIGH - LOW) * 20).astype(int)
    for dimension, expected in enumerate(logits.view(3, 21).softmax(-1).numpy()):
        fractions = np.bincount(bins[:, dimension], minlength=21) / count
        assert np.abs(fractions - expected).max() < 4.5 * np.sqrt(0.25 / count)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_any_logits_give_an_action_that_is_possible(logits, temperature, seed):
    rows, actions = torch.tensor([logits]), DiscreteActions(len(logits))
    for draw in (0.0, np.nextafter(1.0, 0.0), np.random.default_rng(seed).random()):
        rng = SimpleNamespace(random=lambda draw=draw: draw)
        (action,) = actions.decide(rows, [rng], temperature)
        assert 0 <= action < len(logits)
        assert rows.double().div(temperature).softmax(-1)[0, action] > 0
    assert actions.decide(rows, [None], 0.0) == [int(rows.argmax())]


# Embeddings


@BOTH
@torch.no_grad()
def test_an_embedding_is_linear_in_the_state_for_each_action(world: World):
    torch.manual_seed(0)
    embed = world.actions.make_embedding(state_dim=4, width=6)
    actions, states, others = world.random_actions(5, 3), torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    assert embed(states, actions).shape == (5, 3, 6)
    middle = (embed(states, actions) + embed(others, actions)) / 2
    torch.testing.assert_close(embed((states + others) / 2, actions), middle)
    assert (embed(states, actions) - embed(states, actions.flip(0)))[[0, -1]].abs().amax(-1).min() > 0
    torch.testing.assert_close(embed(states[2, 1], actions[2, 1]), embed(states, actions)[2, 1])


# Candidates


def unasked(*arguments) -> Tensor:
    raise AssertionError("nothing is to be asked")


def test_all_discrete_actions_are_candidates():
    tried = DiscreteActions(5).candidates(3, unasked, unasked, ProposalSettings(), np.random.default_rng(0))
    assert tried.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_continuous_candidates_are_those_of_the_policy_with_noise():
    sure = torch.full((2, 3, 21), -50.0)
    sure[0, :, 4] = sure[1, :, 16] = 50.0
    said = BOX.draw(sure.flatten(1), 0.0)
    for noise, most in ((0.0, 1e-6), (0.1, 0.1)):
        settings = ProposalSettings(num_candidates=200, noise=noise, num_refinements=0)
        tried = BOX.candidates(2, lambda: sure.flatten(1), unasked, settings, np.random.default_rng(0))
        assert tried.shape == (2, 200, 3)
        deviation = ((tried - said[:, None]) / torch.from_numpy((HIGH - LOW) / 2)).std(1)
        assert deviation.max() <= most * 1.2
        assert deviation.min() >= 0.8 * most or noise == 0
        assert within(tried)


def test_refined_candidates_come_near_the_best_action_and_keep_the_best_so_far():
    wanted = torch.tensor([[-0.7, 0.25, 29.0], [0.9, 0.01, 12.0]])
    scored = []

    def score(tried: Tensor) -> np.ndarray:
        scored.append(tried)
        scaled = (tried - wanted[:, None]) / torch.from_numpy((HIGH - LOW) / 2)
        return -scaled.square().sum(-1).numpy()

    nearest = []
    for num_refinements in (0, 1, 3, 6):
        settings = ProposalSettings(num_candidates=48, noise=0.3, num_refinements=num_refinements, num_elites=6)
        scored.clear()
        tried = BOX.candidates(2, lambda: torch.zeros(2, 63), score, settings, np.random.default_rng(0))
        assert len(scored) == num_refinements
        assert within(tried)
        bests = [score(one).max(1) for one in [*scored, tried]]
        assert all((later >= earlier).all() for earlier, later in pairwise(bests))
        nearest.append(bests[-1].min())
    assert nearest == sorted(nearest)
    assert nearest[-1] > -0.01 > nearest[0]


def test_what_is_impossible_is_never_refined():
    def score(tried: Tensor) -> np.ndarray:
        return np.where(tried[..., 0] > 0, -np.inf, tried[..., 0])

    settings = ProposalSettings(num_candidates=64, num_refinements=4)
    tried = BOX.candidates(3, lambda: torch.zeros(3, 63), score, settings, np.random.default_rng(0))
    assert (tried[..., 0] <= 0).float().mean() > 0.9

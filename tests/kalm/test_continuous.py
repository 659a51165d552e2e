"""What is particular to continuous actions in imagination and verification, in a world of which all is known."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers import point_mass
from helpers.point_mass import STRIDE, PointMassTask, make, move, right_action
from helpers.worlds import CONTINUOUS, WORLDS
from torch import Tensor

from envs.episodes import Episode
from envs.language import check_language_env
from kalm.action_space import ProposalSettings
from kalm.dynamics import LMDynamics
from kalm.generation import GenerationSettings, generate
from kalm.judging import start_states
from kalm.planning import SearchSettings, search
from kalm.specs import imagination_specs, training_specs
from kalm.trajectory_lm import StateNormalizer
from kalm.verification import VerificationSettings, replay, verify
from llm_agents.rollouts.specs import EpisodeSpec

TASK, ACTIONS = PointMassTask(), WORLDS["point"].actions
CASES = [spec for split in ("easy", "hard") for spec in imagination_specs(TASK, split, 12, seed=0)]
STARTS = start_states(make, CASES)
SURELY = SearchSettings(noise=0.0, random_fraction=0.0)


class World:
    """Dynamics without an error."""

    def outcomes(self, states: Tensor, actions: Tensor) -> Tensor:
        return torch.from_numpy(move(states[:, None].numpy(), actions.numpy()))

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        return torch.from_numpy(move(states.numpy(), actions.numpy()))


def know_nothing(instructions: Sequence[str], states: Tensor) -> Tensor:
    """A policy that finds every action equally probable."""
    return torch.zeros(len(states), ACTIONS.num_logits)


def search_in_the_world(settings: SearchSettings, specs: list[EpisodeSpec] = CASES, seed: int = 0) -> list[Episode]:
    starts = start_states(make, specs)
    return search(World(), TASK, ACTIONS, know_nothing, specs, starts, settings, seed)


def test_the_point_mass_keeps_the_contract():
    check_language_env(make())


@pytest.mark.parametrize("count", [101, 1010, 101_000])
def test_a_number_that_never_changes_has_a_scale_that_does_no_harm(count):
    """Also where rounding makes it seem to change, as at an elevation of 123.456 it does."""
    steps = torch.arange(count) % 7 / 7
    states = torch.stack([steps, torch.full((count,), point_mass.ELEVATION), (steps > 0.5).float()], 1)
    moved = states + torch.stack([steps, torch.zeros(count), torch.zeros(count)], 1)
    normalizer = StateNormalizer.of(states, moved)
    assert normalizer.state_std[1] == 1
    torch.testing.assert_close(normalizer.state_std[[0, 2]], states[:, [0, 2]].std(0))
    assert normalizer.step_std[0] == (moved - states)[:, 0].std()
    assert (normalizer.step_std[1:] > 0).all()
    assert normalizer.step_std[1] < 2e-4
    assert normalizer.step_std[2] < 2e-6


@CONTINUOUS
def test_imagination_leaves_a_number_alone_that_never_changes(world, make_model):
    """Whatever an untrained model says of it."""
    episodes = generate(make_model(), TASK, CASES, STARTS, GenerationSettings(max_steps=20), temperature=1.0)
    moved = np.array([np.abs(episode.states - episode.states[0]).max(0) for episode in episodes]).max(0)
    assert moved[:2].min() > 0.1
    assert moved[2] < 1e-2


# Search


def test_search_finds_its_way_from_a_policy_that_knows_nothing():
    specs = [*CASES, *training_specs(TASK, "gate", 16, seed=0)]
    episodes = search_in_the_world(SearchSettings(), specs)
    assert np.mean([episode.success for episode in episodes]) >= 0.9
    assert all(result.success for result in replay(make, [e for e in episodes if e.success]))


def test_refinement_finds_better_actions():
    """In the first step, by the reward; the best there is is known."""
    rewards = []
    for num_refinements in (0, 1, 4):
        proposals = ProposalSettings(num_candidates=24, num_elites=6, num_refinements=num_refinements)
        settings = SURELY.model_copy(update={"max_steps": 1, "proposals": proposals})
        rewards.append(np.mean([episode.rewards[0] for episode in search_in_the_world(settings)]))
    assert rewards == sorted(rewards)
    goals = [TASK.goal_set.find(spec.goal_id, spec.split) for spec in CASES]
    reached = move(STARTS, np.array([right_action(goal, start) for goal, start in zip(goals, STARTS, strict=True)]))
    bound = np.mean([TASK.reward(g, s, r) for g, s, r in zip(goals, STARTS, reached, strict=True)])
    assert rewards[0] < 0.95 * bound
    assert 0.95 * bound < rewards[-1] <= bound + 1e-5


def test_search_asks_the_policy_where_it_is_and_takes_what_it_proposes():
    """Where it is sure and nothing is refined, its actions are the rollout."""
    corner = [spec for spec in CASES if spec.split == "hard"]

    def expert(instructions: Sequence[str], states: Tensor) -> Tensor:
        assert len(instructions) == len(states)
        logits = torch.zeros(len(states), 2, 11)
        for row, (words, state) in enumerate(zip(instructions, states.numpy(), strict=True)):
            goal = next(goal for goal in TASK.goals("hard") if words in goal.phrasings)
            logits[row, [0, 1], np.rint((right_action(goal, state) + 1) * 5).astype(int)] = 50.0
        return logits.flatten(1)

    proposals = ProposalSettings(num_candidates=2 + 1, noise=0.0, num_refinements=0, num_elites=2)
    settings = SURELY.model_copy(update={"proposals": proposals})
    for episode in search(World(), TASK, ACTIONS, expert, corner, start_states(make, corner), settings):
        goal = TASK.goal_set.find(episode.goal_id, "hard")
        best = np.array([right_action(goal, state) for state in episode.states[:-1]])
        assert np.abs(episode.actions - best).max() <= 0.1 + 1e-6
        assert episode.success


def test_a_searched_rollout_follows_the_dynamics_and_depends_on_the_seed():
    episodes = search_in_the_world(SearchSettings())
    for episode in episodes:
        assert episode.actions.dtype == np.float32
        assert episode.actions.shape == (len(episode), 2)
        assert np.abs(episode.actions).max() <= 1
        np.testing.assert_allclose(episode.states[1:], move(episode.states[:-1], episode.actions), atol=1e-6)
    again, other = search_in_the_world(SearchSettings()), search_in_the_world(SearchSettings(), seed=1)
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(episodes, again, strict=True))
    assert not all(np.array_equal(a.actions, b.actions) for a, b in zip(episodes, other, strict=True))


@CONTINUOUS
def test_search_in_the_models_own_dynamics_follows_them(world, grounded):
    model = grounded.model
    settings = SearchSettings(max_steps=3)
    dynamics = LMDynamics(model)
    with torch.inference_mode():
        episodes = search(dynamics, TASK, ACTIONS, model.first_action_logits, CASES, STARTS, settings)
    for episode in episodes:
        states, actions = torch.from_numpy(episode.states[:-1].copy()), torch.from_numpy(episode.actions.copy())
        np.testing.assert_allclose(dynamics.predict(states, actions), episode.states[1:], rtol=1e-4, atol=1e-4)


# Written by the model


@CONTINUOUS
def test_samples_depend_on_the_seed_and_become_greedy_as_they_are_cooled(world, grounded):
    def actions(temperature: float, seed: int) -> list:
        settings = GenerationSettings(max_steps=4)
        episodes = generate(grounded.model, TASK, CASES, STARTS, settings, temperature, seed)
        assert all(np.abs(episode.actions).max() <= 1 for episode in episodes)
        return [episode.actions.tolist() for episode in episodes]

    assert actions(1.0, seed=0) == actions(1.0, seed=0) != actions(1.0, seed=1)
    assert actions(1e-5, seed=0) == actions(0.0, seed=1)


# Verified


@pytest.fixture(scope="module")
def good() -> list[Episode]:
    found = [episode for episode in search_in_the_world(SearchSettings()) if episode.success and len(episode) > 1]
    assert len(found) >= 4
    return found


def test_only_what_the_dynamics_agree_with_is_kept(good):
    def accepted(episodes: list[Episode]) -> list[bool]:
        settings = VerificationSettings(max_disagreement=0.05)
        return verify(episodes, TASK, World(), torch.ones(3), settings).accepted.tolist()

    assert accepted(good) == [True] * len(good)
    actions = good[1].actions.copy()
    actions[0, 1] += 0.1 / STRIDE if actions[0, 1] < 0 else -0.1 / STRIDE
    tampered = [good[0], dataclasses.replace(good[1], actions=actions), *good[2:]]
    assert accepted(tampered) == [True, False, *[True] * (len(good) - 2)]


def test_replays_take_the_same_actions(good):
    for episode, found in zip(good, replay(make, good), strict=True):
        assert found.success == episode.success
        assert found.state_error < 1e-5

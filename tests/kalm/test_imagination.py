"""Imagined rollouts: written by the model or searched in its dynamics, and judged as real ones are."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers.small_models import NAMES, Grounded, MakeModel
from helpers.worlds import BOTH, ROOM, World
from numpy.typing import NDArray
from torch import Tensor

from envs.babyai.room_task import BabyAIRoomTask
from envs.clevr_robot import make
from envs.clevr_robot.env import NUM_ACTIONS
from envs.clevr_robot.expert import predict_pushes
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode
from envs.language import LanguageTask
from kalm.action_space import DiscreteActions
from kalm.dynamics import LMDynamics, MLPDynamics, MLPDynamicsSettings
from kalm.generation import GenerationSettings, generate
from kalm.judging import start_states
from kalm.planning import SearchSettings, search
from kalm.specs import imagination_specs, training_specs
from kalm.trajectory_lm import StateNormalizer, TrajectoryLM
from llm_agents.rollouts.specs import EpisodeSpec

TASK = ClevrRobotTask()
ACTIONS = DiscreteActions(NUM_ACTIONS)
CASES = [
    *training_specs(TASK, "gate", 6, seed=0),
    *imagination_specs(TASK, "easy", 5, seed=0),
    *imagination_specs(TASK, "hard", 8, seed=0),
]
STARTS = start_states(make, CASES)
GENERATION = GenerationSettings(max_steps=5)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


class Pushes:
    """The expert's own model of rigid discs: dynamics without an error, as far as search can tell."""

    def outcomes(self, states: Tensor, actions: Tensor) -> Tensor:
        outcomes = torch.from_numpy(predict_pushes(states.numpy()))
        return outcomes.gather(1, actions[..., None].expand(-1, -1, outcomes.shape[-1]))

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.outcomes(states, actions[:, None])[:, 0]


class Teleports(Pushes):
    """Promises that most pushes put everything at once where no ball can be; only a few of them are physics."""

    def outcomes(self, states: Tensor, actions: Tensor) -> Tensor:
        outcomes = super().outcomes(states, actions)
        impossible = torch.rand(outcomes.shape[:2], generator=torch.Generator().manual_seed(len(states))) < 0.9
        impossible[:, 0] = False
        return torch.where(impossible[..., None], outcomes + 1.0, outcomes)


def unasked(instructions: Sequence[str], states: Tensor) -> Tensor:
    raise AssertionError("where all actions are tried, none is proposed")


def all_of_them(states: Tensor) -> Tensor:
    return torch.arange(NUM_ACTIONS).expand(len(states), -1)


def equal(one: Sequence[Episode], other: Sequence[Episode], **tolerance) -> bool:
    return all(
        a.actions.tolist() == b.actions.tolist() and np.allclose(a.states, b.states, **tolerance)
        for a, b in zip(one, other, strict=True)
    )


def horizon_of(spec: EpisodeSpec) -> int:
    return TASK.horizon(TASK.goal_set.find(spec.goal_id, spec.split))


# What every imagined rollout is


@pytest.fixture(params=["lm_greedy", "lm_sample", "search"], scope="module")
def imagined(request: pytest.FixtureRequest, grounded: Grounded) -> tuple[int, list[EpisodeSpec], list[Episode]]:
    """The length at which rollouts are cut, the cases, and their rollouts."""
    if request.param == "search":
        specs = CASES + training_specs(TASK, "gate", 20, seed=1)
        settings = SearchSettings(max_steps=8)
        return 8, specs, search(Pushes(), TASK, ACTIONS, unasked, specs, start_states(make, specs), settings)
    # Also the cases that the model knows by heart, so that some of them succeed.
    known = [EpisodeSpec(e.goal_id, e.instruction, e.seed, e.split) for e in grounded.episodes]
    specs, temperature = CASES + known, 0.0 if request.param == "lm_greedy" else 0.5
    starts = start_states(make, specs)
    return 5, specs, generate(grounded.model, TASK, specs, starts, GENERATION, temperature, seed=0)


def test_an_imagined_rollout_is_judged_as_its_states_would_be_if_they_were_real(imagined):
    _, specs, episodes = imagined
    assert {episode.success for episode in episodes} == {True, False}
    for spec, episode in zip(specs, episodes, strict=True):
        goal = TASK.goal_set.find(spec.goal_id, spec.split)
        achieved = TASK.achieved(goal, episode.states)
        rewards = TASK.reward(goal, episode.states[:-1], episode.states[1:], episode.states[:1])
        assert episode.success == episode.terminated == (not episode.truncated) == achieved[-1]
        np.testing.assert_allclose(episode.rewards, rewards, rtol=1e-5, atol=1e-5)


def test_an_imagined_rollout_ends_where_its_goal_is_achieved_or_where_it_is_cut(imagined):
    max_steps, specs, episodes = imagined
    for spec, episode in zip(specs, episodes, strict=True):
        achieved = TASK.achieved(TASK.goal_set.find(spec.goal_id, spec.split), episode.states)
        cut = min(max_steps, horizon_of(spec))
        assert not achieved[:-1].any()
        assert len(episode) == cut or (achieved[-1] and len(episode) < cut)


def test_an_imagined_rollout_says_what_it_is_and_begins_where_the_real_one_would(imagined):
    _, specs, episodes = imagined
    for spec, episode, start in zip(specs, episodes, start_states(make, specs), strict=True):
        assert (episode.goal_id, episode.instruction, episode.seed) == (spec.goal_id, spec.instruction, spec.seed)
        assert (episode.split, episode.source) == (spec.split, "imagined")
        assert np.array_equal(episode.states[0], start)
        assert episode.states.dtype == episode.rewards.dtype == np.float32


def test_start_states_are_those_of_the_environment():
    env = make()
    for spec, start in zip(CASES, STARTS, strict=True):
        observation, _ = env.reset(seed=spec.seed, options={"goal": spec.goal_id, "split": spec.split})
        assert np.array_equal(observation["state"], start)


# States that can exist


class AnyVector(BabyAIRoomTask):
    """A room in which whatever is predicted is taken for a state."""

    project = LanguageTask.project


class Watched(BabyAIRoomTask):
    """A room that notes how many states it was asked to project each time."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def project(self, states: NDArray) -> NDArray:
        self.shapes.append(states.shape[:-1])
        return super().project(states)


def imagine(
    method: str, model: TrajectoryLM, normalizer: StateNormalizer, world: World, task: LanguageTask
) -> list[Episode]:
    """Rollouts of an untrained model, which predicts anything."""
    specs = some_cases(world)
    starts = start_states(world.make, specs)
    if method in ("lm_greedy", "lm_sample"):
        return generate(model, task, specs, starts, GENERATION, 0.0 if method == "lm_greedy" else 1.0)
    mlp = MLPDynamics(world.actions, normalizer, MLPDynamicsSettings(hidden_size=16))
    dynamics = LMDynamics(model) if method == "search" else mlp
    return search(dynamics, task, world.actions, unasked, specs, starts, SearchSettings(max_steps=5))


@ROOM
@pytest.mark.parametrize("method", ["lm_greedy", "lm_sample", "search", "search_mlp"])
def test_imagined_states_can_exist_where_the_task_says_which_do(world, make_model: MakeModel, normalizer, method):
    model = make_model()
    imagined, wild = (
        np.concatenate([episode.states[1:] for episode in imagine(method, model, normalizer, world, task)])
        for task in (BabyAIRoomTask(), AnyVector())
    )
    assert np.array_equal(world.task.project(imagined), imagined)
    assert not np.isclose(world.task.project(wild), wild).all(-1).any()


@ROOM
@pytest.mark.parametrize(("method", "num_candidates"), [("lm_greedy", []), ("search", [7])])
def test_the_states_of_all_rollouts_are_projected_at_once(
    world, make_model: MakeModel, normalizer, method, num_candidates
):
    task = Watched()
    episodes = imagine(method, make_model(), normalizer, world, task)
    assert [shape[1:] for shape in task.shapes] == [tuple(num_candidates)] * max(map(len, episodes))
    assert task.shapes[0][0] == len(episodes)


def test_where_every_vector_is_a_state_nothing_is_done():
    assert TASK.project(STARTS) is STARTS


# Written by the model


@torch.inference_mode()
def slowly(
    model: TrajectoryLM, task: LanguageTask, spec: EpisodeSpec, start: NDArray, max_steps: int, piece_steps: int = 10**6
) -> tuple[NDArray, list]:
    """The most probable rollout of one case, by reading everything again at every position."""
    goal = task.goal_set.find(spec.goal_id, spec.split)
    states, actions = torch.from_numpy(start)[None, None], no_actions(model)

    def read(states: Tensor, actions: Tensor, length: int) -> Tensor:
        begin = (length - 1) // 2 // piece_steps * piece_steps
        states, actions, length = states[:, begin:], actions[:, begin:], length - 2 * begin
        trajectory = model.embed_trajectory(states, actions)[:, :length]
        text = model.lm.embed_texts([spec.instruction])
        ones = torch.ones(1, length, dtype=torch.bool)
        return model.read([model.marker("goal", 1), text, model.marker("rollout", 1), (trajectory, ones)])[-1][:, -1]

    while actions.shape[1] < max_steps:
        logits = model.action_logits(read(states, actions, states.shape[1] * 2 - 1))
        actions = torch.cat([actions, model.actions.draw(logits, 0.0)[None]], 1)
        hidden = read(torch.cat([states, states[:, -1:]], 1), actions, states.shape[1] * 2)
        states = torch.cat([states, model.next_states(states[:, -1], hidden)[:, None]], 1)
        if task.achieved(goal, states[0].numpy())[-1]:
            break
    return states[0].numpy(), actions[0].tolist()


def no_actions(model: TrajectoryLM) -> Tensor:
    """Those of a rollout that has only begun, (1, 0) or (1, 0, A)."""
    return model.actions.draw(torch.zeros(1, model.actions.num_logits), 0.0)[:, None][:, :0]


def assert_most_probable(model: TrajectoryLM, world: World, specs: Sequence[EpisodeSpec], **pieces: int) -> None:
    task, starts = world.task, start_states(world.make, specs)
    episodes = generate(model, task, specs, starts, GENERATION, temperature=0.0, **pieces)
    for spec, start, episode in zip(specs, starts, episodes, strict=True):
        horizon = task.horizon(task.goal_set.find(spec.goal_id, spec.split))
        states, actions = slowly(model, task, spec, start, min(GENERATION.max_steps, horizon), **pieces)
        assert episode.actions.tolist() == actions
        np.testing.assert_allclose(episode.states, states, **CLOSE)


def some_cases(world: World) -> list[EpisodeSpec]:
    task = world.task
    return [*training_specs(task, "gate", 6, seed=0), *imagination_specs(task, "hard", 8, seed=0)]


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_greedy_rollouts_are_those_of_a_loop_without_a_cache(world: World, make_model: MakeModel, name):
    assert_most_probable(make_model(name), world, some_cases(world))


@BOTH
@pytest.mark.parametrize("piece_steps", [1, 2, 4, 5])
def test_a_rollout_in_pieces_goes_on_from_its_present_state(world: World, make_model: MakeModel, piece_steps):
    assert_most_probable(make_model(), world, some_cases(world), piece_steps=piece_steps)


@BOTH
def test_greedy_rollouts_of_a_grounded_model_are_those_of_a_loop_without_a_cache(world: World, grounded):
    specs = [EpisodeSpec(e.goal_id, e.instruction, e.seed, e.split) for e in grounded.episodes]
    assert_most_probable(grounded.model, world, specs)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_greedy_rollouts_do_not_depend_on_their_company(grounded, batch_size):
    settings = GenerationSettings(max_steps=5, batch_size=batch_size)
    expected = generate(grounded.model, TASK, CASES, STARTS, GENERATION, 0.0)
    told = []
    episodes = generate(grounded.model, TASK, CASES[::-1], STARTS[::-1].copy(), settings, 0.0, advance=told.append)
    assert equal(episodes[::-1], expected, **CLOSE)
    assert sum(told) == len(CASES)


def test_samples_depend_on_the_seed_and_become_greedy_as_they_are_cooled(grounded):
    def sample(temperature: float, seed: int) -> list[Episode]:
        return generate(grounded.model, TASK, CASES, STARTS, GENERATION, temperature, seed)

    assert equal(sample(1.0, seed=0), sample(1.0, seed=0), rtol=0, atol=0)
    assert not equal(sample(1.0, seed=0), sample(1.0, seed=1))
    assert equal(sample(1e-5, seed=0), sample(0.0, seed=1), **CLOSE)
    different = [one.actions[0] != other.actions[0] for one, other in zip(sample(50.0, 0), sample(0.0, 0), strict=True)]
    assert np.mean(different) > 0.8


# Searched


def test_search_in_perfect_dynamics_reaches_the_goals():
    specs = training_specs(TASK, "gate", 80, seed=0)
    episodes = search(Pushes(), TASK, ACTIONS, unasked, specs, start_states(make, specs), SearchSettings())
    assert np.mean([episode.success for episode in episodes]) >= 0.9


def test_search_never_takes_an_implausible_outcome():
    settings = SearchSettings(max_steps=8, random_fraction=0.5)
    starts = torch.from_numpy(STARTS)
    offered = Teleports().outcomes(starts, all_of_them(starts)).numpy()
    assert TASK.plausible(STARTS[:, None], np.arange(40), offered).mean() < 0.2
    for episode in search(Teleports(), TASK, ACTIONS, unasked, CASES, STARTS, settings):
        assert TASK.plausible(episode.states[:-1], episode.actions, episode.states[1:]).all()


def test_search_without_chance_takes_the_best_plausible_push():
    settings = SearchSettings(noise=0.0, random_fraction=0.0, max_steps=3)
    episodes = search(Pushes(), TASK, ACTIONS, unasked, CASES, STARTS, settings)
    assert equal(
        search(Pushes(), TASK, ACTIONS, unasked, CASES[::-1], STARTS[::-1].copy(), settings, seed=7)[::-1], episodes
    )
    for episode in episodes:
        goal = TASK.goal_set.find(episode.goal_id, episode.split)
        before = episode.states[:-1, None]
        outcomes = predict_pushes(episode.states[:-1])
        rewards = TASK.reward(goal, before, outcomes, episode.states[None, :1])
        rewards = np.where(TASK.plausible(before, np.arange(40), outcomes), rewards, -np.inf)
        assert episode.actions.tolist() == rewards.argmax(1).tolist()
        np.testing.assert_allclose(episode.states[1:], outcomes[np.arange(len(episode)), episode.actions], atol=1e-6)


def test_search_takes_its_share_of_random_pushes():
    specs = training_specs(TASK, "gate", 200, seed=0)
    starts = start_states(make, specs)
    first = {}
    for fraction in (0.0, 0.5, 1.0):
        settings = SearchSettings(noise=0.0, random_fraction=fraction, max_steps=1)
        first[fraction] = np.array(
            [episode.actions[0] for episode in search(Pushes(), TASK, ACTIONS, unasked, specs, starts, settings)]
        )
    for fraction in (0.5, 1.0):
        assert np.mean(first[fraction] != first[0.0]) == pytest.approx(fraction * 39 / 40, abs=0.15)


def test_search_in_the_models_own_dynamics_follows_them(grounded):
    dynamics = LMDynamics(grounded.model)
    for episode in search(dynamics, TASK, ACTIONS, unasked, CASES, STARTS, SearchSettings(max_steps=3)):
        states = torch.from_numpy(episode.states[:-1].copy())
        outcomes = dynamics.outcomes(states, all_of_them(states)).numpy()
        np.testing.assert_allclose(outcomes[np.arange(len(episode)), episode.actions], episode.states[1:], **CLOSE)

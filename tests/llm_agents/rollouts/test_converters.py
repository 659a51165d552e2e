"""Episodes go to other libraries' data sets and come back."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from envs.clevr_robot import make
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode
from llm_agents.rollouts import converters
from llm_agents.rollouts.converters import from_d3rlpy, from_minari, to_d3rlpy, to_minari
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.errors import UserError

TASK = ClevrRobotTask()
GOALS = ("pair/left/red/blue", "move/left/red", "line")


def make_episode(number: int, steps: int, terminated: bool, continuous: bool = False) -> Episode:
    rng = np.random.default_rng(number)
    goal = TASK.goal_set.find(GOALS[number % 3])
    return Episode(
        goal_id=goal.id,
        family=goal.family,
        split=goal.split,
        instruction=goal.phrasings[0],
        states=rng.uniform(-0.5, 0.5, (steps + 1, 10)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 4)).astype(np.float32) if continuous else rng.integers(40, size=steps),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        source="env",
        seed=number,
    )


def some_episodes(continuous: bool = False) -> list[Episode]:
    return [make_episode(n, steps, n % 2 == 0, continuous) for n, steps in enumerate((3, 5, 1, 1, 4))]


def cases_of(episodes: list[Episode]) -> list[EpisodeSpec]:
    return [EpisodeSpec(e.goal_id, e.instruction, e.seed, e.split) for e in episodes]


def assert_same(one: Episode, other: Episode, but: tuple[str, ...] = ()) -> None:
    for name in (field.name for field in dataclasses.fields(Episode) if field.name not in but):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("continuous", [False, True])
def test_d3rlpy_sees_every_transition_and_gives_the_episodes_back(continuous: bool):
    pytest.importorskip("d3rlpy", reason="d3rlpy is a peer, installed by `make bench` only")
    episodes = some_episodes(continuous)
    dataset = to_d3rlpy(episodes)
    assert dataset.transition_count == sum(map(len, episodes))
    for found, episode in zip(dataset.episodes, episodes, strict=True):
        for step in range(len(episode)):
            transition = dataset.transition_picker(found, step)
            np.testing.assert_array_equal(transition.observation, episode.states[step])
            np.testing.assert_array_equal(np.ravel(transition.action), np.ravel(episode.actions[step]))
            assert transition.reward == episode.rewards[step]
            assert transition.terminal == (episode.terminated and step == len(episode) - 1)
            if not transition.terminal:
                np.testing.assert_array_equal(transition.next_observation, episode.states[step + 1])
    for back, episode in zip(from_d3rlpy(dataset, cases_of(episodes), TASK), episodes, strict=True):
        assert_same(back, episode, but=("states",))
        np.testing.assert_array_equal(back.states[:-1], episode.states[:-1])
        np.testing.assert_array_equal(back.states[-1], episode.states[-2 if episode.terminated else -1])


def test_d3rlpy_learns_from_what_it_is_given():
    d3rlpy = pytest.importorskip("d3rlpy", reason="d3rlpy is a peer, installed by `make bench` only")
    dataset = to_d3rlpy(some_episodes(), goal_features=lambda phrasing: np.full(3, len(phrasing)))
    assert dataset.episodes[0].observations.shape == (3, 13)
    config = d3rlpy.algos.DiscreteBCConfig(batch_size=8)
    algorithm = config.create(device=False)
    algorithm.build_with_dataset(dataset)
    assert np.isfinite(algorithm.update(dataset.sample_transition_batch(8))["loss"])


def test_minari_gives_the_episodes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    minari = pytest.importorskip("minari", reason="minari is not among our dependencies")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = some_episodes()
    to_minari(episodes, "clevr_robot/some-v0", make(), author="someone")
    dataset = minari.load_dataset("clevr_robot/some-v0")
    assert dataset.total_steps == sum(map(len, episodes))
    for back, episode in zip(from_minari(dataset, cases_of(episodes), TASK), episodes, strict=True):
        assert_same(back, episode, but=("success",))
        goal = TASK.goal_set.find(episode.goal_id)
        assert back.success == TASK.achieved(goal, episode.states[-1], episode.states[0])


def test_a_library_that_is_missing_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(converters, "import_module", import_module)
    with pytest.raises(UserError, match=r"minari cannot be imported .*: pip install minari"):
        to_minari([], "some-v0", make())
    with pytest.raises(UserError, match=r"d3rlpy cannot be imported .*: pip install d3rlpy"):
        to_d3rlpy([])


def test_episodes_without_a_case_each_are_refused():
    pytest.importorskip("d3rlpy", reason="d3rlpy is a peer, installed by `make bench` only")
    episodes = some_episodes()
    with pytest.raises(UserError, match="5 episodes, but 4 cases"):
        from_d3rlpy(to_d3rlpy(episodes), cases_of(episodes)[1:], TASK)

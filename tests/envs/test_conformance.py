"""What every environment of this project keeps; what is particular to one stands in a file of its name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import warnings
from functools import cache, partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from helpers.extras import need

import envs
from envs.goals import SPLITS, by_family
from envs.language import LanguageEnv, check_language_env

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENTS = PROJECT["entry-points"]["llm_agents.environments"]
LIBRARIES = {"BabyAIRoom-v0": "minigrid", "BabyAIText-v0": "minigrid", "MetaWorld-v0": "metaworld"}
DRAWN_BY_DRIVER = {"MetaWorld-v0"}  # chosen when mujoco is first imported; test_meta_world_scenes has processes for it
NUM_SEEDS = 30  # more than any environment has families of goals in its four splits
LATER = SPLITS[1:]


@pytest.fixture(params=ENVIRONMENTS)
def env_id(request: pytest.FixtureRequest) -> str:
    if request.param in LIBRARIES:
        need(LIBRARIES[request.param])
    return f"{ENVIRONMENTS[request.param]}:{request.param}"


@pytest.fixture
def env(env_id: str) -> LanguageEnv:
    return made(env_id)


def make(env_id: str) -> LanguageEnv:
    env = gymnasium.make(env_id).unwrapped
    assert isinstance(env, LanguageEnv)
    return env


made = cache(make)


def one_goal_a_family(env: LanguageEnv) -> list[dict[str, str]]:
    """Options of reset: a goal of each family in each split."""
    return [
        {"goal": goals[0].id, "split": split} for split in SPLITS for goals in by_family(env.task.goals(split)).values()
    ]


def play(env: LanguageEnv, seed: int, options: dict[str, str], num_steps: int = 25) -> list[tuple]:
    """An episode of random actions: the observation, reward, ends and info of each step, after those of the reset."""
    env.action_space.seed(seed)
    seen: list[tuple] = [env.reset(seed=seed, options=options)]
    while len(seen) <= num_steps and not any(seen[-1][2:4]):
        seen.append(env.step(env.action_space.sample()))
    return seen


def plain(seen: list[tuple]) -> str:
    """All that was seen, to the last bit."""
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr([(step[0]["state"].tolist(), step) for step in seen])


def in_words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_every_environment_that_is_registered_is_found_by_its_name():
    """And so is looked at here."""
    registered = {spec.id for spec in gymnasium.registry.values() if str(spec.entry_point).startswith("envs.")}
    assert registered == {env_id for env_id, module in ENVIRONMENTS.items() if module == envs.__name__}


def test_gymnasiums_checker_is_silent(env_id: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(env_id), skip_render_check=env_id.partition(":")[2] in DRAWN_BY_DRIVER)


def test_the_contract_of_language_envs_is_kept(env: LanguageEnv):
    check_language_env(env, NUM_SEEDS)


def test_an_episode_depends_on_seed_goal_and_actions_and_not_on_what_was_played_before(env_id: str):
    used, options = made(env_id), one_goal_a_family(made(env_id))
    play(used, 5, options[-1])
    for seed, goal in enumerate(options[:: max(1, len(options) // 4)]):
        assert plain(play(used, seed, goal)) == plain(play(make(env_id), seed, goal))


PLAY = """
import hashlib, sys
from test_conformance import make, one_goal_a_family, plain, play
env, seen = make(sys.argv[1]), hashlib.sha256()
families = one_goal_a_family(env)
for seed, options in enumerate(families[:: max(1, len(families) // 5)]):
    seen.update(plain(play(env, seed, options)).encode())
for seed in range(8):
    seen.update(plain(play(env, seed, {"split": ("train", "hard")[seed % 2]}, 0)).encode())
print(seen.hexdigest())
"""


def test_two_fresh_processes_play_the_same_episodes(env_id: str):
    """Whatever order their sets of strings have."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    digests = []
    for hash_seed in ("1", "2"):
        variables = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", PLAY, env_id], env=variables, capture_output=True, text=True, check=True
        )
        digests.append(done.stdout)
    assert re.fullmatch("[0-9a-f]{64}\n", digests[0])
    assert digests[0] == digests[1]


def test_nothing_of_a_later_split_is_seen_in_training(env: LanguageEnv):
    """No goal but those that rephrase says anew; no phrasing; and no instruction of an episode."""
    task, num_drawn = env.task, 40
    goals = {split: {goal.id for goal in task.goals(split)} for split in SPLITS}
    assert all(goals.values())
    assert goals["rephrase"] <= goals["train"]
    assert not goals["train"] & (goals["easy"] | goals["hard"])
    said = {split: {in_words(words) for goal in task.goals(split) for words in goal.phrasings} for split in SPLITS}
    given = {
        split: [in_words(env.reset(seed=seed, options={"split": split})[0]["goal"]) for seed in range(num_drawn)]
        for split in SPLITS
    }
    for split in LATER:
        assert said[split]
        assert not said["train"] & said[split]
        assert not set(given["train"]) & (said[split] | set(given[split]))
        assert not set(given[split]) & said["train"]
    drawn = {env.reset(seed=seed)[1]["goal_id"] for seed in range(num_drawn)}
    assert drawn <= goals["train"]


def test_observations_have_the_fields_of_their_space(env: LanguageEnv):
    space = env.observation_space
    assert isinstance(space, spaces.Dict)
    assert set(space) == {"state", "text", "goal"}
    for seed, options in enumerate(one_goal_a_family(env)):
        seen = play(env, seed, options, 10)
        goal = env.task.goal_set.find(options["goal"], options["split"])
        for observation, *_, info in seen:
            assert set(observation) == set(space)
            assert space.contains(observation)
            assert observation["state"].dtype == np.float32
            assert observation["text"] == env.task.describe(observation["state"])
            assert observation["goal"] == seen[0][0]["goal"] == env.instruction
            assert (info["goal_id"], info["family"]) == (goal.id, goal.family)
        assert seen[0][1]["seed"] == seed
        assert np.array_equal(seen[-1][0]["state"], env.state)
    grid = env.task.grid()
    assert grid is None or 0 <= grid.start <= grid.start + grid.size <= space["state"].shape[0]


def test_real_states_are_judged_alike_singly_and_batched(env: LanguageEnv):
    """With one leading axis and with two, for goals of every family; a start of its own for each state."""
    task, options = env.task, one_goal_a_family(env)
    episodes = []
    for seed, goal in enumerate(options[:: max(1, len(options) // 6)]):
        env.action_space.seed(seed)
        env.reset(seed=seed, options=goal)
        for _ in range(4):
            before, action, start = env.state, env.action_space.sample(), env.start_state
            ended = any(env.step(action)[2:4])
            episodes.append((before, action, env.state, start))
            if ended:
                break
    episodes = episodes[: len(episodes) // 2 * 2]
    states, actions, following, starts = (np.array(column) for column in zip(*episodes, strict=True))
    alike = partial(_assert_judged_alike, len(states))
    alike(task.plausible, states, actions, following)
    for goal in (task.goal_set.find(entry["goal"], entry["split"]) for entry in options):
        alike(partial(task.achieved, goal), states, starts)
        alike(partial(task.is_valid_start, goal), states)
        alike(partial(task.reward, goal), states, following, starts)


def _assert_judged_alike(count: int, judge, *arrays) -> None:
    singly = np.array([judge(*(array[row] for array in arrays)) for row in range(count)])
    paired = judge(*(array.reshape(2, count // 2, *array.shape[1:]) for array in arrays))
    for batched in (judge(*arrays), np.reshape(paired, -1)):
        if singly.dtype == bool:
            assert np.array_equal(singly, batched)
        else:
            np.testing.assert_allclose(singly, batched, rtol=1e-4, atol=1e-4)


def test_the_expert_if_there_is_one_reaches_most_goals_of_training(env: LanguageEnv):
    expert, reached = env.task.expert(), []
    if expert is None:
        pytest.skip("it has no expert")
    goals = env.task.goals("train")
    for seed, goal in enumerate(goals[:: -(-len(goals) // 30)]):
        env.reset(seed=seed, options={"goal": goal.id})
        ended = False
        while not ended:
            (action,) = expert.act([env])
            assert env.action_space.contains(action)
            *_, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        reached.append(info["is_success"])
    assert np.mean(reached) >= 0.8

"""How often the expert of CLEVR-Robot and chance reach its goals."""

import numpy as np
import pytest
from helpers.clevr_states import TASK

from envs.clevr_robot.env import ClevrRobotEnv
from envs.language import LanguageEnv


def play(family, act, num_episodes):
    """Success rate, and all transitions, of a policy on goals of one family."""
    goals = [goal.id for split in ("train", "easy", "hard") for goal in TASK.goals(split) if goal.family == family]
    env = LanguageEnv(ClevrRobotEnv(), TASK)
    successes, transitions = [], []
    for seed in range(num_episodes):
        observation, info = env.reset(seed=seed, options={"goal": goals[7 * seed % len(goals)]})
        done = False
        while not done:
            before, action = observation["state"], act(env)
            observation, _, terminated, truncated, info = env.step(action)
            transitions.append((before, action, observation["state"]))
            done = terminated or truncated
        successes.append(info["is_success"])
    return np.mean(successes), tuple(np.array(column) for column in zip(*transitions, strict=True))


def expert_policy(env):
    return TASK.expert().act([env])[0]


def random_policy(seed=0):
    rng = np.random.default_rng(seed)
    return lambda env: int(rng.integers(40))


@pytest.mark.parametrize("family", ["pair", "move", "both", "gather"])
def test_the_expert_reaches_nearly_all_goals(family):
    success, transitions = play(family, expert_policy, 40)
    assert success >= 0.9
    assert TASK.plausible(*transitions).mean() >= 0.99


@pytest.mark.parametrize(("family", "num_episodes"), [("three", 24), ("line", 10)])
def test_the_expert_clearly_beats_chance_on_long_goals(family, num_episodes):
    success, transitions = play(family, expert_policy, num_episodes)
    by_chance, _ = play(family, random_policy(), num_episodes)
    assert success >= by_chance + 0.3
    assert TASK.plausible(*transitions).mean() >= 0.99


def test_the_expert_acts_on_each_of_several_environments_as_on_one():
    envs = [LanguageEnv(ClevrRobotEnv(), TASK) for _ in range(4)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed, options={"split": "hard"})
    assert TASK.expert().act(envs) == [expert_policy(env) for env in envs]


def test_chance_rarely_reaches_easy_goals():
    success, _ = play("move", random_policy(), 300)
    assert 0 < success < 0.2

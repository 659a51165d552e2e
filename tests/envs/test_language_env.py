"""What LanguageEnv promises about any task, seen on CLEVR-Robot."""

from collections import Counter

import gymnasium
import numpy as np
import pytest

from envs.clevr_robot.env import ClevrRobotEnv
from envs.clevr_robot.task import ClevrRobotTask
from envs.goals import UnknownGoal
from envs.language import InvalidAction, LanguageEnv, start_of

GOAL = "pair/left/red/blue"


@pytest.fixture
def env():
    return LanguageEnv(ClevrRobotEnv(), ClevrRobotTask())


def same(one, other):
    return all(np.array_equal(one[key], other[key]) for key in ("state", "text", "goal"))


@pytest.mark.parametrize("before", [None, (1, GOAL), (0, GOAL), (0, "line"), (0, "move/left/red")])
def test_the_same_seed_and_goal_give_the_same_start_whatever_came_before(env, before):
    expected, _ = LanguageEnv(ClevrRobotEnv(), ClevrRobotTask()).reset(seed=0, options={"goal": GOAL})
    if before:
        env.reset(seed=before[0], options={"goal": before[1]})
        env.step(3)
    assert same(env.reset(seed=0, options={"goal": GOAL})[0], expected)


def test_different_seeds_give_different_starts(env):
    starts = {env.reset(seed=seed, options={"goal": GOAL})[0]["state"].tobytes() for seed in range(50)}
    assert len(starts) == 50


def test_an_episode_reset_without_a_seed_is_repeated_by_the_seed_it_tells(env):
    env.reset(seed=5)
    first, info = env.reset()
    second, _ = env.reset()
    assert not same(first, second)
    assert same(env.reset(seed=info["seed"])[0], first)


@pytest.mark.parametrize("split", ["train", "rephrase", "easy", "hard"])
def test_goals_and_phrasings_are_drawn_from_the_split_asked_for(env, split):
    goals = {goal.id: goal for goal in env.task.goals(split)}
    drawn = [env.reset(seed=seed, options={"split": split}) for seed in range(50)]
    assert all(observation["goal"] in goals[info["goal_id"]].phrasings for observation, info in drawn)
    assert all(info["family"] == goals[info["goal_id"]].family for _, info in drawn)
    assert len({info["goal_id"] for _, info in drawn}) > 5


def test_families_are_drawn_alike_however_many_goals_they_have(env):
    num_goals = Counter(goal.family for goal in env.task.goals("hard"))
    drawn = Counter(env.reset(seed=seed, options={"split": "hard"})[1]["family"] for seed in range(400))
    assert max(num_goals.values()) > 100 * min(num_goals.values())
    assert set(drawn) == set(num_goals)
    assert all(70 < count < 130 for count in drawn.values())


def test_the_split_of_the_constructor_is_where_goals_come_from():
    env = LanguageEnv(ClevrRobotEnv(), ClevrRobotTask(), split="easy")
    assert {env.reset(seed=seed)[1]["family"] for seed in range(10)} == {"move"}


def test_a_goal_speaks_in_the_words_of_the_split_asked_for(env):
    options = {"goal": GOAL, "split": "rephrase"}
    said = {env.reset(seed=seed, options=options)[0]["goal"] for seed in range(30)}
    assert said <= set(env.task.goal_set.find(GOAL, "rephrase").phrasings)
    assert len(said) > 5


def test_an_instruction_replaces_the_words_and_nothing_else(env):
    plain, _ = env.reset(seed=0, options={"goal": GOAL})
    told, info = env.reset(seed=0, options={"goal": GOAL, "instruction": "do the thing"})
    assert told["goal"] == "do the thing"
    assert info["goal_id"] == GOAL
    assert np.array_equal(told["state"], plain["state"])


def test_an_unknown_goal_is_refused_with_the_nearest_id(env):
    with pytest.raises(UnknownGoal, match="did you mean pair/left/red/blue"):
        env.reset(options={"goal": "pair/left/red/bleu"})


def test_an_unknown_split_is_refused(env):
    with pytest.raises(UnknownGoal, match="did you mean rephrase"):
        env.reset(options={"split": "rephrased"})
    with pytest.raises(ValueError, match="did you mean train"):
        LanguageEnv(ClevrRobotEnv(), ClevrRobotTask(), split="training")


def test_an_unknown_option_is_refused(env):
    with pytest.raises(ValueError, match="unknown reset option 'goals': did you mean goal"):
        env.reset(options={"goals": GOAL})


@pytest.mark.parametrize("action", [-1, 40, 2.5, "push the red ball left"])
def test_an_action_outside_the_space_is_refused_and_changes_nothing(env, action):
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="is not in Discrete\\(40\\)"):
        env.step(action)
    assert env.num_steps == 0
    assert np.array_equal(env.state, env.start_state)


def play(env, actions):
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        yield observation, reward, terminated, truncated, info
        if terminated or truncated:
            return


def test_an_episode_terminates_at_success_and_not_before(env):
    expert = env.task.expert()
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        assert not info["is_success"]
        terminated = truncated = False
        while not (terminated or truncated):
            assert not info["is_success"]
            observation, _, terminated, truncated, info = env.step(expert.act([env])[0])
        assert terminated == info["is_success"]
        assert not (terminated and truncated)
        assert env.task.achieved(env.goal, observation["state"], env.start_state) == info["is_success"]


def test_success_at_the_horizon_terminates_and_does_not_truncate(env):
    ends = []
    for seed in range(20):
        env.reset(seed=seed, options={"goal": "move/left/red"})
        (*_, first), (*_, terminated, truncated, info) = env.step(36), env.step(2)  # cyan behind, then red left
        assert not first["is_success"]
        assert (terminated, truncated) == (info["is_success"], not info["is_success"])
        ends.append(terminated)
    assert 0 < sum(ends) < 20


@pytest.mark.parametrize(("goal", "horizon"), [("line", 50), ("move/left/red", 2)])
def test_an_episode_without_success_is_truncated_at_its_horizon(env, goal, horizon):
    env.reset(seed=0, options={"goal": goal})
    push_cyan_into_the_right_wall = [32] * 100
    steps = list(play(env, push_cyan_into_the_right_wall))
    assert len(steps) == horizon
    assert [truncated for _, _, _, truncated, _ in steps] == [False] * (horizon - 1) + [True]
    assert not any(terminated for _, _, terminated, _, _ in steps)


def test_rewards_are_those_of_the_task_for_the_states_seen(env):
    observation, _ = env.reset(seed=0)
    states = [observation["state"]]
    rewards = []
    for observation, reward, *_ in play(env, range(40)):
        states.append(observation["state"])
        rewards.append(reward)
    expected = env.task.reward(env.goal, np.array(states[:-1]), np.array(states[1:]), states[0])
    np.testing.assert_allclose(rewards, expected, rtol=1e-5, atol=1e-5)


def test_a_changed_observation_does_not_change_the_environment(env):
    observation, _ = env.reset(seed=0)
    observation["state"][:] = 99
    assert np.abs(env.state).max() < 1
    assert np.abs(env.start_state).max() < 1


def test_a_goal_without_a_start_is_refused_rather_than_searched_for_ever():
    class Unstartable(ClevrRobotTask):
        def is_valid_start(self, goal, states):
            return np.zeros(np.shape(states)[:-1], bool)

    with pytest.raises(ValueError, match="no start for goal 'line' found in 1000 draws"):
        LanguageEnv(ClevrRobotEnv(), Unstartable()).reset(seed=0, options={"goal": "line"})


def test_an_observation_of_several_parts_becomes_one_flat_state():
    class InParts(gymnasium.ObservationWrapper):
        def __init__(self):
            super().__init__(ClevrRobotEnv())
            box = self.env.observation_space
            half = gymnasium.spaces.Box(-1, 1, (5,), np.float32)
            self.observation_space = gymnasium.spaces.Dict({"a": half, "b": half})
            assert box.shape == (10,)

        def observation(self, observation):
            return {"a": observation[:5], "b": observation[5:]}

    whole, _ = LanguageEnv(ClevrRobotEnv(), ClevrRobotTask()).reset(seed=0)
    parts, _ = LanguageEnv(InParts(), ClevrRobotTask()).reset(seed=0)
    assert np.array_equal(whole["state"], parts["state"])


def test_a_task_tells_the_wrapped_reset_what_the_goal_needs_and_puts_its_mission_into_words():
    class Table(ClevrRobotEnv):
        def reset(self, *, seed=None, options=None):
            state, _ = super().reset(seed=seed)
            return state, {"mission": f"do {options['wanted']}"}

    class Missions(ClevrRobotTask):
        def reset_options(self, goal):
            return {"wanted": goal.id}

        def render_instruction(self, phrasing, info):
            return phrasing.format(mission=info["mission"])

    env = LanguageEnv(Table(), Missions())
    said, _ = env.reset(seed=0, options={"goal": "line", "instruction": "please {mission} now"})
    assert said["goal"] == env.instruction == "please do line now"


def test_the_start_left_out_is_the_first_state_along_the_time_axis():
    states = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(start_of(states, None), states[:, :1])
    assert np.array_equal(start_of(states[0], None), states[0, :1])
    assert np.array_equal(start_of(states[0, 2], None), states[0, 2])
    assert np.array_equal(start_of(states, states[1, 2]), states[1, 2])

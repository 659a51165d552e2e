"""CLEVR-Robot: its physics, the words for its states and actions, and its picture."""

import os
import re
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers.clevr_states import COLOURS, SIDES, TASK, state
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.clevr_robot.env import DIRECTIONS, ClevrRobotEnv
from envs.clevr_robot.task import ACTION_TEXTS, ClevrRobotTask
from envs.goals import UnknownGoal
from envs.language import InvalidAction, LanguageEnv, check_language_env


@pytest.fixture
def env():
    return LanguageEnv(ClevrRobotEnv("rgb_array"), ClevrRobotTask())


# The contract


def test_gymnasiums_checker_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("envs:ClevrRobot-v0").unwrapped)


def test_it_keeps_the_contract_of_language_envs():
    check_language_env(gymnasium.make("envs:ClevrRobot-v0"), num_seeds=28)


PLAY = """
import hashlib, numpy as np
from envs.clevr_robot import make
env, rng, seen = make(), np.random.default_rng(0), hashlib.sha256()
for seed, goal in enumerate(["pair/left/red/blue", "move/front/cyan", "line"]):
    observation, _ = env.reset(seed=seed, options={"goal": goal})
    for action in rng.integers(40, size=20):
        observation, reward, *_ = env.step(int(action))
        seen.update(repr((observation["state"].tolist(), observation["goal"], observation["text"], reward)).encode())
print(seen.hexdigest())
"""


def test_two_fresh_processes_play_the_same_episodes():
    def play(hash_seed):
        environ = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", PLAY], env=environ, capture_output=True, text=True, check=True)
        return done.stdout

    one, other = play("1"), play("2")
    assert re.fullmatch("[0-9a-f]{64}\n", one)
    assert one == other


def test_an_unknown_goal_suggests_the_nearest(env):
    with pytest.raises(UnknownGoal, match="did you mean pair/left/red/blue"):
        env.reset(options={"goal": "pair/left/red/bleu"})
    with pytest.raises(UnknownGoal, match="did you mean gather/cyan"):
        env.reset(options={"goal": "gather/cyann"})


# Physics


def test_a_start_lies_inside_the_walls_with_room_between_the_balls():
    env = ClevrRobotEnv()
    starts = np.array([env.reset(seed=seed)[0] for seed in range(500)]).reshape(-1, 5, 2)
    assert (starts >= np.array([-0.47, -0.17]) - 1e-6).all()
    assert (starts <= np.array([0.47, 0.57]) + 1e-6).all()
    i, j = np.triu_indices(5, 1)
    offsets = np.abs(starts[:, i] - starts[:, j])
    assert np.linalg.norm(offsets, axis=-1).min() >= 0.36 - 1e-6
    assert offsets.min() >= 0.01 - 1e-6
    # The whole table is used.
    assert (np.ptp(starts, axis=(0, 1)) > (0.93, 0.73)).all()


def test_a_start_stays_where_it_is_until_it_is_pushed():
    """No ball is ejected from a wall or from another ball: only what stands in the pusher's way moves at first."""
    env = ClevrRobotEnv()
    for seed in range(50):
        before = env.reset(seed=seed)[0].reshape(5, 2)
        after = env.step(0)[0].reshape(5, 2)
        far = np.linalg.norm(before - before[0], axis=-1) > 0.75
        np.testing.assert_allclose(after[far], before[far], atol=0.01)


def clear(places, ball, direction, length=0.35):
    """Whether nothing stands in the way of this push: no wall, and no ball near the path."""
    ahead = places[ball] + length * direction
    offsets = np.delete(places, ball, axis=0) - places[ball]
    along = np.clip(offsets @ direction, 0, length)
    gaps = np.linalg.norm(offsets - along[:, None] * direction, axis=-1)
    return (ahead > (-0.47, -0.17)).all() and (ahead < (0.47, 0.57)).all() and (gaps > 0.27).all()


@pytest.mark.parametrize("direction", range(8))
def test_an_unobstructed_push_moves_a_ball_a_quarter_of_a_metre_along_its_direction(direction):
    env = ClevrRobotEnv()
    unit = DIRECTIONS[direction] / np.linalg.norm(DIRECTIONS[direction])
    moves = []
    for seed in range(400):
        before = env.reset(seed=seed)[0].reshape(5, 2)
        for ball in range(5):
            if clear(before, ball, unit):
                env.reset(seed=seed)
                moves.append(env.step(8 * ball + direction)[0].reshape(5, 2)[ball] - before[ball])
    along = np.array(moves) @ unit
    across = np.array(moves) @ (-unit[1], unit[0])
    assert len(moves) >= 20
    assert along.min() >= 0.2
    assert along.max() <= 0.3
    assert np.abs(across).max() < 0.02


def test_directions_are_named_after_the_axes():
    env = ClevrRobotEnv()
    for ball, colour in enumerate(COLOURS):
        for side, axis in SIDES.items():
            action = TASK.parse_action(f"push the {colour} ball {side}")
            for seed in range(200):
                before = env.reset(seed=seed)[0].reshape(5, 2)
                if clear(before, ball, np.array(axis)):
                    moved = env.step(action)[0].reshape(5, 2)[ball] - before[ball]
                    break
            assert moved @ axis > 0.2


def test_balls_stay_within_the_walls():
    env, rng = ClevrRobotEnv(), np.random.default_rng(0)
    states = []
    for seed in range(20):
        env.reset(seed=seed)
        ball = rng.integers(5)
        states += [env.step(8 * ball + int(rng.integers(8)))[0] for _ in range(50)]
    places = np.array(states).reshape(-1, 5, 2)
    assert (places > (-0.49, -0.19)).all()
    assert (places < (0.49, 0.59)).all()
    assert (np.abs(places) <= 0.7).all()


def test_trying_a_push_leaves_the_environment_as_it_was():
    env, twin = ClevrRobotEnv(), ClevrRobotEnv()
    rng = np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed=seed)
        twin.reset(seed=seed)
        for action in rng.integers(40, size=10).tolist():
            tried = {other: env.try_push(other) for other in (action, *rng.integers(40, size=5).tolist())}
            state, *_ = env.step(action)
            assert np.array_equal(state, twin.step(action)[0])
            assert np.array_equal(state, tried[action])


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(ValueError, match="unknown render mode 'human'"):
        ClevrRobotEnv("human")


# Words for states and actions


def test_the_description_says_where_the_balls_are_and_how_they_stand():
    text = TASK.describe(state(red=(-0.3, 0.21), blue=(0.0, 0.2)))
    assert "The red ball is at (-0.30, 0.21)." in text
    assert "The red ball is left of the blue ball, close." in text
    assert "The green ball is left of the purple ball, 0.80 away." in text
    assert "The red ball is in front of the green ball, close." in text


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 39), st.data())
def test_action_texts_are_understood_in_any_case_and_punctuation(action, data):
    text = "".join(data.draw(st.sampled_from((c.lower(), c.upper()))) for c in ACTION_TEXTS[action])
    gaps = st.sampled_from((" ", "  ", ", ", " - ", "\n", "... "))
    text = "".join(data.draw(gaps) if c == " " else c for c in text) + data.draw(st.sampled_from(("", ".", "!", " ?")))
    assert TASK.parse_action(text) == action


def test_action_texts_name_every_action_once():
    assert [TASK.parse_action(text) for text in TASK.action_texts(state())] == list(range(40))


@pytest.mark.parametrize(
    "text", ["", "push the pink ball left", "push the red ball", "push the red ball left left", "3"]
)
def test_a_text_that_names_no_action_is_refused(text):
    with pytest.raises(InvalidAction, match="one that is: 'push the red ball right'"):
        TASK.parse_action(text)


@pytest.mark.parametrize("action", [-1, 40, 1000])
def test_an_action_out_of_range_is_refused(env, action):
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=str(action)):
        env.step(action)


# The picture


def test_the_picture_shows_each_ball_where_it_is(env):
    env.reset(seed=3)
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    height, width, _ = picture.shape
    table = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    table_colour = table[0][table[1].argmax()].astype(int)
    hues = {
        "red": (1.0, 0.1, 0.1),
        "blue": (0.2, 0.5, 1.0),
        "green": (0.2, 1, 0),
        "purple": (0.8, 0.2, 1),
        "cyan": (0.2, 1, 1),
    }
    for colour, (x, y) in zip(COLOURS, env.state.reshape(5, 2), strict=True):
        row, column = int((0.7 - y) / 1.0 * height), int((x + 0.6) / 1.2 * width)
        pixel = picture[row, column].astype(float)
        assert np.abs(pixel - table_colour).max() > 40
        likeness = {c: pixel @ hue / np.linalg.norm(pixel) / np.linalg.norm(hue) for c, hue in hues.items()}
        assert max(likeness, key=likeness.get) == colour


def test_the_picture_of_a_state_is_that_of_the_environment(env):
    env.reset(seed=3)
    env.step(5)
    assert np.array_equal(env.task.render_state(env.state), env.render())
    assert not np.array_equal(env.task.render_state(env.start_state), env.render())


def test_no_picture_without_a_render_mode():
    env = LanguageEnv(ClevrRobotEnv(), ClevrRobotTask())
    env.reset(seed=0)
    assert env.render() is None

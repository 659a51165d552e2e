"""CLEVR-Robot: its physics, goals, words, picture and expert."""

import os
import re
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from envs.clevr_robot.env import DIRECTIONS, ClevrRobotEnv
from envs.clevr_robot.task import ACTION_TEXTS, ClevrRobotTask
from envs.goals import SPLITS, UnknownGoal
from envs.language import InvalidAction, LanguageEnv, check_language_env

COLOURS = ("red", "blue", "green", "purple", "cyan")
SIDES = {"behind": (0, 1), "left": (-1, 0), "front": (0, -1), "right": (1, 0)}
TASK = ClevrRobotTask()
# Five places far from each other, for the balls that a test is not about.
FAR = {"red": (-0.4, -0.1), "blue": (0.4, -0.1), "green": (-0.4, 0.5), "purple": (0.4, 0.5), "cyan": (0.0, 0.2)}


@pytest.fixture
def env():
    return LanguageEnv(ClevrRobotEnv("rgb_array"), ClevrRobotTask())


def state(**places):
    """A state made by hand: where the named balls are; the others are far off."""
    return np.array([(FAR | places)[colour] for colour in COLOURS], np.float32).ravel()


def achieved(goal_id, states, start=None):
    return TASK.achieved(TASK.goal_set.find(goal_id), states, start)


def beside(place, side, distance):
    return tuple(np.add(place, np.multiply(SIDES[side], distance)))


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


# Goals


def test_there_are_as_many_goals_as_kalm_has():
    assert [len(TASK.goals(split)) for split in ("train", "rephrase", "easy")] == [80, 80, 20]
    families = [goal.family for goal in TASK.goals("hard")]
    assert {family: families.count(family) for family in families} == {"both": 160, "three": 80, "line": 1, "gather": 5}


def test_rephrase_asks_for_the_goals_of_train():
    assert [goal.id for goal in TASK.goals("rephrase")] == [goal.id for goal in TASK.goals("train")]


def words(phrasing):
    return re.findall(r"\w+", phrasing.lower())


def test_no_phrasing_stands_in_two_splits():
    said = {split: {" ".join(words(p)) for g in TASK.goals(split) for p in g.phrasings} for split in SPLITS}
    for split in SPLITS:
        others = set().union(*(said[other] for other in SPLITS if other != split))
        assert said[split]
        assert not said[split] & others


def test_no_phrasing_names_two_goals():
    for split in SPLITS:
        said = [phrasing for goal in TASK.goals(split) for phrasing in goal.phrasings]
        assert len(said) == len(set(said))


def test_every_rephrase_phrasing_holds_a_word_never_trained_on():
    trained = {word for goal in TASK.goals("train") for phrasing in goal.phrasings for word in words(phrasing)}
    rephrased = [phrasing for goal in TASK.goals("rephrase") for phrasing in goal.phrasings]
    assert [phrasing for phrasing in rephrased if set(words(phrasing)) <= trained] == []


def test_every_goal_is_rephrased_in_many_ways():
    assert all(len(set(goal.phrasings)) >= 20 for goal in TASK.goals("rephrase"))


def test_phrasings_name_the_balls_of_their_goal_and_no_other():
    for split in SPLITS:
        for goal in (goal for goal in TASK.goals(split) if goal.family != "line"):
            named = set(goal.id.split("/")) & set(COLOURS)
            assert all(set(words(phrasing)) & set(COLOURS) == named for phrasing in goal.phrasings)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("distance", [0.27, 0.33, 0.38])
def test_a_pair_holds_on_its_side_and_on_no_other(side, distance):
    states = state(red=beside((0, 0.2), side, distance), blue=(0, 0.2), cyan=(0.4, 0.2))
    assert {other: bool(achieved(f"pair/{other}/red/blue", states)) for other in SIDES} == {s: s == side for s in SIDES}
    opposite = {"behind": "front", "front": "behind", "left": "right", "right": "left"}[side]
    assert achieved(f"pair/{opposite}/blue/red", states)
    assert not achieved(f"pair/{side}/blue/red", states)


@pytest.mark.parametrize(("degrees", "holds"), [(0, True), (44, True), (-44, True), (46, False), (-46, False)])
def test_a_pair_holds_within_45_degrees(degrees, holds):
    angle = np.radians(degrees)
    left = (-0.3 * np.cos(angle), 0.2 + 0.3 * np.sin(angle))
    assert achieved("pair/left/red/blue", state(red=left, blue=(0, 0.2))) == holds


@pytest.mark.parametrize(("distance", "holds"), [(0.39, True), (0.392, False), (0.6, False)])
def test_a_pair_must_be_near(distance, holds):
    assert achieved("pair/left/red/blue", state(red=(0.2 - distance, 0), blue=(0.2, 0))) == holds


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("distance", "holds"), [(0.16, True), (0.25, True), (0.14, False), (-0.25, False)])
def test_a_ball_has_moved_once_it_is_far_enough_from_its_start(side, distance, holds):
    start = state(green=(0.1, 0.2))
    across = beside(beside((0.1, 0.2), side, distance), {"left": "front", "right": "front"}.get(side, "left"), 0.1)
    assert achieved(f"move/{side}/green", state(green=across), start) == holds
    assert list(achieved(f"move/{side}/green", np.stack([start, state(green=across)]))) == [False, holds]
    assert not achieved(f"move/{side}/red", state(green=across), start)


def test_a_move_starts_only_where_there_is_room_for_it():
    goal = TASK.goal_set.find("move/left/red")
    assert TASK.is_valid_start(goal, state(red=(0.0, 0.0)))
    assert not TASK.is_valid_start(goal, state(red=(-0.4, 0.0)))


def composed(family):
    return [goal for goal in TASK.goals("hard") if goal.family == family]


@pytest.mark.parametrize("family", ["both", "three"])
def test_a_composition_holds_when_all_its_parts_hold(family):
    """Over random crowded states, where single pairs hold often."""
    states = np.random.default_rng(0).uniform(-0.35, 0.35, (20_000, 10))
    num_held = 0
    for goal in composed(family):
        names = goal.id.split("/")[1:]
        parts = [achieved("pair/" + "/".join(names[i : i + 3]), states) for i in range(0, len(names), 3)]
        assert len(parts) == {"both": 2, "three": 3}[family]
        assert np.array_equal(achieved(goal.id, states), np.logical_and.reduce(parts))
        num_held += np.logical_and.reduce(parts).sum()
    assert num_held > 1000


@pytest.mark.parametrize("family", ["both", "three"])
def test_a_composition_can_hold_on_the_table(family):
    """Parts that exclude each other would make a goal that nobody can reach: drawing states part by part finds one."""
    rng = np.random.default_rng(0)
    for goal in composed(family):
        names = goal.id.split("/")[1:]
        parts = [(names[i], COLOURS.index(names[i + 1]), COLOURS.index(names[i + 2])) for i in range(0, len(names), 3)]
        places = rng.uniform((-0.47, -0.17), (0.47, 0.57), (2000, 5, 2))
        placed: set[int] = set()
        while parts:
            part = next((part for part in parts if placed & set(part[1:])), parts[0])
            parts.remove(part)
            side, ball, other = part
            angle = np.arctan2(SIDES[side][1], SIDES[side][0]) + rng.uniform(-np.pi / 4, np.pi / 4, len(places))
            offset = rng.uniform(0.26, 0.39, (len(places), 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
            if ball in placed:
                places[:, other] = places[:, ball] - offset
            else:
                places[:, ball] = places[:, other] + offset
            placed |= {ball, other}
        i, j = np.triu_indices(5, 1)
        apart = (np.linalg.norm(places[:, i] - places[:, j], axis=-1) > 0.26).all(-1)
        inside = ((places > (-0.47, -0.17)) & (places < (0.47, 0.57))).all((-2, -1))
        assert (achieved(goal.id, places.reshape(-1, 10)) & apart & inside).any(), goal.id


def in_a_row(degrees=0.0, order=COLOURS, gap=0.2):
    angle = np.radians(degrees)
    steps = [(gap * (k - 2) * np.cos(angle), 0.2 + 0.02 * (k % 2)) for k in range(5)]
    turned = [(x, y + (k - 2) * gap * np.sin(angle)) for k, (x, y) in enumerate(steps)]
    return state(**dict(zip(order, turned, strict=True)))


@pytest.mark.parametrize(
    ("degrees", "holds"), [(0, True), (20, True), (-20, True), (40, False), (-40, False), (180, False)]
)
def test_a_line_runs_from_left_to_right(degrees, holds):
    assert achieved("line", in_a_row(degrees)) == holds


def test_a_line_has_the_order_of_the_colours():
    assert not achieved("line", in_a_row(order=COLOURS[::-1]))
    assert not achieved("line", in_a_row(order=("red", "green", "blue", "purple", "cyan")))


@pytest.mark.parametrize("centre", COLOURS)
def test_a_gathering_has_all_others_close_to_its_centre(centre):
    others = [colour for colour in COLOURS if colour != centre]
    around = {colour: beside((0, 0.2), side, 0.3) for colour, side in zip(others, SIDES, strict=True)}
    together = state(**{centre: (0, 0.2)}, **around)
    assert {c: bool(achieved(f"gather/{c}", together)) for c in COLOURS} == {c: c == centre for c in COLOURS}
    for colour in others:
        one_away = around | {colour: beside((0, 0.2), "left", 0.4)}
        assert not achieved(f"gather/{centre}", state(**{centre: (0, 0.2)}, **one_away))


@pytest.mark.parametrize("family", ["pair", "move", "both", "three", "line", "gather"])
def test_reward_is_progress_plus_ten_for_success(family):
    """Along a path the rewards without the bonus add up to the progress, whatever the path."""
    goal = next(goal for split in ("train", "easy", "hard") for goal in TASK.goals(split) if goal.family == family)
    path = np.random.default_rng(0).uniform(-0.4, 0.4, (2000, 10))
    bonus = 10 * TASK.achieved(goal, path[1:], path[0])
    progress = TASK.reward(goal, path[:-1], path[1:], path[0]) - bonus
    whole = 10 * (TASK.cost(goal, path[0], path[0]) - TASK.cost(goal, path[-1], path[0]))
    np.testing.assert_allclose(progress.sum(), whole, atol=1e-6)
    assert progress.std() > 0.1


GOALS = st.sampled_from([goal for split in ("train", "easy", "hard") for goal in TASK.goals(split)])
STATES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.just(10)),
    elements=st.floats(-0.6875, 0.6875, width=32),
)


@settings(max_examples=200, deadline=None)
@given(GOALS, STATES)
def test_judges_see_each_state_of_a_batch_as_if_it_stood_alone(goal, states):
    starts, following = states[:, ::-1], states[::-1]
    rows = list(np.ndindex(states.shape[:-1]))

    def alone(judge, *arrays):
        return np.array([judge(*(array[row] for array in arrays)) for row in rows]).reshape(states.shape[:-1])

    def achieved(states, starts):
        return TASK.achieved(goal, states, starts)

    def reward(states, following, starts):
        return TASK.reward(goal, states, following, starts)

    def plausible(states, following):
        return TASK.plausible(states, np.zeros(states.shape[:-1], int), following)

    def is_valid_start(states):
        return TASK.is_valid_start(goal, states)

    assert np.array_equal(achieved(states, starts), alone(achieved, states, starts))
    assert np.array_equal(plausible(states, following), alone(plausible, states, following))
    assert np.array_equal(is_valid_start(states), alone(is_valid_start, states))
    np.testing.assert_allclose(
        reward(states, following, starts), alone(reward, states, following, starts), rtol=1e-4, atol=1e-4
    )
    first = np.broadcast_to(states[:, :1], states.shape)
    assert np.array_equal(TASK.achieved(goal, states), achieved(states, first))


def test_a_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match="has 10 numbers, got shape \\(3, 8\\)"):
        achieved("line", np.zeros((3, 8)))


def test_an_unknown_goal_suggests_the_nearest(env):
    with pytest.raises(UnknownGoal, match="did you mean pair/left/red/blue"):
        env.reset(options={"goal": "pair/left/red/bleu"})
    with pytest.raises(UnknownGoal, match="did you mean gather/cyan"):
        env.reset(options={"goal": "gather/cyann"})


# Plausibility


@pytest.mark.parametrize(
    ("after", "holds"),
    [
        ({}, True),
        ({"red": (-0.15, -0.1)}, True),
        ({"red": (0.1, -0.1)}, False),  # too far for one push
        ({"red": (-0.4, -0.3)}, False),  # in the wall
        ({"cyan": (0.3, 0.4)}, False),  # inside the purple ball
        ({"red": (np.nan, -0.1)}, False),
        ({"red": (np.inf, -0.1)}, False),
    ],
)
def test_a_transition_that_physics_could_not_make_is_implausible(after, holds):
    assert TASK.plausible(state(), np.int64(0), state(**after)) == holds


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


# Baselines


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

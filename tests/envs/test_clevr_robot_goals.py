"""The goals of CLEVR-Robot, their phrasings, and which transitions are plausible."""

import re

import numpy as np
import pytest
from helpers.clevr_states import COLOURS, SIDES, TASK, achieved, beside, state
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from envs.goals import SPLITS

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

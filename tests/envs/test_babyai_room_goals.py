"""The goals of the BabyAI room, their words, and which transitions are plausible."""

import re

import numpy as np
import pytest

pytest.importorskip("minigrid")

from helpers.babyai_rooms import FAMILIES, TASK, TOGGLE, achieved, cost, room

from envs.babyai import make_room
from envs.babyai import room_phrasings as phrasings
from envs.babyai.room_state import COLOURS, KINDS, TYPES, decode, encode
from envs.goals import SPLITS

# Goals


def test_there_are_hundreds_of_goals_over_all_colours_and_objects():
    sizes = {key: len(goals) for key, goals in FAMILIES.items()}
    train = {"goto": 18, "open": 6, "pickup": 18, "putnext": 18 * 17}
    assert {f: n for (s, f), n in sizes.items() if s == "train"} == train
    assert {f: n for (s, f), n in sizes.items() if s == "easy"} == {
        "opengoto": 108, "openpickup": 108, "wall": 4, "centre": 1}  # fmt: skip
    assert {f: n for (s, f), n in sizes.items() if s == "hard"} == {"unlock": 6, "line": 120, "pile": 120}
    assert [goal.id for goal in TASK.goals("rephrase")] == [goal.id for goal in TASK.goals("train")]


@pytest.mark.parametrize(("split", "family"), [key for key in FAMILIES if key[0] != "rephrase"])
def test_starts_suit_their_goals_and_none_is_reached(split, family):
    env = make_room()
    goals = FAMILIES[split, family]
    for seed in range(30):
        goal = goals[seed * len(goals) // 30]
        _, info = env.reset(seed=seed, options={"goal": goal.id})
        assert not info["is_success"]
        assert not TASK.achieved(goal, env.state)
        assert 1 <= TASK.cost(goal, env.state) < TASK.horizon(goal)


@pytest.mark.parametrize(
    ("goal_id", "held", "not_held"),
    [
        (
            "goto/red/ball",
            room(agent=(1, 2), facing="north"),
            [room(agent=(1, 2), facing="east"), room(agent=(1, 3), facing="north"), room(carried="red ball")],
        ),
        ("open/blue", room(state="open"), [room(), room(state="locked"), room(state="open", colour="red")]),
        ("pickup/red/ball", room(carried="red ball"), [room(), room(carried="blue key")]),
        (
            "putnext/red/ball/blue/key",
            room(red_ball=(1, 5)),
            [room(), room(red_ball=(2, 5)), room(red_ball=(1, 5), carried="red ball")],
        ),
        (
            "opengoto/blue/red/ball",
            room(agent=(2, 1), facing="west", state="open"),
            [room(agent=(2, 1), facing="west"), room(state="open")],
        ),
        (
            "openpickup/blue/red/ball",
            room(carried="red ball", state="open"),  # an inverted check made this one unwinnable elsewhere
            [room(carried="red ball"), room(state="open"), room(carried="blue key", state="open")],
        ),
        ("wall/north", room(agent=(4, 1)), [room(agent=(4, 2)), room(agent=(4, 6)), room(agent=(1, 4))]),
        ("wall/east", room(agent=(6, 4)), [room(agent=(5, 4)), room(agent=(1, 4))]),
        ("centre", room(agent=(4, 3)), [room(agent=(2, 3)), room(agent=(5, 4)), room(agent=(4, 5))]),
        ("unlock/blue", room(state="open"), [room(), room(state="locked", carried="blue key")]),
    ],
)
def test_a_goal_holds_where_it_should_and_nowhere_else(goal_id, held, not_held):
    assert achieved(goal_id, held)
    assert cost(goal_id, held) == 0
    for state in not_held:
        assert not achieved(goal_id, state)
        assert cost(goal_id, state) > 0


def in_cells(shape, *cells):
    """Whether a goal of this shape holds with its three objects in these cells."""
    goal = FAMILIES["hard", shape][0]
    names = goal.id.split("/")[1:]
    three = [KINDS.index((names[i], names[i + 1])) for i in range(0, 6, 2)]
    other = next(kind for kind in range(len(KINDS)) if kind not in three)
    rooms = decode(room())._replace(kinds=np.array([*three, other]), cells=np.array([*cells, (6, 6)]))
    return bool(TASK.achieved(goal, encode(rooms)))


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_line_has_no_gaps_and_no_corners(turn):
    def turned(*cells):
        return cells[turn:] + cells[:turn]

    assert in_cells("line", *turned((1, 1), (2, 1), (3, 1)))
    assert in_cells("line", *turned((2, 4), (2, 5), (2, 6)))
    assert not in_cells("line", *turned((1, 1), (2, 1), (4, 1)))
    assert not in_cells("line", *turned((1, 1), (2, 1), (2, 2)))
    assert not in_cells("line", *turned((1, 1), (2, 2), (4, 4)))
    assert not in_cells("line", *turned((6, 1), (1, 2), (2, 2)))


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_pile_is_within_a_block_of_two_by_two(turn):
    def turned(*cells):
        return cells[turn:] + cells[:turn]

    assert in_cells("pile", *turned((1, 1), (2, 1), (2, 2)))
    assert in_cells("pile", *turned((5, 4), (4, 5), (5, 5)))
    assert not in_cells("pile", *turned((1, 1), (2, 1), (3, 1)))
    assert not in_cells("pile", *turned((1, 1), (2, 2), (3, 3)))
    assert not in_cells("pile", *turned((6, 1), (1, 2), (1, 3)))


def test_judges_see_each_state_of_a_batch_as_if_it_stood_alone(played):
    states, actions, following = (column[::97] for column in played)
    for goals in FAMILIES.values():
        goal = goals[-1]
        rows = range(len(states))
        assert list(TASK.achieved(goal, states)) == [TASK.achieved(goal, states[i]) for i in rows]
        assert list(TASK.cost(goal, states)) == [TASK.cost(goal, states[i]) for i in rows]
    alone = [TASK.plausible(states[i], actions[i], following[i]) for i in rows]
    assert list(TASK.plausible(states, actions, following)) == alone
    fanned = TASK.reward(goal, states[:, None], np.stack([states, following], axis=1), states[:, None])
    np.testing.assert_array_equal(fanned[:, 1], TASK.reward(goal, states, following))


@pytest.mark.parametrize("key", [key for key in FAMILIES if key[0] != "rephrase"])
def test_reward_is_progress_plus_ten_for_success(key, played):
    goal = FAMILIES[key][0]
    states, _, following = (column[::30] for column in played)
    reward = TASK.reward(goal, states, following)
    progress = TASK.cost(goal, states) - TASK.cost(goal, following)
    np.testing.assert_allclose(reward, progress + 10 * TASK.achieved(goal, following))


# Plausibility


def test_what_happens_is_plausible_even_with_a_models_errors(played):
    states, actions, following = played
    rng = np.random.default_rng(0)
    assert TASK.plausible(states, actions, following).all()
    blurred = following + rng.uniform(-0.15, 0.15, following.shape)
    assert TASK.plausible(states + rng.uniform(-0.15, 0.15, states.shape), actions, blurred).all()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"agent": (3, 5)}),  # two cells at once
        ({}, {"agent": (2, 2)}),  # across a corner
        ({}, {"facing": "south"}),  # half a turn
        ({}, {"red_ball": (1, 2)}),  # moves by itself
        ({"agent": (1, 3)}, {"agent": (1, 3), "blue_key": (1, 3)}),  # two things in one cell
        ({}, {"carried": "blue key"}),  # from afar
        ({}, {"colour": "red"}),
        ({}, {"door": (0, 4)}),
        ({"state": "locked"}, {"state": "open"}),  # without its key
        ({"state": "locked", "carried": "red ball"}, {"state": "open", "carried": "red ball"}),
        ({"state": "closed"}, {"state": "locked"}),
    ],
)
def test_what_physics_forbids_is_implausible(before, after):
    assert TASK.plausible(room(**before), 0, room(**before))
    assert not TASK.plausible(room(**before), 0, room(**after))


def test_a_key_in_hand_may_unlock():
    assert TASK.plausible(room(state="locked", carried="blue key"), TOGGLE, room(state="open", carried="blue key"))


def test_what_is_no_state_is_implausible():
    for index, value in ((0, np.nan), (0, np.inf), (0, 4.0), (2, 0.7), (4, 0.5)):
        state = room()
        state[index] = value
        assert not TASK.plausible(room(), 0, state)


# Words


def words(phrasing):
    return re.findall(r"\w+", phrasing.lower())


def test_no_phrasing_stands_in_two_splits_and_none_names_two_goals():
    said = {split: [" ".join(words(p)) for g in TASK.goals(split) for p in g.phrasings] for split in SPLITS}
    for split in SPLITS:
        assert len(set(said[split])) == len(said[split])
        others = set().union(*(said[other] for other in SPLITS if other != split))
        assert not set(said[split]) & others


def test_every_goal_is_rephrased_in_twenty_ways():
    assert all(len(set(goal.phrasings)) == 20 for goal in TASK.goals("rephrase"))


def test_rephrased_goals_hold_no_noun_verb_or_relation_they_were_trained_with():
    names = {"ball", "box", "key", "door"}
    told = {
        "goto": {"go", "walk", "move"},
        "open": {"open", "get", "make"},
        "pickup": {"pick", "up", "get"},
        "putnext": {"put", "place", "next", "near"},
    }
    for (split, family), goals in FAMILIES.items():
        if split == "rephrase":
            said = {word for goal in goals for phrasing in goal.phrasings for word in words(phrasing)}
            assert not said & (names | told[family]), family


def test_half_of_the_rephrased_phrasings_avoid_the_trained_colour_words():
    for goal in TASK.goals("rephrase"):
        plain = [bool(set(words(phrasing)) & set(COLOURS)) for phrasing in goal.phrasings]
        assert sum(plain) == 10
        assert sum(plain[::2]) == 5


@pytest.mark.parametrize("split", SPLITS)
def test_phrasings_name_the_objects_of_their_goal(split):
    new = {noun for nouns in phrasings._NEW_NOUNS.values() for name in nouns for noun in name.split()}
    for goal in TASK.goals(split):
        nouns = [name for name in goal.id.split("/") if name in TYPES]
        for phrasing in goal.phrasings:
            found = [word for word in words(phrasing) if word in (*TYPES, *new)]
            assert len(found) >= len(nouns), (goal.id, phrasing)

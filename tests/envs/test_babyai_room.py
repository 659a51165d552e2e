"""The BabyAI room: its physics, state vector, goals, words, plans and expert."""

import os
import re
import subprocess
import sys
import warnings
from collections import defaultdict

import gymnasium
import numpy as np
import pytest

pytest.importorskip("minigrid")

from gymnasium.utils.env_checker import check_env

from envs.babyai import make_room
from envs.babyai import room_phrasings as phrasings
from envs.babyai.room_env import RoomEnv
from envs.babyai.room_expert import outcome
from envs.babyai.room_paths import FAR, INSIDE, to_face, to_stand
from envs.babyai.room_predicates import LOST, find_scenes
from envs.babyai.room_state import (
    COLOURS,
    DERIVED,
    DOOR_STATES,
    HEADINGS,
    KINDS,
    NUM_OBJECTS,
    STATE_SIZE,
    TYPES,
    Rooms,
    decode,
    encode,
    project,
)
from envs.babyai.room_task import ACTION_TEXTS, BabyAIRoomTask
from envs.goals import SPLITS
from envs.language import InvalidAction, check_language_env

TASK = BabyAIRoomTask()
FAMILIES = defaultdict(list)
for _split in SPLITS:
    for _goal in TASK.goals(_split):
        FAMILIES[_split, _goal.family].append(_goal)
LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)
# Four objects far from each other and from the middle.
PLACES = {"red ball": (1, 1), "green box": (6, 1), "blue key": (1, 6), "grey ball": (6, 6)}


def room(agent=(3, 3), facing="north", carried=None, door=(0, 3), colour="blue", state="closed", **moved):
    """A state made by hand; objects are moved by ``red_ball=(x, y)``."""
    places = PLACES | {name.replace("_", " "): cell for name, cell in moved.items()}
    names = list(places)
    return encode(
        Rooms(
            agent=np.array(agent),
            heading=np.array(HEADINGS.index(facing)),
            kinds=np.array([KINDS.index(tuple(name.split())) for name in names]),
            cells=np.array(list(places.values())),
            carried=np.array(names.index(carried) if carried else -1),
            door=np.array(door),
            door_colour=np.array(COLOURS.index(colour)),
            door_state=np.array(DOOR_STATES.index(state)),
        )
    )


def achieved(goal_id, state):
    return bool(TASK.achieved(TASK.goal_set.find(goal_id), state))


def cost(goal_id, state):
    return float(TASK.cost(TASK.goal_set.find(goal_id), state))


def random_states(num_episodes, num_steps, seed=0):
    """Transitions of random actions: states, actions, next states."""
    env, rng = RoomEnv(), np.random.default_rng(seed)
    rows = []
    for episode in range(num_episodes):
        state, _ = env.reset(seed=episode)
        for action in rng.integers(7, size=num_steps).tolist():
            following, *_ = env.step(action)
            rows.append((state, action, following))
            state = following
    return tuple(map(np.array, zip(*rows, strict=True)))


@pytest.fixture(scope="module")
def played():
    return random_states(40, 100)


# The contract


def test_gymnasiums_checker_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("envs:BabyAIRoom-v0").unwrapped)


def test_it_keeps_the_contract_of_language_envs():
    check_language_env(make_room(), num_seeds=30)


PLAY = """
import hashlib, numpy as np
from envs.babyai import make_room
env, rng, seen = make_room(), np.random.default_rng(0), hashlib.sha256()
for seed, goal in enumerate(["putnext/red/ball/blue/key", "open/green", "wall/north"]):
    observation, _ = env.reset(seed=seed, options={"goal": goal})
    for action in rng.integers(7, size=15):
        observation, reward, *_ = env.step(int(action))
        seen.update(repr((observation["state"].tolist(), observation["goal"], observation["text"], reward)).encode())
print(seen.hexdigest())
"""


def test_two_fresh_processes_play_the_same_episodes():
    def play(hash_seed):
        environ = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", PLAY], env=environ, capture_output=True, text=True, check=True)
        return done.stdout

    one, other = play("1"), play("2")
    assert re.fullmatch("[0-9a-f]{64}\n", one)
    assert one == other


def test_actions_are_named():
    assert [TASK.parse_action(text) for text in ACTION_TEXTS] == list(range(7))
    assert TASK.parse_action(" Turn LEFT.") == LEFT
    with pytest.raises(InvalidAction, match="no action is called 'jump'; the actions are: turn left"):
        TASK.parse_action("jump")


# Physics


def test_a_start_has_four_different_objects_in_cells_of_their_own_and_a_door_that_can_be_reached():
    env = RoomEnv()
    doors = set()
    for seed in range(200):
        start = decode(env.reset(seed=seed)[0])
        cells = [tuple(cell) for cell in [*start.cells.tolist(), start.agent.tolist()]]
        assert len(set(cells)) == NUM_OBJECTS + 1
        assert all(1 <= number <= 6 for cell in cells for number in cell)
        assert len(set(start.kinds.tolist())) == NUM_OBJECTS
        assert start.carried == -1
        x, y = start.door.tolist()
        threshold = (min(max(x, 1), 6), min(max(y, 1), 6))
        assert abs(x - threshold[0]) + abs(y - threshold[1]) == 1
        assert threshold not in cells[:-1]
        doors.add((x, y))
    assert len(doors) == 24


def test_the_key_of_a_locked_door_is_in_the_room():
    env = RoomEnv()
    num_locked = 0
    for seed in range(200):
        start = decode(env.reset(seed=seed)[0])
        if DOOR_STATES[start.door_state] == "locked":
            num_locked += 1
            assert KINDS.index((COLOURS[start.door_colour], "key")) in start.kinds
    assert 40 < num_locked < 95


def test_reset_gives_what_it_is_asked_for():
    env = RoomEnv()
    wanted = (("red", "ball"), ("grey", "box"))
    for seed in range(50):
        state, _ = env.reset(seed=seed, options={"objects": wanted, "door": "green", "door_states": ("locked",)})
        start = decode(state)
        kinds = {KINDS[kind] for kind in start.kinds}
        assert {*wanted, ("green", "key")} <= kinds
        assert (COLOURS[start.door_colour], DOOR_STATES[start.door_state]) == ("green", "locked")
    state, _ = env.reset(seed=0, options={"door": "green", "door_states": ("locked",), "key_in_hand": True})
    start = decode(state)
    assert KINDS[start.kinds[start.carried]] == ("green", "key")


def test_what_reset_cannot_give_is_refused():
    with pytest.raises(ValueError, match="unknown reset option 'object': did you mean objects"):
        RoomEnv().reset(options={"object": ()})
    with pytest.raises(ValueError, match="5 objects are asked for, 4 have a place"):
        RoomEnv().reset(seed=0, options={"objects": KINDS[:5]})
    with pytest.raises(ValueError, match="unknown render mode 'human'"):
        RoomEnv("human")


def test_steps_are_minigrids_own(played):
    """Whatever an image would show is what the state says: the grid is compared object by object."""
    env, rng = RoomEnv(), np.random.default_rng(1)
    for seed in range(20):
        env.reset(seed=seed)
        for action in rng.integers(7, size=60).tolist():
            state, reward, terminated, truncated, _ = env.step(action)
            seen = decode(state)
            assert tuple(seen.agent.tolist()) == tuple(map(int, env.agent_pos))
            assert seen.heading == env.agent_dir
            for index, (kind, cell) in enumerate(zip(seen.kinds, seen.cells.tolist(), strict=True)):
                thing = env.carrying if seen.carried == index else env.grid.get(*cell)
                assert (thing.color, thing.type) == KINDS[kind]
            door = env.grid.get(*seen.door.tolist())
            assert (door.is_open, door.is_locked) == (seen.door_state == 0, seen.door_state == 2)
            on_floor = [thing for thing in env.grid.grid if thing and thing.type in TYPES]
            assert len(on_floor) == NUM_OBJECTS - (env.carrying is not None)
            assert (reward, terminated, truncated) == (0, False, False)


def test_boxes_stay_shut_and_nobody_walks_through_the_door():
    env = RoomEnv()
    env.reset(seed=0, options={"objects": (("red", "box"),), "door_states": ("open",)})
    box = next(thing for thing in env.objects if thing.type == "box")
    env.grid.grid = [None if thing in env.objects else thing for thing in env.grid.grid]
    env.put_obj(box, 4, 3)
    env.agent_pos, env.agent_dir = (3, 3), 0
    env.step(TOGGLE)
    assert env.grid.get(4, 3) is box
    x, y = env.door.cur_pos
    env.agent_pos = (min(max(x, 1), 6), min(max(y, 1), 6))
    env.agent_dir = [(1, 0), (0, 1), (-1, 0), (0, -1)].index((x - env.agent_pos[0], y - env.agent_pos[1]))
    before = tuple(env.agent_pos)
    env.step(FORWARD)
    assert tuple(env.agent_pos) == before


# The state vector


def test_a_state_survives_decoding_and_encoding(played):
    states, _, _ = played
    assert states.shape[-1] == STATE_SIZE
    np.testing.assert_array_equal(encode(decode(states)), states)
    np.testing.assert_array_equal(project(states), states)


def test_one_step_changes_little(played):
    states, _, following = played
    changes = np.abs(following - states)
    assert changes.max() <= 1
    assert (changes[:, ~DERIVED] > 0).sum(-1).max() <= 4


def test_an_approximate_state_is_snapped_to_the_exact_one(played):
    states, _, _ = played
    noise = np.random.default_rng(0).uniform(-0.35, 0.35, states.shape)
    np.testing.assert_array_equal(project(states + noise), states)


def test_a_snapped_state_is_valid_whatever_it_came_from():
    wild = np.random.default_rng(0).normal(0, 3, (500, STATE_SIZE)).astype(np.float32)
    wild[0], wild[1] = np.nan, np.inf
    rooms = decode(project(wild))
    np.testing.assert_array_equal(project(encode(rooms)), encode(rooms))
    for agent, cells, carried in zip(rooms.agent, rooms.cells, rooms.carried, strict=True):
        taken = [tuple(cell) for index, cell in enumerate(cells.tolist()) if index != carried]
        assert len({*taken, tuple(agent.tolist())}) == len(taken) + 1


def test_states_without_meaning_stay_so():
    """A model that goes wrong must not be taken for one that imagines rooms."""
    states, _, _ = random_states(1, 5)
    states[2, 7], states[3, 0] = np.nan, np.inf
    assert np.array_equal(TASK.project(states), states, equal_nan=True)
    assert TASK.project(states).dtype == np.float32


def test_a_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match=f"has {STATE_SIZE} numbers, got shape \\(3, 8\\)"):
        TASK.achieved(TASK.goals("train")[0], np.zeros((3, 8)))


def test_a_state_says_what_is_ahead():
    def ahead(state):
        return np.flatnonzero(state[DERIVED]).tolist()

    assert ahead(room(agent=(1, 2), facing="north")) == [0]
    assert ahead(room(agent=(5, 6), facing="east")) == [3]
    assert ahead(room(agent=(1, 3), facing="west")) == [4]
    assert ahead(room(agent=(1, 4), facing="west")) == [5]
    assert ahead(room()) == ahead(room(agent=(1, 2), facing="north", carried="red ball", red_ball=(1, 1))) == []


def test_a_state_is_described_in_words():
    assert TASK.describe(room(carried="red ball", state="locked")) == (
        "You are at column 3, row 3, facing north. You carry the red ball. "
        "The green box is 3 steps east and 2 steps north of you, at column 6, row 1. "
        "The blue key is 2 steps west and 3 steps south of you, at column 1, row 6. "
        "The grey ball is 3 steps east and 3 steps south of you, at column 6, row 6. "
        "The blue door in the west wall, at row 3, is locked."
    )


def test_a_picture_shows_the_state_and_imagined_ones_too():
    picture = TASK.render_state(room())
    assert picture.shape == (160, 160, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, TASK.render_state(room() + 0.2))
    others = [room(facing="east"), room(carried="red ball"), room(state="open"), room(agent=(4, 3))]
    assert all((TASK.render_state(other) != picture).any() for other in others)


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


# Plans


def test_distances_count_turns_and_steps_and_go_around_what_stands_in_the_way():
    here, there = 8 * 3 + 1, 8 * 3 + 4  # (1, 3) and (4, 3)
    free = INSIDE & ~(1 << there)
    assert to_face(free, 1 << there)[here] == 2  # facing east: two steps
    assert to_face(free, 1 << there)[64 + here] == 3  # facing south: a turn first
    assert to_face(free, 1 << there)[128 + here] == 4
    # Something at (2, 3): north, around it to (4, 2), and south.
    assert to_face(free & ~(1 << 8 * 3 + 2), 1 << there)[here] == 7
    walled = free & ~sum(1 << 8 * y + 2 for y in range(1, 7))
    assert to_face(walled, 1 << there)[here] == FAR
    assert to_stand(free, 1 << 8 * 1 + 1)[here] == 3


def test_a_goal_that_cannot_be_reached_costs_most():
    assert cost("goto/yellow/box", room()) == LOST
    assert cost("open/red", room()) == LOST
    assert cost("unlock/red", room(colour="red", state="locked")) == LOST
    assert cost("goto/red/ball", room(green_box=(2, 1), blue_key=(1, 2))) == LOST


def test_the_experts_model_is_the_environment(played):
    states, actions, following = played
    scenes = list(find_scenes(states))
    for scene, action, real in zip(scenes, actions, find_scenes(following), strict=True):
        if action != DONE:
            assert outcome(scene, int(action)) == real


@pytest.mark.parametrize("key", [key for key in FAMILIES if key[0] != "rephrase"])
def test_the_expert_reaches_every_goal_with_each_action_a_step_nearer(key):
    env, expert = make_room(), TASK.expert()
    goals = FAMILIES[key]
    for seed in range(8):
        goal = goals[(7 * seed) % len(goals)]
        env.reset(seed=seed, options={"goal": goal.id})
        done = False
        while not done:
            before = cost(goal.id, env.state)
            _, reward, terminated, truncated, info = env.step(expert.act([env])[0])
            assert before - cost(goal.id, env.state) >= 1
            assert reward >= 1
            done = terminated or truncated
        assert info["is_success"], (goal.id, seed)


def test_the_expert_recovers_from_random_actions():
    env, expert, rng = make_room(), TASK.expert(), np.random.default_rng(0)
    keys = [key for key in FAMILIES if key[0] != "rephrase"]
    num_reached = 0
    for seed in range(4 * len(keys)):
        goals = FAMILIES[keys[seed % len(keys)]]
        env.reset(seed=seed, options={"goal": goals[seed % len(goals)].id})
        done = False
        while not done:
            action = int(rng.integers(7)) if rng.random() < 0.15 else expert.act([env])[0]
            _, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        num_reached += info["is_success"]
    assert num_reached >= 0.95 * 4 * len(keys)


@pytest.mark.parametrize("split", SPLITS)
def test_a_random_policy_reaches_few_goals(split):
    env, rng = make_room(), np.random.default_rng(0)
    families = [goals for key, goals in FAMILIES.items() if key[0] == split]
    num_reached = 0
    for seed in range(40):
        goals = families[seed % len(families)]
        env.reset(seed=seed, options={"goal": goals[rng.integers(len(goals))].id, "split": split})
        done = False
        while not done:
            _, _, terminated, truncated, info = env.step(int(rng.integers(7)))
            done = terminated or truncated
        num_reached += info["is_success"]
    assert num_reached <= 6


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

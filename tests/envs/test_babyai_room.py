"""The BabyAI room: its physics and its state vector."""

import os
import re
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest

pytest.importorskip("minigrid")

from gymnasium.utils.env_checker import check_env
from helpers.babyai_rooms import FORWARD, LEFT, TASK, TOGGLE, random_states, room

from envs.babyai import make_room
from envs.babyai.room_env import RoomEnv
from envs.babyai.room_state import (
    COLOURS,
    DERIVED,
    DOOR_STATES,
    KINDS,
    NUM_OBJECTS,
    STATE_SIZE,
    TYPES,
    decode,
    encode,
    project,
)
from envs.babyai.room_task import ACTION_TEXTS
from envs.language import InvalidAction, check_language_env

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

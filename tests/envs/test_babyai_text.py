"""BabyAI as text: the contract, the sentences, the actions and the judgement."""

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
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX

from envs.babyai import make_text
from envs.babyai.describe import describe
from envs.babyai.levels import level_ids
from envs.babyai.suite import FAMILIES, SuiteTask
from envs.babyai.text_env import CARRIED_COLOUR, CARRIED_KIND, DIRECTION, STATE_SIZE, VERIFIED
from envs.language import InvalidAction, check_language_env

LEVELS = ("mixed", "BabyAI-GoToLocal-v0", "BabyAI-BossLevel-v0")
MIXED = SuiteTask()


# The contract


@pytest.mark.parametrize("level", LEVELS)
def test_gymnasiums_checker_is_silent(level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("envs:BabyAIText-v0", level=level).unwrapped)


@pytest.mark.parametrize("level", ["mixed", *FAMILIES, "BabyAI-GoToLocal-v0", "BabyAI-KeyCorridorS3R1-v0"])
def test_it_keeps_the_contract_of_language_envs(level):
    check_language_env(gymnasium.make("envs:BabyAIText-v0", level=level))


def test_a_level_of_long_episodes_keeps_the_contract():
    check_language_env(gymnasium.make("envs:BabyAIText-v0", level="BabyAI-BossLevel-v0", horizon=300))


@pytest.mark.slow
@pytest.mark.parametrize("level", level_ids())
def test_every_level_keeps_the_contract(level):
    check_language_env(make_text(level, horizon=100))


PLAY = """
import hashlib, numpy as np
from envs.babyai import make_text
rng, seen = np.random.default_rng(0), hashlib.sha256()
for level in ("mixed", "BabyAI-GoToLocal-v0", "BabyAI-BossLevel-v0"):
    env = make_text(level)
    for seed in range(3):
        for split in ("train", "hard"):
            observation, info = env.reset(seed=seed, options={"split": split})
            seen.update(repr(info).encode())
            for action in rng.integers(6, size=20):
                observation, reward, *_ = env.step(int(action))
                seen.update(repr((observation["state"].tolist(), *observation.values(), reward)).encode())
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "gotoo"}, "unknown BabyAI level 'gotoo'"),
        ({"level": "BabyAI-BosLevel-v0"}, "did you mean BabyAI-BossLevel-v0"),
        ({"split": "training"}, "did you mean train"),
        ({"render_mode": "human"}, "renders to 'rgb_array'"),
        ({"horizon": 0}, "an episode has at least 1 step"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_text(**arguments)


# What is said of a state


def cell(column, row, kind, colour="grey", state=0):
    return {(column, row): (OBJECT_TO_IDX[kind], COLOR_TO_IDX[colour], state)}


def state_of(cells, carried=(0, 0)):
    """A state made by hand: the view holds these cells and is empty elsewhere."""
    image = np.zeros((7, 7, 3), np.float32)
    image[..., 0] = OBJECT_TO_IDX["empty"]
    for place, numbers in cells.items():
        image[place] = numbers
    return np.concatenate([image.ravel(), [0, *carried, 0]]).astype(np.float32)


def test_an_object_is_told_with_its_place():
    assert describe(state_of(cell(2, 4, "ball", "red"))) == "You see a red ball 1 step left and 2 steps forward"
    assert describe(state_of(cell(5, 5, "key", "blue"))) == "You see a blue key 2 steps right and 1 step forward"
    assert describe(state_of(cell(3, 3, "box", "purple"))) == "You see a purple box 3 steps forward"
    assert describe(state_of(cell(0, 6, "key", "yellow"))) == "You see a yellow key 3 steps left"


@pytest.mark.parametrize(("state", "words"), enumerate(("an open", "a closed", "a locked")))
def test_a_door_is_told_with_its_state(state, words):
    assert describe(state_of(cell(3, 5, "door", "yellow", state))) == f"You see {words} yellow door 1 step forward"


def test_walls_are_told_ahead_left_and_right():
    walls = cell(3, 3, "wall") | cell(1, 6, "wall") | cell(4, 6, "wall")
    expected = "You see a wall 3 steps forward, You see a wall 2 steps left, You see a wall 1 step right"
    assert describe(state_of(walls)) == expected


def test_a_wall_behind_an_object_or_aside_is_not_told():
    behind = cell(3, 2, "wall") | cell(3, 4, "ball", "green")
    assert describe(state_of(behind)) == "You see a green ball 2 steps forward"
    assert describe(state_of(cell(2, 3, "wall") | cell(4, 2, "wall"))) == "You see nothing"


def test_what_is_carried_is_told_first_and_not_seen_as_well():
    ball = OBJECT_TO_IDX["ball"], COLOR_TO_IDX["red"]
    carrying = state_of(cell(3, 6, "ball", "red") | cell(3, 5, "wall"), carried=ball)
    assert describe(carrying) == "You carry a red ball, You see a wall 1 step forward"


def test_objects_are_told_from_left_to_right_and_from_far_to_near():
    things = cell(4, 5, "key", "red") | cell(2, 3, "ball", "blue") | cell(2, 1, "box", "grey")
    expected = [
        "You see a grey box 1 step left and 5 steps forward",
        "You see a blue ball 1 step left and 3 steps forward",
        "You see a red key 1 step right and 1 step forward",
    ]
    assert describe(state_of(things)) == ", ".join(expected)


def test_a_state_of_any_numbers_is_described_and_drawn():
    rng = np.random.default_rng(0)
    for scale in (1, 5, 1e6):
        state = rng.normal(scale=scale, size=STATE_SIZE).astype(np.float32)
        assert describe(state)
        assert MIXED.render_state(state).shape == (224, 224, 3)
    assert describe(np.full(STATE_SIZE, np.nan, np.float32)) == "You see nothing"


def test_a_picture_shows_what_the_agent_sees():
    empty, ball = state_of({}), state_of(cell(1, 2, "ball", "red"))
    differs = (MIXED.render_state(empty) != MIXED.render_state(ball)).any(-1)
    assert differs[64:96, 32:64].any()
    differs[64:96, 32:64] = False
    assert not differs.any()


def test_a_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match=f"a state of BabyAI has {STATE_SIZE} numbers"):
        MIXED.achieved(MIXED.goals("train")[0], np.zeros(10))


# Actions


@pytest.mark.parametrize(
    ("text", "action"),
    [("turn left", 0), (" Turn  RIGHT.", 1), ("go forward!", 2), ('"Pick Up"', 3), ("drop", 4), ("- toggle\n", 5)],
)
def test_an_action_text_is_read_whatever_its_case_and_punctuation(text, action):
    assert MIXED.parse_action(text) == action


@pytest.mark.parametrize("text", ["done", "", "turn", "turn left and right", "go to the red ball"])
def test_a_text_that_names_no_action_is_refused(text):
    with pytest.raises(InvalidAction, match="there are: turn left"):
        MIXED.parse_action(text)


def test_the_action_done_is_not_offered():
    env = make_text("goto")
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="is not in Discrete"):
        env.step(6)


# Judgement


def test_success_is_what_the_verifier_said_and_pays_one():
    state = state_of({})
    fulfilled = state.copy()
    fulfilled[VERIFIED] = 1
    goal = MIXED.goals("train")[0]
    assert MIXED.achieved(goal, np.stack([state, fulfilled])).tolist() == [False, True]
    assert MIXED.reward(goal, np.stack([state, state]), np.stack([state, fulfilled])).tolist() == [0.0, 1.0]


def test_real_steps_are_plausible_and_others_are_not():
    env, rng = make_text("mixed"), np.random.default_rng(0)
    env.reset(seed=0, options={"goal": "putnext/red/ball/blue/key"})
    for action in rng.integers(6, size=100).tolist():
        before = env.state
        after = env.step(action)[0]["state"]
        assert MIXED.plausible(before, action, after)
    before = after = state_of(cell(3, 5, "ball", "red"))

    def changed(index, value):
        state = after.copy()
        state[index] = value
        return state

    assert MIXED.plausible(before, 2, after)
    assert MIXED.plausible(before, 0, changed(DIRECTION, 3))
    assert not MIXED.plausible(before, 0, after)
    assert not MIXED.plausible(before, 2, changed(DIRECTION, 1))
    assert not MIXED.plausible(before, 2, changed(CARRIED_KIND, 6))
    assert MIXED.plausible(before, 3, changed(CARRIED_KIND, 6))
    assert not MIXED.plausible(before, 2, changed(0, 1.5))
    assert not MIXED.plausible(before, 2, changed(1, 7))
    assert not MIXED.plausible(before, 2, changed(CARRIED_COLOUR, np.nan))

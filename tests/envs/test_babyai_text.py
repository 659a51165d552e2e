"""BabyAI as text: the contract, the sentences, the goals and their words."""

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
from envs.babyai.levels import level_ids, make_level
from envs.babyai.modifiers import COMPOSED, INVENTED, MODIFIERS, modifiers_of, modify
from envs.babyai.suite import FAMILIES, HORIZONS, SuiteTask
from envs.babyai.text_env import (
    CARRIED_COLOUR,
    CARRIED_KIND,
    DIRECTION,
    HELD_OUT,
    STATE_SIZE,
    VERIFIED,
    names_held_out,
)
from envs.babyai.text_task import FIXED_MISSIONS, LevelTask, level_horizon
from envs.goals import SPLITS
from envs.language import InvalidAction, check_language_env

LEVELS = ("mixed", "BabyAI-GoToLocal-v0", "BabyAI-BossLevel-v0")
MIXED = SuiteTask()


def play(env, rng, **reset):
    """An episode of random actions: states and whether it succeeded."""
    observation, info = env.reset(**reset)
    states, done = [observation["state"]], False
    while not done:
        observation, _, terminated, truncated, info = env.step(int(rng.integers(6)))
        states.append(observation["state"])
        done = terminated or truncated
    return np.array(states), info["is_success"]


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


def test_the_horizon_can_be_chosen():
    states, success = play(make_text("putnext", horizon=7), np.random.default_rng(0), seed=0)
    assert len(states) == 8
    assert not success


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


# The mixed suite


def words(text):
    return " ".join(re.findall(r"\w+", text.lower()))


def test_each_split_holds_the_families_it_should():
    families = {split: {goal.family for goal in MIXED.goals(split)} for split in SPLITS}
    assert families["train"] == families["rephrase"] == families["easy"] == set(FAMILIES)
    assert families["hard"] == {"pickup_pickup", "pickup_open", "putnext_goto"}
    assert [len(MIXED.goals(split)) for split in SPLITS] == [454, 454, 200, 180]
    assert [goal.id for goal in MIXED.goals("train")] == [goal.id for goal in MIXED.goals("rephrase")]


def test_the_pairs_held_out_are_named_in_easy_alone():
    named = {split: [names_held_out(words) for g in MIXED.goals(split) for words in g.phrasings] for split in SPLITS}
    assert all(named["easy"])
    assert not any(named["train"] + named["hard"])
    held_out = {"/".join(pair) for pair in HELD_OUT}
    assert not any(pair in goal.id for goal in MIXED.goals("rephrase") for pair in held_out)
    assert all(any(pair in goal.id for goal in MIXED.goals("easy")) for pair in held_out)


def test_training_says_goals_in_babyais_words():
    said = {goal.id: goal.phrasings for goal in MIXED.goals("train")}
    assert said["goto/red/ball"] == ("go to the red ball",)
    assert said["open/blue/door"] == ("open the blue door",)
    assert said["putnext/red/ball/blue/key"] == ("put the red ball next to the blue key",)
    assert said["sequence/red/ball/blue/key"] == (
        "pick up the red ball, then go to the blue key",
        "go to the blue key after you pick up the red ball",
    )


def test_no_phrasing_stands_in_two_splits_or_for_two_goals():
    said = {split: [words(p) for goal in MIXED.goals(split) for p in goal.phrasings] for split in SPLITS}
    assert all(len(of_split) == len(set(of_split)) for of_split in said.values())
    for split in SPLITS:
        assert not set(said[split]) & set().union(*(said[other] for other in SPLITS if other != split))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_alone_has_four_splits(family):
    task = SuiteTask(family)
    assert {goal.family for goal in task.goals("train")} == {family}
    assert {goal.family for goal in task.goals("easy")} == {family}
    for goal in task.goals("hard"):
        assert {goal.id} <= {hard.id for hard in MIXED.goals("hard")}
    assert task.goals("hard")


def test_a_start_holds_what_the_mission_names_once_and_eight_other_objects():
    env = make_text("mixed")
    for split in ("train", "easy", "hard"):
        for seed, goal in enumerate(MIXED.goals(split)[::40]):
            env.reset(seed=seed, options={"goal": goal.id, "split": split})
            level = env.env.level
            found = [(thing.color, thing.type) for thing in level.grid.grid if thing and thing.type != "wall"]
            parts = goal.id.split("/")[1:]
            named = set(zip(parts[::2], parts[1::2], strict=True))
            keys = {(colour, "key") for colour, kind in named if kind == "door"}
            assert all(found.count(pair) == 1 for pair in named | keys)
            assert len(found) == len(named | keys) + 8
            assert level.mission.replace(" a ", " the ") in {*goal.phrasings}


def test_a_door_to_be_opened_is_locked():
    env = make_text("open")
    for seed in range(5):
        env.reset(seed=seed)
        assert [thing.is_locked for thing in env.env.level.grid.grid if thing and thing.type == "door"] == [True]


def test_two_things_to_be_put_together_never_begin_so():
    env = make_text("putnext")
    for seed in range(100):
        env.reset(seed=seed)
        assert not env.env.level.instrs.objs_next()


def test_a_random_policy_rarely_succeeds():
    """About a tenth of the time in the easiest family, go to, which is why its horizon is short."""
    rng, env = np.random.default_rng(0), make_text("mixed")
    for split in SPLITS:
        families = {}
        for goal in MIXED.goals(split):
            families.setdefault(goal.family, []).append(goal.id)
        goals = [ids[rng.integers(len(ids))] for ids in families.values() for _ in range(50 // len(families))]
        wins = [play(env, rng, seed=i, options={"goal": g, "split": split})[1] for i, g in enumerate(goals)]
        assert np.mean(wins) < 0.2
    assert HORIZONS["goto"] == 32


# Registered levels


def test_a_mission_is_drawn_with_the_start():
    env = make_text("BabyAI-GoToLocal-v0")
    missions = {env.reset(seed=seed)[0]["goal"] for seed in range(30)}
    assert len(missions) > 10
    assert all(re.fullmatch(r"go to (a|the) \w+ (ball|box|key)", mission) for mission in missions)


@pytest.mark.parametrize("level", ["BabyAI-GoToLocal-v0", "BabyAI-OpenDoor-v0", "BabyAI-MiniBossLevel-v0"])
def test_pairs_are_held_out_of_the_starts_of_training(level):
    env = make_text(level)
    for seed in range(25):
        for split in SPLITS:
            env.reset(seed=seed, options={"split": split})
            assert names_held_out(env.env.level.mission) == (split in ("easy", "hard"))


def test_a_mission_is_reworded_as_the_phrasing_says():
    env = make_text("BabyAI-GoToLocal-v0")
    for name in MODIFIERS:
        options = {"split": "rephrase", "instruction": f"{{mission:{name}}}"}
        said = env.reset(seed=3, options=options)[0]["goal"]
        assert said == modify(env.env.level.mission, name)
        assert modifiers_of(said) == name


def test_an_instruction_of_the_users_own_is_kept_as_it_is():
    env = make_text("BabyAI-GoToLocal-v0")
    for said in ("find the ball", "go to {that} place", "{mission:}"):
        assert env.reset(seed=0, options={"instruction": said})[0]["goal"] == said


@pytest.mark.parametrize("level", ["BabyAI-GoToRedBall-v0", "BabyAI-UnlockLocal-v0", "BabyAI-OpenRedDoor-v0"])
def test_a_level_of_fixed_missions_says_them_in_other_words_in_each_split(level):
    env = make_text(level)
    said = {split: {env.task.render_instruction(p, {"mission": m}) for p in env.task.goals(split)[0].phrasings
                    for m in missions_of(level, 5)} for split in SPLITS}  # fmt: skip
    for split in SPLITS:
        assert not said[split] & set().union(*(said[other] for other in SPLITS if other != split))
    assert all("invented" in modifiers_of(words) for words in said["hard"])


def missions_of(level_id, count):
    level = make_level(level_id)
    missions = set()
    for seed in range(count):
        level.reset(seed=seed)
        missions.add(level.mission)
    return missions


@pytest.mark.slow
@pytest.mark.parametrize("level", level_ids())
def test_levels_of_fixed_missions_are_known(level):
    named = {names_held_out(mission) for mission in missions_of(level, 150)}
    assert (len(named) == 1) == (level in FIXED_MISSIONS)


@pytest.mark.parametrize("level_id", ["BabyAI-GoToLocal-v0", "BabyAI-GoToSeqS5R2-v0", "BabyAI-MiniBossLevel-v0"])
def test_the_horizon_is_the_most_that_the_level_gives(level_id):
    assert_horizon_is_the_most(level_id, count=100)


@pytest.mark.slow
@pytest.mark.parametrize("level_id", level_ids())
def test_the_horizon_is_the_most_that_every_level_gives(level_id):
    assert_horizon_is_the_most(level_id, count=60)


def assert_horizon_is_the_most(level_id, count):
    level, given = make_level(level_id), set()
    for seed in range(count):
        level.reset(seed=seed)
        given.add(level.max_steps)
    assert max(given) <= level_horizon(level_id)
    if len(given) == 1:
        assert level_horizon(level_id) == max(given)


def test_a_level_that_draws_no_such_mission_says_so(monkeypatch):
    monkeypatch.setattr("envs.babyai.text_env.MAX_DRAWS", 20)
    env = make_text("BabyAI-GoToRedBallGrey-v0").env
    with pytest.raises(ValueError, match="did not draw a mission that names a held-out pair in 20 resets"):
        env.reset(seed=0, options={"held_out": True})


# Modifiers


MISSIONS = (
    "go to the red ball",
    "open the door",
    "pick up a grey object on your left",
    "put the blue box next to a green key, then open a yellow door",
    "pick up the purple key and go to a box after you put a key next to the door in front of you",
)


def test_a_modifier_gives_each_mission_words_of_its_own():
    for mission in MISSIONS:
        said = [modify(mission, name) for name in (*MODIFIERS, *COMPOSED, *INVENTED)]
        assert mission not in said
        assert all(modifiers_of(words) for words in said)
    assert modify("go to the red ball", "colours") == "go to the vermilion ball"
    assert modify("open the door", "nouns") == "open the gate"
    assert modify("go to the red ball", "invented_nouns") == "xolo means ball, go to the red xolo"
    assert modify("go to the red ball", "nouns+colours") == "go to the vermilion sphere"


def test_where_a_modifier_finds_nothing_to_change_the_mission_is_still_reworded():
    assert modifiers_of(modify("open the door", "colours")) == "wish"
    assert modifiers_of(modify("open the door", "nouns+colours")) == "nouns+wish"


@pytest.mark.parametrize("names", [*MODIFIERS, *COMPOSED, *INVENTED])
def test_a_phrasing_tells_the_modifier_it_came_from(names):
    assert set(modifiers_of(modify(MISSIONS[3], names)).split("+")) == set(names.split("+"))


def test_a_task_tells_the_kind_of_its_phrasings():
    assert [MIXED.phrasing_kind(words) for words in MIXED.goal_set.find("goto/red/ball", "rephrase").phrasings] == [
        *MODIFIERS
    ]
    assert MIXED.phrasing_kind("go to the red ball") == ""
    task = LevelTask("BabyAI-GoToLocal-v0")
    assert [task.phrasing_kind(words) for words in task.goals("hard")[0].phrasings] == [*COMPOSED, *INVENTED]
    assert task.phrasing_kind(task.goals("easy")[0].phrasings[0]) == ""


def test_babyais_own_words_tell_no_modifier():
    assert [modifiers_of(mission) for mission in MISSIONS] == [""] * len(MISSIONS)
    assert all(not modifiers_of(words) for goal in MIXED.goals("train") for words in goal.phrasings)
    assert all(modifiers_of(words) for goal in MIXED.goals("rephrase") for words in goal.phrasings)


def test_levels_share_no_phrasing_between_seen_and_unseen_words():
    task = LevelTask("BabyAI-GoToLocal-v0")
    said = {
        split: {task.render_instruction(p, {"mission": m}) for p in task.goals(split)[0].phrasings for m in missions}
        for split, missions in zip(SPLITS, [["go to the red ball"]] * 2 + [["go to the green ball"]] * 2, strict=True)
    }
    assert sum(len(words) for words in said.values()) == len(set().union(*said.values()))

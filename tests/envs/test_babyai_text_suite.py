"""The mixed suite of BabyAI as text: its goals, their words and their starts."""

import re

import numpy as np
import pytest

pytest.importorskip("minigrid")

from envs.babyai import make_text
from envs.babyai.suite import FAMILIES, HORIZONS, SuiteTask
from envs.babyai.text_env import HELD_OUT, names_held_out
from envs.goals import SPLITS

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


def test_the_horizon_can_be_chosen():
    states, success = play(make_text("putnext", horizon=7), np.random.default_rng(0), seed=0)
    assert len(states) == 8
    assert not success

"""Registered levels of BabyAI as text: their missions, starts and horizons."""

import re

import pytest

pytest.importorskip("minigrid")

from envs.babyai import make_text
from envs.babyai.levels import level_ids, make_level
from envs.babyai.modifiers import MODIFIERS, modifiers_of, modify
from envs.babyai.text_env import names_held_out
from envs.babyai.text_task import FIXED_MISSIONS, level_horizon
from envs.goals import SPLITS


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

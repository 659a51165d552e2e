"""Meta-World: its arguments, goals, words, pictures and experts. Its contract is in test_conformance."""

import re
import warnings

import numpy as np
import pytest

pytest.importorskip("metaworld")

from helpers.meta_world_states import EASY, HARD, TASK, TRAIN, goal, state

from envs.goals import SPLITS, UnknownGoal
from envs.language import InvalidAction
from envs.meta_world import MissingMetaWorld, make
from envs.meta_world.agreement import compare
from envs.meta_world.expert import expert_action
from envs.meta_world.predicates import STEPS
from envs.meta_world.scene import CONTENTS, Play
from envs.meta_world.state import STATE_SIZE
from envs.meta_world.task import MetaWorldTask


@pytest.fixture(scope="module")
def env():
    return make()


# The episode


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr("envs.meta_world.find_spec", lambda name: None)
    with pytest.raises(MissingMetaWorld, match=r"^Meta-World is not installed: pip install [^\n]*$"):
        make()


@pytest.mark.parametrize("horizon", [0, 501])
def test_an_impossible_horizon_is_refused(horizon):
    with pytest.raises(ValueError, match=f"the horizon is {horizon}: it must be from 1 to 500"):
        make(horizon=horizon)


def test_episodes_last_as_long_as_asked():
    assert TASK.horizon(goal("push")) == 100
    assert TASK.horizon(goal("make-coffee")) == 200
    assert MetaWorldTask(300).horizon(goal("push")) == 300
    assert MetaWorldTask(500).horizon(goal("locked-door-open")) == 500
    env = make(horizon=7)
    env.reset(seed=0, options={"goal": "push"})
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_an_episode_ends_at_success(env):
    """The library's own go on, and raise after 500 steps."""
    expert, steps, ended = TASK.expert(), 0, False
    env.reset(seed=0, options={"goal": "coffee-button"})
    while not ended:
        *_, terminated, truncated, info = env.step(expert.act([env])[0])
        steps, ended = steps + 1, terminated or truncated
        assert terminated == info["is_success"]
    assert terminated
    assert steps < 100


# Goals and words


def test_there_are_the_goals_of_the_literature():
    assert {g.id for g in TASK.goals("train")} == {g.id for g in TASK.goals("rephrase")} == TRAIN
    assert {g.id for g in TASK.goals("easy")} == EASY
    assert {g.id for g in TASK.goals("hard")} == HARD
    assert set(CONTENTS) == set(STEPS) == TRAIN | EASY | HARD


def test_every_goal_is_said_in_twenty_ways_in_each_of_its_splits():
    assert all(len(set(g.phrasings)) == len(g.phrasings) == 20 for split in SPLITS for g in TASK.goals(split))


def words(phrasing):
    return re.findall(r"\w+", phrasing.lower())


def test_no_phrasing_is_said_twice():
    """Neither in two splits nor of two goals."""
    said = [" ".join(words(p)) for split in SPLITS for g in TASK.goals(split) for p in g.phrasings]
    assert len(said) == len(set(said)) == 640


def test_every_rephrase_phrasing_holds_a_word_never_trained_on():
    trained = {word for g in TASK.goals("train") for p in g.phrasings for word in words(p)}
    assert [p for g in TASK.goals("rephrase") for p in g.phrasings if set(words(p)) <= trained] == []


def test_an_unknown_goal_is_refused_with_the_nearest():
    with pytest.raises(UnknownGoal, match="did you mean door-open"):
        TASK.goal_set.find("dor-open")


# Words and pictures


def test_a_state_is_described_in_centimetres_and_ways():
    text = TASK.describe(state(first=(0.1, 0.62, 0.02), target=(0.1, 0.8, 0.02)))
    assert text == (
        "The gripper is open at (0.0, 60.0, 15.0) cm. "
        "The puck is at (10.0, 62.0, 2.0) cm, 10 cm right, 2 cm ahead, 13 cm down from the gripper. "
        "The target is at (10.0, 80.0, 2.0) cm, 10 cm right, 20 cm ahead, 13 cm down from the gripper "
        "and 18 cm ahead from the puck."
    )


def test_a_description_tells_the_wall_and_the_second_object():
    text = TASK.describe(state(second=(0.24, 0.6, 0.1), things=("hammer", "nail"), wall=(0.1, 0.75, 0.06)))
    assert "The nail is at (24.0, 60.0, 10.0) cm, 24 cm right, 5 cm down from the gripper." in text
    assert "A wall stands at (10.0, 75.0, 6.0) cm." in text


def test_a_description_needs_no_task(env):
    """Each task's objects are named by the state alone."""
    for split in SPLITS:
        for g in TASK.goals(split):
            text = env.reset(seed=0, options={"goal": g.id, "split": split})[0]["text"]
            assert all(word in text for thing in CONTENTS[g.id].things for word in thing.split())
            assert ("A wall" in text) == ("wall" in g.id)


@pytest.mark.parametrize(
    "text", ["0.1 -0.5 0 1", "[0.1, -0.5, 0, 1]", "move by 0.1,-.5,0. then grip 1.0", "1e-1 -0.5 0 +1"]
)
def test_four_numbers_are_an_action(text):
    action = TASK.parse_action(text)
    assert action.dtype == np.float32
    np.testing.assert_allclose(action, [0.1, -0.5, 0, 1])


@pytest.mark.parametrize("text", ["", "left", "0.1 0.2 0.3", "0 0 0 0 0", "2 0 0 0", "nan 0 0 0", "inf 0 0 0"])
def test_anything_else_is_no_action(text):
    with pytest.raises(InvalidAction, match="four numbers from -1 to 1"):
        TASK.parse_action(text)


def test_a_picture_shows_where_things_are():
    here, there = TASK.render_state(state(first=(-0.2, 0.6, 0.02))), TASK.render_state(state(first=(0.2, 0.6, 0.02)))
    assert here.dtype == np.uint8
    assert here.ndim == 3
    red = [np.argwhere((picture == (192, 57, 43)).all(-1))[:, 1].max() for picture in (here, there)]
    assert red[1] - red[0] > 100


def test_a_picture_of_an_imagined_state_may_be_of_anything():
    wild = np.random.default_rng(0).normal(size=(5, STATE_SIZE)).astype(np.float32) * 100
    assert len({TASK.render_state(s).shape for s in wild}) == 1


# Experts


def test_an_expert_leaves_the_state_as_it_is_although_the_librarys_policy_would_not():
    from metaworld.policies import ENV_POLICY_MAP

    shown = Play("door-close", np.random.default_rng(0)).state
    before = shown.copy()
    expert_action("door-close", shown)
    assert np.array_equal(shown, before)
    seen = shown[:39].astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ENV_POLICY_MAP["door-close-v3"]().get_action(seen)
    assert not np.array_equal(seen, before[:39])


def test_experts_stay_within_the_action_space_in_silence(env):
    expert = TASK.expert()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for task in CONTENTS:
            env.reset(seed=0, options={"goal": task, "split": TASK.goal_set.find(task).split})
            (action,) = expert.act([env])
            assert env.action_space.contains(action)


def success(task, policy, num_episodes):
    return compare(task, policy, num_episodes).success


@pytest.mark.parametrize("task", ["make-coffee", "locked-door-open"])
def test_an_expert_reaches_goals_of_two_steps(task):
    assert success(task, "expert", 3) == 1.0

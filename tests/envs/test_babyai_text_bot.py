"""minigrid's bot as an expert: what it solves, what it cannot, and how it says so."""

import numpy as np
import pytest

pytest.importorskip("minigrid")

from envs.babyai import make_text
from envs.babyai.bot import UNRELIABLE, UNSUPPORTED, BabyAIExpert, ExpertError, supported_levels
from envs.babyai.levels import level_ids
from envs.babyai.suite import SuiteTask
from envs.babyai.text_env import PICK_UP, TOGGLE
from envs.goals import SPLITS


def play(env, expert, disturb=lambda action: action, **reset):
    """Whether the expert reaches the goal, and in how many steps."""
    env.reset(**reset)
    done = False
    while not done:
        _, _, terminated, truncated, info = env.step(disturb(expert.act([env])[0]))
        done = terminated or truncated
    return info["is_success"], env.num_steps


@pytest.mark.parametrize("split", SPLITS)
def test_it_solves_every_family_of_the_suite(split):
    env = make_text("mixed")
    expert, families = env.task.expert(), {}
    for goal in SuiteTask().goals(split):
        families.setdefault(goal.family, []).append(goal.id)
    for ids in families.values():
        for seed, goal in enumerate(ids[:: -(-len(ids) // 4)]):
            assert play(env, expert, seed=seed, options={"goal": goal, "split": split})[0], goal


@pytest.mark.parametrize(
    "level", ["BabyAI-GoToLocal-v0", "BabyAI-UnlockPickup-v0", "BabyAI-MiniBossLevel-v0", "BabyAI-PickupDistDebug-v0"]
)
def test_it_solves_levels(level):
    env = make_text(level)
    expert = env.task.expert()
    assert all(play(env, expert, seed=seed, options={"split": split})[0] for seed in range(3) for split in SPLITS)


@pytest.mark.slow
@pytest.mark.parametrize("level", supported_levels())
def test_it_solves_every_level_listed_as_supported(level):
    env = make_text(level)
    expert = env.task.expert()
    assert all(play(env, expert, seed=seed, options={"split": split})[0] for seed in range(4) for split in SPLITS)


def test_all_levels_but_seven_are_supported():
    assert set(supported_levels()) | {*UNSUPPORTED, *UNRELIABLE} == set(level_ids())
    assert len(level_ids()) - len(supported_levels()) == 7


@pytest.mark.parametrize("level", UNSUPPORTED)
def test_a_level_it_cannot_solve_is_refused(level):
    with pytest.raises(ExpertError, match=f"cannot solve {level}: it "):
        make_text(level).task.expert()


def test_it_says_so_where_it_would_revise_its_plan_for_ever():
    env, outcomes = make_text("BabyAI-UnlockToUnlock-v0"), []
    for seed in range(6):
        try:
            outcomes.append(play(env, env.task.expert(), seed=seed)[0])
        except ExpertError as error:
            outcomes.append(str(error))
    assert True in outcomes
    stuck = [outcome for outcome in outcomes if outcome is not True]
    assert stuck
    assert all("revised its plan 500 times without coming to a decision" in message for message in stuck)
    assert all("UnlockToUnlock-v0 from seed" in message for message in stuck)


def test_a_failed_assertion_becomes_a_message():
    env = make_text("BabyAI-KeyInBox-v0")
    with pytest.raises(ExpertError, match=r"cannot solve this level from seed 0 .*AssertionError"):
        play(env, BabyAIExpert("this level"), seed=0)


def test_it_goes_on_from_what_others_did():
    env, rng = make_text("mixed"), np.random.default_rng(0)
    expert = env.task.expert()

    def disturb(action):
        return int(rng.integers(6)) if rng.random() < 0.3 else action

    outcomes = [play(env, expert, disturb, seed=seed) for seed in range(20)]
    assert np.mean([success for success, _ in outcomes]) > 0.6  # a box that is opened is gone


def test_where_others_made_the_goal_unreachable_it_waits_for_the_end():
    env = make_text("pickup")
    expert = env.task.expert()

    def open_the_box(action):
        return TOGGLE if action == PICK_UP else action

    options = {"goal": "pickup/red/box"}
    assert play(env, expert, open_the_box, seed=0, options=options) == (False, env.task.horizon(env.goal))


def test_it_plays_several_episodes_at_once_and_may_join_late():
    envs = [make_text("mixed") for _ in range(4)]
    expert, alone = envs[0].task.expert(), envs[0].task.expert()
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
        env.step(0)
    running = list(envs)
    while running:
        actions = expert.act(running)
        running = [env for env, action in zip(running, actions, strict=True) if not any(env.step(action)[2:4])]
    assert all(env.state[-1] == 1 for env in envs)
    assert play(envs[0], alone, seed=9) == play(envs[1], expert, seed=9)

"""Meta-World: its goals, words, predicates, rewards and experts, and the contract of environments with goals."""

import os
import re
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("metaworld")

from envs.goals import SPLITS, UnknownGoal
from envs.language import InvalidAction, check_language_env
from envs.meta_world import MissingMetaWorld, make
from envs.meta_world.agreement import POLICIES, compare
from envs.meta_world.expert import expert_action
from envs.meta_world.predicates import STEPS
from envs.meta_world.scene import CONTENTS, Play
from envs.meta_world.state import (
    BASE,
    FIRST,
    FLAGS,
    HAND,
    OPENING,
    PREVIOUS_FRAME,
    SECOND,
    STATE_SIZE,
    TARGET,
    TOOL,
    WALL,
    flags,
)
from envs.meta_world.task import MetaWorldTask

TASK = MetaWorldTask()
TRAIN = {
    *("reach", "push", "pick-place", "button-press", "door-unlock"),
    *("door-open", "window-open", "faucet-open", "coffee-push", "coffee-button"),
}
EASY = {
    *("reach-wall", "push-wall", "pick-place-wall", "button-press-wall"),
    *("door-lock", "door-close", "window-close", "faucet-close"),
}
HARD = {"hammer", "soccer", "make-coffee", "locked-door-open"}


@pytest.fixture(scope="module")
def env():
    return make()


@pytest.fixture(scope="module")
def transitions():
    """Real transitions of every task, (22, 100, D) each: the expert with noise from one seed."""
    states, next_states = [], []
    for task in CONTENTS:
        rng = np.random.default_rng(3)
        play = Play(task, rng)
        path = [play.state]
        for _ in range(100):
            noisy = expert_action(task, path[-1]) + 0.3 * rng.standard_normal(4)
            path.append(play.step(np.clip(noisy, -1, 1).astype(np.float32)))
        states.append(path[:-1])
        next_states.append(path[1:])
    return np.array(states), np.array(next_states)


def goal(name):
    return TASK.goal_set.find(name)


def state(first=(0, 0.6, 0.02), target=(0, 0.8, 0.02), tool=(0, 0.6, 0.15), second=(0, 0, 0), **parts):
    """A state made by hand."""
    made = np.zeros(STATE_SIZE, np.float32)
    made[FIRST], made[SECOND], made[TARGET], made[TOOL] = first, second, target, tool
    made[HAND] = np.add(tool, (0, 0, 0.045))
    made[OPENING] = 1.0
    made[BASE], made[WALL] = parts.get("base", 0.0), parts.get("wall", 0.0)
    made[FLAGS] = flags(parts.get("things", ("puck",)))
    return made


# The contract


def test_gymnasiums_checker_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A graphics driver is chosen when mujoco is first imported; test_meta_world_scenes renders in processes apart.
        check_env(gymnasium.make("envs:MetaWorld-v0").unwrapped, skip_render_check=True)


def test_it_keeps_the_contract_of_language_envs(env):
    check_language_env(env, num_seeds=16)


PLAY = """
import hashlib, numpy as np
from envs.meta_world import make
env, rng, seen = make(), np.random.default_rng(0), hashlib.sha256()
for seed, goal in enumerate(["push", "window-close", "make-coffee", "locked-door-open"]):
    observation, _ = env.reset(seed=seed, options={"goal": goal})
    for action in rng.uniform(-1, 1, (30, 4)).astype(np.float32):
        observation, reward, *_ = env.step(action)
        seen.update(repr((observation["state"].tolist(), observation["goal"], observation["text"], reward)).encode())
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


def test_no_wording_is_said_twice():
    """Neither in two splits nor of two goals."""
    said = [" ".join(words(p)) for split in SPLITS for g in TASK.goals(split) for p in g.phrasings]
    assert len(said) == len(set(said)) == 640


def test_every_rephrase_wording_holds_a_word_never_trained_on():
    trained = {word for g in TASK.goals("train") for p in g.phrasings for word in words(p)}
    assert [p for g in TASK.goals("rephrase") for p in g.phrasings if set(words(p)) <= trained] == []


def test_an_unknown_goal_is_refused_with_the_nearest():
    with pytest.raises(UnknownGoal, match="did you mean door-open"):
        TASK.goal_set.find("dor-open")


# Predicates


@pytest.mark.parametrize(
    ("task", "near", "far"),
    [
        ("reach", {"tool": (0, 0.8, 0.06)}, {"tool": (0, 0.8, 0.08)}),
        ("push", {"first": (0, 0.755, 0.02)}, {"first": (0, 0.745, 0.02)}),
        ("pick-place", {"first": (0, 0.8, 0.085)}, {"first": (0, 0.8, 0.095)}),
        ("button-press", {"first": (0.3, 0.785, 0.5)}, {"first": (0, 0.775, 0.02)}),
        ("button-press-wall", {"first": (0.3, 0.775, 0.5)}, {"first": (0, 0.765, 0.02)}),
        ("door-unlock", {"first": (0.015, 0.1, 0.5)}, {"first": (0.025, 0.8, 0.02)}),
        ("door-lock", {"first": (0.3, 0.1, 0.035)}, {"first": (0, 0.8, 0.045)}),
        ("door-open", {"first": (0.075, 0.1, 0.5)}, {"first": (0.085, 0.8, 0.02)}),
        ("door-close", {"first": (0.075, 0.8, 0.02)}, {"first": (0.075, 0.85, 0.02)}),
        ("window-open", {"first": (0.045, 0.1, 0.5)}, {"first": (0.055, 0.8, 0.02)}),
        ("faucet-open", {"first": (0.04, 0.8, -0.01)}, {"first": (-0.04, 0.8, -0.01)}),
    ],
)
def test_a_task_is_done_within_its_radius(task, near, far):
    assert TASK.achieved(goal(task), state(**near))
    assert not TASK.achieved(goal(task), state(**far))


def test_a_nail_is_in_once_it_has_gone_nine_centimetres_from_where_it_was():
    start = state(second=(0.24, 0.64, 0.11), things=("hammer", "nail"))
    path = np.stack([start, *(state(second=(0.24, 0.64 + d, 0.11)) for d in (0.08, 0.095))])
    assert TASK.achieved(goal("hammer"), path).tolist() == [False, False, True]
    assert TASK.achieved(goal("hammer"), path[2], start)


def test_coffee_needs_mug_and_button_at_once():
    place = {"target": (0, 0.72, 0)}
    there, elsewhere = {"first": (0, 0.7, 0)}, {"first": (0, 0.6, 0)}
    pressed, out = {"second": (0, 0.735, 0.3)}, {"second": (0, 0.72, 0.3)}
    assert TASK.achieved(goal("make-coffee"), state(**place, **there, **pressed))
    assert not TASK.achieved(goal("make-coffee"), state(**place, **there, **out))
    assert not TASK.achieved(goal("make-coffee"), state(**place, **elsewhere, **pressed))


def test_a_locked_door_must_be_unlocked_and_open():
    base, target = (0, 0.9, 0.15), (-0.3, 0.45, 0.15)
    unlocked, locked = {"first": (0.01, 0.75, 0.34)}, {"first": (-0.08, 0.75, 0.26)}
    opened, shut = {"second": (-0.25, 0.5, 0.15)}, {"second": (0.2, 0.7, 0.15)}

    def done(**places):
        return TASK.achieved(goal("locked-door-open"), state(base=base, target=target, **places))

    assert done(**unlocked, **opened)
    assert not done(**locked, **opened)
    assert not done(**unlocked, **shut)


@pytest.mark.parametrize("policy", ["expert", "noisy expert"])
def test_the_predicates_say_what_the_library_says(policy):
    """One episode for each task; the long test plays more."""
    compared = {task: compare(task, policy, num_episodes=1) for task in CONTENTS}
    assert {task: c.steps for task, c in compared.items() if c.steps < 0.99} == {}
    assert sum(c.library.any() for c in compared.values()) >= 11  # so that there is something to agree on


def test_by_the_hand_instead_of_the_tool_reaching_would_be_misjudged():
    """The trap of the library's observation: the hand is 4.5 cm above what is judged."""
    play = Play("reach", np.random.default_rng(0))
    by_hand, by_library = [], []
    for _ in range(60):
        action = expert_action("reach", play.state)
        seen = play.step(action).copy()
        by_library.append(play.library_success(action))
        seen[TOOL] = seen[HAND]
        by_hand.append(bool(TASK.achieved(goal("reach"), seen)))
    assert by_hand != by_library


# Rewards


def test_reward_is_progress_plus_ten_for_success(transitions):
    for task, states, next_states in zip(CONTENTS, *transitions, strict=True):
        start = states[0]
        rewards = TASK.reward(goal(task), states, next_states, start)
        bonus = 10 * TASK.achieved(goal(task), next_states, start)
        whole = 10 * (TASK.cost(goal(task), states[0], start) - TASK.cost(goal(task), next_states[-1], start))
        np.testing.assert_allclose((rewards - bonus).sum(), whole, atol=1e-2)


@pytest.mark.parametrize("task", sorted(CONTENTS))
def test_the_cost_falls_on_the_way_of_the_expert(task):
    seed = 2 if task == "soccer" else 1  # an expert's shot may miss
    play = Play(task, np.random.default_rng(seed))
    path = [play.state]
    while not TASK.achieved(goal(task), path[-1], path[0]) and len(path) < 250:
        path.append(play.step(expert_action(task, path[-1])))
    costs = TASK.cost(goal(task), np.array(path), path[0])
    assert (costs >= 0).all()
    assert costs[-1] < 0.5 * costs[0]
    assert costs[-1] == costs.min() or costs[-1] < 0.1


def test_a_first_step_done_lowers_the_cost_wherever_the_second_object_is():
    place = {"target": (0, 0.72, 0), "second": (0, 0.72, 0.3), "tool": (0, 0.6, 0.03)}
    before, after = state(first=(0, 0.648, 0), **place), state(first=(0, 0.652, 0), **place)
    assert TASK.cost(goal("make-coffee"), after) < TASK.cost(goal("make-coffee"), before) - 0.5


# Plausibility


def test_real_transitions_are_plausible(transitions):
    verdicts = TASK.plausible(transitions[0], np.zeros((22, 100, 4)), transitions[1])
    assert verdicts.shape == (22, 100)
    assert (verdicts.mean(1) >= 0.99).all()


def _jump(part, by):
    def change(states):
        states[:, part] += by

    return change


def _not_a_number(states):
    states[:, HAND] = np.nan


@pytest.mark.parametrize(
    "spoil",
    [
        _jump(HAND, 0.1),
        _jump(FIRST, 0.1),
        _jump(FIRST, (0.03, 0.0, 0.0)),  # with the tool far away
        _jump(TARGET, 0.03),
        _jump(BASE, 0.03),
        _jump(WALL, 0.03),
        _jump(TOOL, 0.05),
        _jump(OPENING, -0.3),
        _jump(FLAGS, 1.0),
        _jump(PREVIOUS_FRAME, 0.1),
        _not_a_number,
    ],
)
def test_what_cannot_happen_is_implausible(transitions, spoil):
    """From states in which the tool is far from every object."""
    states, next_states = (part.reshape(-1, STATE_SIZE) for part in transitions)
    distances = [np.linalg.norm(states[:, TOOL] - states[:, part], axis=-1) for part in (FIRST, SECOND)]
    far = np.minimum(*distances) > 0.26
    spoilt = next_states[far].copy()
    spoil(spoilt)
    assert far.sum() >= 20
    assert not TASK.plausible(states[far], np.zeros((far.sum(), 4)), spoilt).any()


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
    here, there = TASK.draw(state(first=(-0.2, 0.6, 0.02))), TASK.draw(state(first=(0.2, 0.6, 0.02)))
    assert here.dtype == np.uint8
    assert here.ndim == 3
    red = [np.argwhere((picture == (192, 57, 43)).all(-1))[:, 1].max() for picture in (here, there)]
    assert red[1] - red[0] > 100


def test_a_picture_of_an_imagined_state_may_be_of_anything():
    wild = np.random.default_rng(0).normal(size=(5, STATE_SIZE)).astype(np.float32) * 100
    assert len({TASK.draw(s).shape for s in wild}) == 1


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


@pytest.mark.parametrize("task", ["push", "make-coffee", "locked-door-open"])
def test_an_expert_reaches_its_goal(task):
    assert success(task, "expert", 3) == 1.0


@pytest.mark.slow
def test_the_predicates_agree_with_the_library_on_every_task_and_policy():
    compared = {(task, policy): compare(task, policy, 20) for task in CONTENTS for policy in POLICIES}
    assert {key: c.steps for key, c in compared.items() if c.steps < 0.99} == {}
    experts = {task: compared[task, "expert"].success for task in CONTENTS}
    assert np.mean([experts[task] for task in TRAIN]) >= 0.95
    assert np.mean([experts[task] for task in EASY]) >= 0.95
    for split in (TRAIN, EASY, HARD):
        assert np.mean([compared[task, "random"].success for task in split]) < 0.2

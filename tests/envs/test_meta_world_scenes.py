# ruff: noqa: E402 (without the library there is nothing to import)
"""The scenes of Meta-World: resets, independence, and the library's traps, each with its cure."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

metaworld = pytest.importorskip("metaworld")

from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from envs.meta_world import make
from envs.meta_world.env import MetaWorldEnv
from envs.meta_world.expert import expert_action
from envs.meta_world.scene import CONTENTS, MIN_GAP, Play, scene
from envs.meta_world.state import (
    BASE,
    FIRST,
    FRAME,
    HAND,
    OBSERVATION,
    PREVIOUS_FRAME,
    SECOND,
    TARGET,
    TOOL,
    WALL,
    things_in,
)

SIX_NUMBERS = ("reach", "push", "pick-place", "coffee-push", "reach-wall", "push-wall", "pick-place-wall", "soccer")
STILL = np.array([0, 0, 0, -1], np.float32)


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)


def library(task):
    """The library's own environment, made to show its target as its benchmarks do."""
    env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    env._partially_observable = False
    vars(env).pop("sawyer_observation_space", None)
    env._set_task_called = True
    return env


def start(task, seed=0):
    return Play(task, np.random.default_rng(seed)).state


# Resets


@pytest.mark.parametrize("task", ["reach", "door-close", "make-coffee"])
def test_a_seed_decides_start_and_target(task):
    """The library ignores it."""
    env = MetaWorldEnv()
    starts = [env.reset(seed=seed, options={"task": task})[0] for seed in (5, 6, 5)]
    assert np.array_equal(starts[0], starts[2])
    assert not np.array_equal(starts[0][FIRST], starts[1][FIRST])
    assert not np.array_equal(starts[0][TARGET], starts[1][TARGET])


@pytest.mark.parametrize("task", sorted(CONTENTS))
def test_an_episode_depends_on_nothing_that_was_played_before(task):
    def play(seed):
        run = Play(task, np.random.default_rng(seed))
        return np.array([run.state, *(run.step(action) for action in actions(20, seed))])

    first = play(1)
    play(2)
    assert np.array_equal(play(1), first)


@pytest.mark.parametrize("task", ["push", "faucet-open", "door-unlock", "soccer", "hammer"])
def test_a_start_is_the_librarys_start(task):
    """Everything is within 3 mm of where two resets of it leave it, the hand within 6 mm: there it may brush a door."""
    theirs, ours = library(task), scene(task)
    drawn = ours.draw(np.random.default_rng(3))
    theirs._last_rand_vec = drawn
    theirs.reset()
    ours.reset(drawn)
    observed, *_ = theirs.step(STILL)  # what it shows before a step is stale
    ours.step(STILL)
    state = ours.observe()
    for part in (FIRST, SECOND, TARGET):
        np.testing.assert_allclose(state[part], observed[part], atol=3e-3)
    np.testing.assert_allclose(state[HAND], observed[HAND], atol=6e-3)


@pytest.mark.parametrize("task", ["pick-place", "window-close"])
def test_a_step_is_the_librarys_step(task):
    drawn = scene(task).draw(np.random.default_rng(0))
    theirs, ours = library(task), scene(task)
    theirs._last_rand_vec = drawn
    theirs.reset()
    ours.reset(drawn)
    ours.observe()
    saved = ours.save()
    mujoco.mj_setState(theirs.model, theirs.data, saved.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
    theirs._prev_obs = ours.native._prev_obs
    for action in actions(30):
        ours.step(action)
        observed, *_ = theirs.step(action)
        np.testing.assert_array_equal(ours.observe()[OBSERVATION], observed.astype(np.float32))


@pytest.mark.parametrize("task", SIX_NUMBERS)
def test_draws_that_the_library_would_refuse_for_ever_are_refused(task):
    space = scene(task).native._random_reset_space
    rng = np.random.default_rng(0)
    raw = np.array([rng.uniform(space.low, space.high) for _ in range(2000)])
    drawn = np.array([scene(task).draw(rng) for _ in range(300)])
    assert np.linalg.norm(drawn[:, :2] - drawn[:, 3:5], axis=-1).min() >= MIN_GAP
    assert (drawn >= space.low).all()
    assert (drawn <= space.high).all()
    if task in ("push", "coffee-push"):  # in the others such draws are rare or impossible
        assert np.linalg.norm(raw[:, :2] - raw[:, 3:5], axis=-1).min() < MIN_GAP


@pytest.mark.parametrize("task", ["push", "door-close", "hammer"])
def test_a_reset_takes_at_most_half_of_the_librarys_physics(task, monkeypatch):
    """`benchmarks.meta_world` measures the time."""
    theirs, ours = library(task), scene(task)
    steps = []
    whole_step = mujoco.mj_step
    monkeypatch.setattr(mujoco, "mj_step", lambda *a, nstep=1: (steps.append(nstep), whole_step(*a, nstep=nstep))[1])
    theirs._last_rand_vec = ours.draw(np.random.default_rng(0))
    theirs.reset()
    stock = sum(steps)
    steps.clear()
    ours.reset(ours.draw(np.random.default_rng(1)))
    assert stock >= 500
    assert sum(steps) <= stock / 2


def test_an_unknown_task_or_option_is_refused():
    env = MetaWorldEnv()
    with pytest.raises(ValueError, match="unknown task 'dor-open': did you mean door-open"):
        env.reset(options={"task": "dor-open"})
    with pytest.raises(ValueError, match="unknown reset option 'tasks': did you mean task"):
        env.reset(options={"tasks": "push"})


# Independence


@pytest.mark.parametrize("others", ["push", "hammer"])
def test_environments_of_one_process_do_not_disturb_each_other(others):
    """Each plays on, bit for bit, as if it were alone, whether they share a scene or not."""

    def alone(task, seed):
        env = MetaWorldEnv()
        env.reset(seed=seed, options={"task": task})
        return np.array([env.step(action)[0] for action in actions(30, seed)])

    expected = [alone("push", 0), alone(others, 1)]
    envs = [MetaWorldEnv(), MetaWorldEnv()]
    envs[0].reset(seed=0, options={"task": "push"})
    envs[1].reset(seed=1, options={"task": others})
    seen = [[], []]
    for one, other in zip(actions(30, 0), actions(30, 1), strict=True):
        seen[0].append(envs[0].step(one)[0])
        seen[1].append(envs[1].step(other)[0])
        envs[0].play.library_success(one)
    assert np.array_equal(seen[0], expected[0])
    assert np.array_equal(seen[1], expected[1])


def test_nothing_of_the_library_is_changed():
    def look():
        module = {name: repr(value) for name, value in vars(metaworld).items() if isinstance(value, int | str | dict)}
        base = metaworld.SawyerXYZEnv
        kept = {name: repr(vars(base)[name]) for name in ("max_path_length", "TARGET_RADIUS", "_HAND_SPACE")}
        return module, kept, list(ALL_V3_ENVIRONMENTS), base.reset_model, base._reset_hand, base.step

    before = look()
    num_goals = metaworld._N_GOALS
    env = make()
    for task in ("push", "make-coffee"):
        env.reset(seed=0, options={"goal": task})
        env.step(STILL)
    assert look() == before
    assert metaworld._N_GOALS == num_goals == 50
    assert ALL_V3_ENVIRONMENTS["push-v3"]()._partially_observable


def test_an_environment_may_play_longer_than_the_library_allows():
    """The library raises after 500 steps."""
    play = Play("reach", np.random.default_rng(0))
    for _ in range(502):
        play.step(STILL)
    assert np.isfinite(play.state).all()


# What the library observes, and what it does not


def test_the_first_observation_is_not_stale():
    """The library shows the handle of an open window 0.2 m off, as if the window were closed."""
    drawn = scene("window-close").draw(np.random.default_rng(0))
    theirs = library("window-close")
    theirs._last_rand_vec = drawn
    stale, _ = theirs.reset()
    after, *_ = theirs.step(STILL)
    assert np.abs(stale[FIRST] - after[FIRST]).max() > 0.15
    for task in CONTENTS:
        play = Play(task, np.random.default_rng(0))
        first = play.state
        assert np.array_equal(first[FRAME], first[PREVIOUS_FRAME]), task
        np.testing.assert_allclose(play.step(STILL)[FIRST], first[FIRST], atol=0.01, err_msg=task)


@pytest.mark.parametrize("task", sorted(CONTENTS))
def test_the_target_is_shown_from_the_first_step_to_the_last(task):
    """The library may clip it to zero from the first step on."""
    play = Play(task, np.random.default_rng(0))
    states = np.array([play.state, *(play.step(action) for action in actions(5))])
    np.testing.assert_allclose(states[:, TARGET], np.tile(play.scene.native._target_pos, (6, 1)), atol=1e-6)


def test_the_frame_before_is_the_frame_of_the_step_before():
    play = Play("push", np.random.default_rng(0))
    states = np.array([play.state, *(play.step(action) for action in actions(10))])
    assert np.array_equal(states[1:, PREVIOUS_FRAME], states[:-1, FRAME])


def test_the_state_holds_the_tool_centre():
    play = Play("pick-place", np.random.default_rng(0))
    for action in actions(20):
        np.testing.assert_allclose(play.step(action)[TOOL], play.scene.native.tcp_center, atol=1e-6)


@pytest.mark.parametrize(
    ("opening", "closing"), [("door-open", "door-close"), ("faucet-open", "faucet-close"), ("door-unlock", "door-lock")]
)
def test_the_base_of_a_fixture_is_the_same_for_both_its_tasks(opening, closing):
    """Neither handle nor target is."""
    one, other = scene(opening), scene(closing)
    drawn = one.draw(np.random.default_rng(0))
    one.reset(drawn)
    other.reset(drawn)
    ours, theirs = one.observe(), other.observe()
    np.testing.assert_allclose(ours[BASE], drawn, atol=1e-6)
    np.testing.assert_array_equal(ours[BASE], theirs[BASE])
    assert np.abs(ours[TARGET] - theirs[TARGET]).max() > 0.05


@pytest.mark.parametrize("task", [task for task in CONTENTS if "wall" in task])
def test_the_wall_is_where_the_simulator_has_it(task):
    model = scene(task).model
    shown = start(task)[WALL]
    solid = [
        geom
        for geom in range(model.ngeom)
        if model.body(model.body_rootid[model.geom_bodyid[geom]]).name == "wall" and model.geom_conaffinity[geom]
    ]
    assert solid
    centres = scene(task).data.geom_xpos[solid]
    assert np.abs(centres - shown).max(1).min() < 0.01


def test_the_flags_name_the_objects_in_their_order():
    assert things_in(start("push")) == ["puck"]
    assert things_in(start("hammer")) == ["hammer", "nail"]
    assert things_in(start("make-coffee")) == ["mug", "coffee button"]
    assert things_in(start("locked-door-open")) == ["lock", "door"]
    assert things_in(start("coffee-button")) == ["coffee button"]


# The composed scenes


def test_a_locked_door_stays_shut_and_an_unlocked_one_opens():
    def pull(unlock):
        play = Play("locked-door-open", np.random.default_rng(0))
        if unlock:
            play.refresh().data.joint("bolt_hinge").qpos = 0.0
        for _ in range(120):
            seen = play.state.copy()
            seen[FIRST] = seen[SECOND]
            play.step(expert_action("door-open", seen))
        return play.scene.data.joint("doorjoint").qpos.item()

    assert abs(pull(unlock=False)) < 0.1
    assert abs(pull(unlock=True)) > 1.0


def test_a_bolt_stays_where_it_was_turned():
    play = Play("locked-door-open", np.random.default_rng(0))
    play.refresh().data.joint("bolt_hinge").qpos = 0.2
    turned = play.step(STILL)[FIRST]
    for _ in range(50):
        play.step(STILL)
    np.testing.assert_allclose(play.state[FIRST], turned, atol=0.005)


def test_a_coffee_button_comes_back_so_that_it_must_be_pressed_last():
    play = Play("make-coffee", np.random.default_rng(0))
    out = play.state[SECOND][1]
    play.refresh().data.joint("goal_slidey").qpos = 0.03
    assert play.step(STILL)[SECOND][1] > out + 0.015
    for _ in range(40):
        play.step(STILL)
    assert play.state[SECOND][1] < out + 0.01


# Rendering


RENDER = """
from envs.meta_world import make
env = make(render_mode="rgb_array")
env.reset(seed=0, options={"goal": "push"})
print(env.render().shape, env.render().std() > 20)
env.close()
"""


def render(driver):
    environ = {k: v for k, v in os.environ.items() if k != "DISPLAY"} | {"MUJOCO_GL": driver, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", RENDER], env=environ, capture_output=True, text=True)


def test_a_scene_is_rendered_through_egl():
    done = render("egl")
    if "CannotRender" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.stdout == "(480, 480, 3) True\n"


def test_a_missing_driver_is_told_in_one_line():
    done = render("glfw")  # which needs a display
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "CannotRender: Meta-World cannot render here: install EGL" in last
    assert "MUJOCO_GL=egl" in last


def test_rendering_is_silent_without_a_mode_and_refused_in_another():
    env = MetaWorldEnv()
    env.reset(seed=0, options={"task": "push"})
    assert env.render() is None
    with pytest.raises(ValueError, match="unknown render mode 'human'"):
        MetaWorldEnv("human")

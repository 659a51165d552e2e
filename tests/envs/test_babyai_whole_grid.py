"""BabyAI seen whole: the state is minigrid's grid, and its words say all of it."""

import re
import warnings

import gymnasium
import numpy as np
import pytest

pytest.importorskip("minigrid")

from gymnasium.utils.env_checker import check_env
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX

from envs.babyai import make_text
from envs.babyai.bot import supported_levels
from envs.babyai.levels import level_ids
from envs.babyai.whole_grid import split
from envs.goals import SPLITS
from envs.language import check_language_env

# One room, nine rooms with doors, something carried from the start, walls taken away.
LEVELS = ("mixed", "BabyAI-GoToLocal-v0", "BabyAI-BossLevel-v0", "BabyAI-PutNextS5N2Carrying-v0", "BabyAI-FindObjS5-v0")
HEADINGS = ("east", "south", "west", "north")
BUSY = (0.1, 0.1, 0.4, 0.15, 0.1, 0.15)  # probabilities of actions that walk about and handle things
GO_FORWARD, PICK_UP, TOGGLE = 2, 3, 5


def make(level, **options):
    return make_text(level, partial=False, **options)


def play(level, num_episodes=2, num_steps=60):
    """An environment in each state of some busy episodes, and the action that is taken there."""
    env, rng = make(level), np.random.default_rng(0)
    for seed in range(num_episodes):
        env.reset(seed=seed, options={"split": SPLITS[seed % 4]})
        for action in rng.choice(6, size=num_steps, p=BUSY).tolist():
            yield env, action
            if any(env.step(action)[2:4]):
                break


# The contract


@pytest.mark.parametrize("level", ["mixed", "BabyAI-BossLevel-v0"])
def test_gymnasiums_checker_is_silent(level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("envs:BabyAIText-v0", level=level, partial=False).unwrapped)


@pytest.mark.parametrize("level", ["mixed", "BabyAI-GoToLocal-v0", "BabyAI-BossLevel-v0"])
def test_it_keeps_the_contract_of_language_envs(level):
    check_language_env(make(level, horizon=100))


@pytest.mark.slow
@pytest.mark.parametrize("level", level_ids())
def test_every_level_keeps_the_contract(level):
    check_language_env(make(level, horizon=100))


@pytest.mark.parametrize("level", ["mixed", "BabyAI-GoToLocal-v0"])
def test_only_the_view_differs_from_the_partial_one(level):
    """Start, mission, physics and verdicts are the same."""
    envs, rng = (make_text(level), make(level)), np.random.default_rng(0)
    for seed in range(4):
        partial, whole = (env.reset(seed=seed) for env in envs)
        assert partial[0]["goal"] == whole[0]["goal"]
        for action in rng.choice(6, size=60, p=BUSY).tolist():
            partial, whole = (env.step(action) for env in envs)
            assert partial[1:] == whole[1:]
            assert np.array_equal(partial[0]["state"][-4:], whole[0]["state"][-4:])
            if any(partial[2:4]):
                break


@pytest.mark.parametrize("level", ["mixed", "BabyAI-BossLevel-v0"])
def test_the_expert_plays_here_too(level):
    env = make(level)
    assert level == "mixed" or level in supported_levels()
    expert, ended = env.task.expert(), False
    env.reset(seed=3)
    while not ended:
        *_, terminated, truncated, info = env.step(expert.act([env])[0])
        ended = terminated or truncated
    assert info["is_success"]


# The state


@pytest.mark.parametrize("level", LEVELS)
def test_the_state_is_minigrids_grid(level):
    for env, _ in play(level):
        inner = env.env.unwrapped.level
        cells, place, direction, carried, _ = split(env.state, env.task.size)
        assert np.array_equal(cells[: inner.width, : inner.height], inner.grid.encode())
        assert np.array_equal(env.state[: env.task.grid().size].reshape(env.task.grid().shape), cells)
        assert not cells[inner.width :].any()
        assert not cells[:, inner.height :].any()
        assert (tuple(place), direction) == (tuple(inner.agent_pos), inner.agent_dir)
        assert tuple(carried) == (tuple(inner.carrying.encode()[:2]) if inner.carrying else (0, 0))


def test_a_state_of_another_size_is_refused():
    task = make("BabyAI-GoToLocal-v0").task
    with pytest.raises(ValueError, match=r"a state of 8x8 cells has 198 numbers, got shape \(10,\)"):
        task.achieved(task.goals("train")[0], np.zeros(10))


# Words


def read(text):
    """The grid that a text tells of, as {cell: numbers}, and where the agent is, where it faces and what it carries."""
    place = re.match(r"You are in column (\d+) and row (\d+) and face (\w+)", text)
    x, y, heading = int(place[1]), int(place[2]), HEADINGS.index(place[3])
    carried = re.search(r"You carry an? (\w+) (\w+)", text)
    forward = DIR_TO_VEC[heading]
    grid = {}
    for across, index, first, last in re.findall(r"A wall fills (column|row) (\d+) from \w+ (\d+) to \w+ (\d+)", text):
        line = [(int(index), along) for along in range(int(first), int(last) + 1)]
        grid |= dict.fromkeys(line if across == "column" else [cell[::-1] for cell in line], "wall")
    for column, row in re.findall(r"A wall stands in column (\d+) and row (\d+)", text):
        grid[int(column), int(row)] = "wall"
    for state, colour, kind, where in re.findall(
        r"You see an? (?:(open|closed|locked) )?(\w+) (key|ball|box|door) ([^,]+)", text
    ):
        steps = {way: int(count) for count, way in re.findall(r"(\d+) steps? (\w+)", where)}
        aside = steps.get("right", 0) - steps.get("left", 0)
        ahead = steps.get("forward", 0) - steps.get("back", 0)
        cell = (x + ahead * forward[0] - aside * forward[1], y + ahead * forward[1] + aside * forward[0])
        assert cell not in grid
        grid[cell] = (OBJECT_TO_IDX[kind], COLOR_TO_IDX[colour], STATE_TO_IDX[state or "open"])
    in_hand = (OBJECT_TO_IDX[carried[2]], COLOR_TO_IDX[carried[1]]) if carried else (0, 0)
    return grid, (x, y), heading, in_hand


@pytest.mark.parametrize("level", LEVELS)
def test_the_words_say_all_that_is_in_the_grid_and_where(level):
    """The text of a state can be read back into that state: every object, every wall, and nothing else."""
    wall = OBJECT_TO_IDX["wall"]
    for env, _ in play(level):
        inner = env.env.unwrapped.level
        told, *agent = read(env.task.describe(env.state))
        encoded = inner.grid.encode()
        there = {cell: tuple(encoded[cell]) for cell in np.ndindex(encoded.shape[:2]) if encoded[cell][0] >= wall}
        assert {cell: "wall" if numbers[0] == wall else numbers for cell, numbers in there.items()} == told
        in_hand = tuple(inner.carrying.encode()[:2]) if inner.carrying else (0, 0)
        assert agent == [tuple(inner.agent_pos), inner.agent_dir, in_hand]


def test_equal_grids_are_told_alike_and_a_change_anywhere_is_told():
    told = {}
    for level in LEVELS[:3]:
        for env, _ in play(level):
            text = env.task.describe(env.state)
            assert text == env.task.describe(env.state.copy())
            told.setdefault((level, env.state[:-1].tobytes()), text)
    assert len(set(told.values())) == len(told)


def test_what_a_state_says_word_by_word():
    task = make("BabyAI-GoToObjS4-v0").task
    cells = np.zeros((*task.size, 3))
    cells[..., 0] = OBJECT_TO_IDX["empty"]
    cells[0, :, :2] = cells[:, 0, :2] = cells[3, 3, :2] = OBJECT_TO_IDX["wall"], COLOR_TO_IDX["grey"]
    cells[1, 1] = OBJECT_TO_IDX["door"], COLOR_TO_IDX["red"], STATE_TO_IDX["open"]
    cells[2, 1] = OBJECT_TO_IDX["ball"], COLOR_TO_IDX["green"], 0
    cells[1, 3] = OBJECT_TO_IDX["box"], COLOR_TO_IDX["blue"], 0
    state = np.concatenate([cells.ravel(), [1, 1], [3, OBJECT_TO_IDX["key"], COLOR_TO_IDX["red"], 0]])
    assert task.describe(state.astype(np.float32)).split(", ") == [
        "You are in column 1 and row 1 and face north",
        "You carry a red key",
        "A wall fills column 0 from row 0 to row 3",
        "A wall fills row 0 from column 0 to column 3",
        "A wall stands in column 3 and row 3",
        "You see an open red door where you stand",
        "You see a blue box 2 steps back",
        "You see a green ball 1 step right",
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e6, 0.3])
def test_a_state_of_any_numbers_is_described_and_drawn(value):
    task = make("mixed").task
    state = np.full(366, value, np.float32)
    assert task.describe(state).startswith("You are in column")
    assert task.render_state(state).shape == (8 * 32, 15 * 32, 3)


def test_a_picture_shows_the_grid_from_above():
    env = make("BabyAI-GoToLocal-v0", render_mode="rgb_array")
    env.reset(seed=0)
    seen, drawn = env.render().astype(int), env.task.render_state(env.state).astype(int)
    assert drawn.shape == seen.shape
    # The library lights up what is in view.
    dark = (np.abs(seen - drawn).max(-1) < 2).mean()
    assert dark > 0.3


# Judgement


@pytest.mark.parametrize("level", LEVELS)
def test_real_steps_are_plausible(level):
    for env, action in play(level):
        before = env.state
        env.step(action)
        assert env.task.plausible(before, action, env.state)


def test_what_minigrid_forbids_is_implausible():
    env = make("BabyAI-GoToLocal-v0")
    env.reset(seed=0)
    task, state = env.task, env.state
    place = 8 * 8 * 3

    def changed(**numbers):
        other = state.copy()
        for name, value in numbers.items():
            other[{"x": place, "facing": -4, "carried": -3, "corner": 0, "ball": 3}[name]] = value
        return other

    assert task.plausible(state, GO_FORWARD, state)
    assert not task.plausible(state, GO_FORWARD, changed(x=state[place] + 2))
    assert not task.plausible(state, TOGGLE, changed(x=state[place] + 1))
    assert not task.plausible(state, GO_FORWARD, changed(facing=(state[-4] + 1) % 4))
    assert not task.plausible(state, GO_FORWARD, changed(carried=6))
    assert not task.plausible(state, PICK_UP, changed(corner=1))
    assert not task.plausible(state, GO_FORWARD, changed(ball=6))
    assert not task.plausible(state, GO_FORWARD, changed(ball=2.5))
    assert not task.plausible(state, GO_FORWARD, changed(x=np.nan))

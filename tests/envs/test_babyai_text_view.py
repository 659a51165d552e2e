"""The view and the physics of BabyAI's text environment, against minigrid's own."""

import gymnasium
import numpy as np
import pytest

pytest.importorskip("minigrid")  # which registers its levels

from minigrid.minigrid_env import MiniGridEnv

from envs.babyai import make_text
from envs.babyai.bot import ExpertError, WatchedBot
from envs.babyai.levels import UnknownLevel, level_ids
from envs.babyai.suite import SuiteEnv
from envs.babyai.text_env import CARRIED_COLOUR, CARRIED_KIND, DIRECTION, VERIFIED, LevelEnv
from envs.babyai.view import IMAGE_SIZE

# One room, mazes, locked doors, a key in a box, something carried from the start, strict verdicts, sequences.
LEVELS = (
    "BabyAI-GoToLocal-v0",
    "BabyAI-PutNextLocal-v0",
    "BabyAI-PutNextS5N2Carrying-v0",
    "BabyAI-PickupDistDebug-v0",
    "BabyAI-OpenDoorsOrderN4Debug-v0",
    "BabyAI-KeyInBox-v0",
    "BabyAI-MiniBossLevel-v0",
    "BabyAI-BossLevel-v0",
)
KINDS = {"key": 5, "ball": 6, "box": 7}
COLOURS = {"red": 0, "green": 1, "blue": 2, "purple": 3, "yellow": 4, "grey": 5}
BUSY = (0.1, 0.1, 0.4, 0.15, 0.1, 0.15)  # probabilities of actions that walk about and handle things


def assert_state_is_what_minigrid_shows(env, state):
    level = env.level
    image = MiniGridEnv.gen_obs(level)["image"]
    assert np.array_equal(state[:IMAGE_SIZE], image.ravel())
    assert state[DIRECTION] == level.agent_dir
    carried = level.carrying
    expected = (KINDS[carried.type], COLOURS[carried.color]) if carried else (0, 0)
    assert (state[CARRIED_KIND], state[CARRIED_COLOUR]) == expected


def compare_views(level_id, num_episodes, num_steps):
    env, rng = LevelEnv(level_id), np.random.default_rng(0)
    for seed in range(num_episodes):
        state, _ = env.reset(seed=seed)
        assert_state_is_what_minigrid_shows(env, state)
        for action in rng.choice(6, size=num_steps, p=BUSY).tolist():
            assert_state_is_what_minigrid_shows(env, env.step(action)[0])


@pytest.mark.parametrize("level_id", LEVELS)
def test_the_state_is_what_minigrid_shows(level_id):
    compare_views(level_id, num_episodes=3, num_steps=100)


@pytest.mark.parametrize("level", ["mixed", "BabyAI-GoToLocal-v0"])
def test_the_task_says_where_the_view_lies_in_the_state(level):
    env = make_text(level)
    observation, _ = env.reset(seed=3)
    grid = env.task.grid()
    image = MiniGridEnv.gen_obs(env.env.level)["image"]
    assert grid.shape == image.shape
    assert np.array_equal(observation["state"][grid.start : grid.start + grid.size].reshape(grid.shape), image)


@pytest.mark.slow
@pytest.mark.parametrize("level_id", level_ids())
def test_the_state_is_what_minigrid_shows_on_every_level(level_id):
    compare_views(level_id, num_episodes=5, num_steps=150)


def test_the_state_is_what_minigrid_shows_in_every_place_of_a_level():
    env = LevelEnv("BabyAI-MiniBossLevel-v0")
    env.reset(seed=0)
    level = env.level
    for door_is_open in (True, False):
        for x, y in np.ndindex(level.width, level.height):
            cell = level.grid.get(x, y)
            if cell is not None and cell.type == "door":
                cell.is_open = door_is_open
                env._view.update(level.grid, x, y)
        for x, y, direction in np.ndindex(level.width, level.height, 4):
            level.agent_pos, level.agent_dir = (x, y), direction
            assert_state_is_what_minigrid_shows(env, env._state(False))


def test_the_suite_shows_what_minigrid_shows():
    env, rng = SuiteEnv(), np.random.default_rng(0)
    for seed, goal in enumerate(("goto/red/ball", "pickup_open/blue/key/green/door", "putnext/red/ball/blue/key") * 2):
        state, _ = env.reset(seed=seed, options={"goal": goal})
        assert_state_is_what_minigrid_shows(env, state)
        for action in rng.choice(6, size=60, p=BUSY).tolist():
            assert_state_is_what_minigrid_shows(env, env.step(action)[0])


def actions_of_a_clumsy_bot(stock, seed, max_steps):
    """Actions that get somewhere: the bot's, with some at random between them; at random where it gives up."""
    rng, bot, taken = np.random.default_rng(seed), WatchedBot(stock), None
    for _ in range(max_steps):
        suggested = None
        if bot is not None:
            try:
                suggested = bot.next_action(taken)
            except ExpertError:
                bot = None
        follows = suggested is not None and rng.random() < 0.8
        taken = suggested if follows else int(rng.choice(6, p=BUSY))
        yield taken


def positions(instr):
    parts = [getattr(instr, name) for name in ("instr_a", "instr_b") if hasattr(instr, name)]
    descs = [getattr(instr, name) for name in ("desc", "desc_move", "desc_fixed") if hasattr(instr, name)]
    return [desc.obj_poss for desc in descs] + [place for part in parts for place in positions(part)]


def compare_episodes(level_id, seeds, max_steps):
    """The number of successes, after comparing every step of some episodes with minigrid's own."""
    stock, env, num_successes = gymnasium.make(level_id).unwrapped, LevelEnv(level_id), 0
    for seed in seeds:
        stock.reset(seed=seed)
        _, info = env.reset(seed=seed)
        assert info["mission"] == stock.mission
        for action in actions_of_a_clumsy_bot(stock, seed, min(max_steps, stock.max_steps)):
            observation, reward, terminated, _, _ = stock.step(action)
            state, our_reward, our_terminated, truncated, _ = env.step(action)
            assert np.array_equal(state[:IMAGE_SIZE], observation["image"].ravel())
            assert our_terminated == terminated
            assert our_reward == state[VERIFIED] == (reward > 0)
            assert not truncated
            assert positions(env.level.instrs) == positions(stock.instrs)
            if terminated:
                num_successes += reward > 0
                break
    return num_successes


@pytest.mark.parametrize("level_id", [*LEVELS, "BabyAI-GoToSeqS5R2-v0", "BabyAI-SynthS5R2-v0"])
def test_missions_physics_and_verdicts_are_minigrids(level_id):
    num_successes = compare_episodes(level_id, range(4), max_steps=120)
    assert num_successes or level_id in ("BabyAI-PutNextS5N2Carrying-v0", "BabyAI-KeyInBox-v0")


@pytest.mark.slow
@pytest.mark.parametrize("level_id", level_ids())
def test_missions_physics_and_verdicts_are_minigrids_on_every_level(level_id):
    compare_episodes(level_id, range(100, 110), max_steps=300)


def test_a_verdict_takes_note_of_what_is_carried_from_the_start():
    """A thing carried from the start may be put next to another at once, after nothing but turns."""
    env = LevelEnv("BabyAI-PutNextS5N2Carrying-v0")
    stock = gymnasium.make("BabyAI-PutNextS5N2Carrying-v0").unwrapped
    verdicts = []
    for seed in range(150):
        env.reset(seed=seed)
        stock.reset(seed=seed)
        for action in (0, 4, 1, 3, 2, 4, 3, 1, 4):
            verdicts.append((stock.step(action)[2], env.step(action)[2]))
            if verdicts[-1][0]:
                break
    assert all(stock_verdict == verdict for stock_verdict, verdict in verdicts)
    assert any(verdict for _, verdict in verdicts)


def test_a_reset_prints_nothing_where_minigrid_does(capsys):
    level_id = "BabyAI-PutNextLocal-v0"
    stock = gymnasium.make(level_id).unwrapped
    for seed in range(30):
        stock.reset(seed=seed)
    assert "Sampling rejected" in capsys.readouterr().out
    env = LevelEnv(level_id)
    for seed in range(30):
        env.reset(seed=seed)
    assert capsys.readouterr().out == ""


def test_a_strict_failure_ends_the_episode_without_success():
    env, ends = LevelEnv("BabyAI-PickupDistDebug-v0"), []
    rng = np.random.default_rng(0)
    for seed in range(20):
        env.reset(seed=seed)
        for action in rng.choice(6, size=60, p=BUSY).tolist():
            state, reward, terminated, _, _ = env.step(action)
            if terminated:
                ends.append((reward, state[VERIFIED]))
                break
    assert {(0.0, 0.0), (1.0, 1.0)} == set(ends)


def test_success_counts_however_late():
    """minigrid's reward falls below zero after its own limit on steps, which here is the task's to set."""
    env = LevelEnv("BabyAI-GoToObjS4-v0")
    env.reset(seed=0)
    for _ in range(40):
        _, _, terminated, _, _ = env.step(4)
        assert not terminated
    bot, action, reward = WatchedBot(env.level), None, 0.0
    for _ in range(20):
        action = bot.next_action(action)
        _, reward, terminated, _, _ = env.step(int(action))
        if terminated:
            break
    assert reward == 1.0


def test_an_unknown_level_is_refused_with_the_nearest():
    with pytest.raises(UnknownLevel, match="did you mean BabyAI-GoToLocal-v0"):
        LevelEnv("BabyAI-GoToLocals-v0")


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(ValueError, match="unknown render mode 'human'"):
        LevelEnv("BabyAI-GoToLocal-v0", "human")


def test_the_picture_shows_the_whole_grid():
    env = LevelEnv("BabyAI-GoToLocal-v0", "rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3)
    assert LevelEnv("BabyAI-GoToLocal-v0").render() is None

"""A scripted expert for every family of goals: one push of lookahead in a model of discs with friction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.clevr_robot.env import DIRECTIONS, NUM_ACTIONS
from envs.clevr_robot.scene import BALL_RADIUS, HIGH, LOW, NUM_BALLS
from envs.language import LanguageEnv

PUSH_LENGTH = 0.253  # metres, of an unobstructed push (median of 20,000)
BALL_FRICTION = 0.8  # between two balls, as in the scene
WALL_FRICTION = 0.54  # a push at 45 degrees into a wall slides 0.083 m along it (median of 200), not 0.179 m
BREADTH = 3  # pushes for a composed goal, after each of which a second one is considered
DISCOUNT = 0.95  # on the reward of the second push
CAUTION = 0.5  # a push that promises up to this much less than the best one tried is tried as well, in units of reward
_NUM_SUBSTEPS = 5
_CHUNK = 64  # states whose arrays fit into the processor's cache together

# Arrays here are (2, rows, columns): x and y, then balls or pairs of balls, then every push of every state, so that
# each operation runs over long contiguous rows. The pairs form blocks, the balls in block k being k places apart:
# (rows of the block, first balls, second balls).
_PAIRS = ((slice(0, 4), slice(0, 4), slice(1, 5)), (slice(4, 7), slice(0, 3), slice(2, 5)),
          (slice(7, 9), slice(0, 2), slice(3, 5)), (slice(9, 10), slice(0, 1), slice(4, 5)))  # fmt: skip
_NUM_PAIRS = NUM_BALLS * (NUM_BALLS - 1) // 2
_LOW, _HIGH = (bound.astype(np.float32)[:, None, None] for bound in (LOW, HIGH))
# How the pushed ball moves in one substep, (2, 5, 40).
_STEPS = np.zeros((2, NUM_BALLS, NUM_ACTIONS), np.float32)
_STEPS[:, np.arange(NUM_ACTIONS) // len(DIRECTIONS), np.arange(NUM_ACTIONS)] = np.tile(
    (DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=-1, keepdims=True) * (PUSH_LENGTH / _NUM_SUBSTEPS)).T, NUM_BALLS
)


class ClevrRobotExpert:
    """Takes the push that promises the highest reward, with one step of lookahead, or two for composed goals.

    All 40 pushes are tried in a model of discs that ignores how balls keep rolling. Lines need more precision than
    that: for them, pushes are tried again in the simulator itself, the most promising first, until no remaining push
    promises more. Noise on the rewards and an occasional random push, drawn from the episode's seed and step, keep the
    expert from going in circles.

    Args:
        max_trials: the maximum number of pushes to try in the simulator where precision matters.
        noise: standard deviation of the noise on the rewards, in their units (10 per metre).
        random_fraction: probability of a random push.
    """

    def __init__(self, max_trials: int = 16, noise: float = 0.2, random_fraction: float = 0.1) -> None:
        self.max_trials = max_trials
        self.noise = noise
        self.random_fraction = random_fraction

    def act(self, envs: Sequence[LanguageEnv]) -> list[int]:
        outcomes = predict_pushes(np.stack([env.state for env in envs]))
        return [self._choose(env, outcome) for env, outcome in zip(envs, outcomes, strict=True)]

    def _choose(self, env: LanguageEnv, outcomes: NDArray) -> int:
        rng = np.random.default_rng([env.seed, env.num_steps])
        if rng.random() < self.random_fraction:
            return int(rng.integers(NUM_ACTIONS))
        noise = self.noise * rng.standard_normal(NUM_ACTIONS)
        promised = self._rewards(env, outcomes) + noise
        if env.goal.family == "line":
            return self._try(env, promised, noise)
        if env.goal.split == "hard":
            return self._look_further(env, outcomes, promised)
        return int(promised.argmax())

    def _look_further(self, env: LanguageEnv, outcomes: NDArray, promised: NDArray) -> int:
        """Return the push, among the most promising, that promises most together with the best push after it."""
        best = np.argsort(-promised)[:BREADTH]
        reached = outcomes[best]
        following = env.task.reward(env.goal, reached[:, None], predict_pushes(reached), env.start_state).max(1)
        following[env.task.achieved(env.goal, reached, env.start_state)] = 0.0
        return int(best[(promised[best] + DISCOUNT * following).argmax()])

    def _try(self, env: LanguageEnv, promised: NDArray, noise: NDArray) -> int:
        """Return the best of the pushes tried in the simulator, which takes about a millisecond each."""
        physics: Any = env.env.unwrapped
        best, best_reward = 0, -np.inf
        for action in np.argsort(-promised)[: self.max_trials].tolist():
            if best_reward >= promised[action] + CAUTION:
                break
            reward = float(self._rewards(env, physics.try_push(action)) + noise[action])
            if reward > best_reward:
                best, best_reward = action, reward
        return best

    @staticmethod
    def _rewards(env: LanguageEnv, next_states: NDArray) -> NDArray:
        return env.task.reward(env.goal, env.state, next_states, env.start_state)


def predict_pushes(states: NDArray) -> NDArray[np.float32]:
    """Predict where every push would leave the balls: states (B, 10) -> next states (B, 40, 10), in metres.

    Position-based dynamics (Müller et al., 2007): the pushed ball advances in substeps; overlapping discs each give
    way by half of the overlap; friction holds back slip along a disc or a wall (Macklin et al., 2014, section 6.1).
    Root mean square error of a ball's position: 18 mm after random pushes, 27 mm after the expert's.
    """
    states = np.asarray(states, np.float32)
    return np.concatenate([_push_all(states[i : i + _CHUNK]) for i in range(0, len(states) or 1, _CHUNK)])


def _push_all(states: NDArray) -> NDArray[np.float32]:
    batch = len(states)
    start = states.reshape(batch, NUM_BALLS, 2).transpose(2, 1, 0)[:, :, None]
    positions = np.repeat(start, NUM_ACTIONS, axis=2).reshape(2, NUM_BALLS, -1)
    steps = np.repeat(_STEPS, batch, axis=2)
    slips = _differences(steps)
    for _ in range(_NUM_SUBSTEPS):
        before = positions.copy()
        positions += steps
        _give_way(positions, slips)
        _stay_inside(positions, before)
    ended = np.clip(positions, _LOW, _HIGH).reshape(2, NUM_BALLS, NUM_ACTIONS, batch)
    return ended.transpose(3, 2, 1, 0).reshape(batch, NUM_ACTIONS, 2 * NUM_BALLS)


def _give_way(positions: NDArray, slips: NDArray) -> None:
    """Move overlapping discs apart in place, with friction between them.

    Args:
        slips: how far the first ball of each pair moves past the second in a substep, (2, 10, N).
    """
    normal = _differences(positions)
    distance = np.sqrt(np.maximum(normal[0] * normal[0] + normal[1] * normal[1], np.float32(1e-12)))
    normal /= distance
    share = np.maximum(np.float32(2 * BALL_RADIUS) - distance, 0) * np.float32(0.5)
    grip = share * np.float32(BALL_FRICTION)
    sideways = (normal[0] * slips[1] - normal[1] * slips[0]) * np.float32(0.5)
    held = np.maximum(np.minimum(sideways, grip), -grip)
    push = normal * share
    push[0] += held * normal[1]
    push[1] -= held * normal[0]
    for rows, first, second in _PAIRS:
        positions[:, first] += push[:, rows]
        positions[:, second] -= push[:, rows]


def _stay_inside(positions: NDArray, before: NDArray) -> None:
    """Bring the balls back inside the walls in place; friction with a wall holds back motion along it."""
    inside = np.minimum(np.maximum(positions, _LOW), _HIGH)
    grip = np.abs(positions - inside)[::-1] * np.float32(WALL_FRICTION)
    held = np.maximum(np.minimum(inside - before, grip), -grip)
    np.subtract(inside, held, out=positions)


def _differences(values: NDArray) -> NDArray:
    """Subtract the second ball of each pair from the first: (2, 5, N) -> (2, 10, N)."""
    result = np.empty((2, _NUM_PAIRS, values.shape[-1]), np.float32)
    for rows, first, second in _PAIRS:
        np.subtract(values[:, first], values[:, second], out=result[:, rows])
    return result

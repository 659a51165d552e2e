"""A scripted expert for every family of goals: one push of lookahead in a model of rigid discs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.clevr_robot.env import DIRECTIONS, NUM_ACTIONS
from envs.clevr_robot.scene import BALL_RADIUS, HIGH, LOW, NUM_BALLS
from envs.language import LanguageEnv

PUSH_LENGTH = 0.253  # metres, of an unobstructed push (median of 20,000)
_NUM_SUBSTEPS = 5
_UNIT = DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=-1, keepdims=True)
_MOVER = np.repeat(np.arange(NUM_BALLS), len(DIRECTIONS))
_SELF = np.eye(NUM_BALLS, dtype=bool)
# How much of an overlap ball i yields to ball j, (40, 5, 5): a ball yields all to the pushed one and half to others.
_YIELD = np.full((NUM_ACTIONS, NUM_BALLS, NUM_BALLS), 0.5, np.float32)
_YIELD[np.arange(NUM_ACTIONS), _MOVER] = 0.0
_YIELD[np.arange(NUM_ACTIONS), :, _MOVER] = 1.0


class ClevrRobotExpert:
    """Takes the push with the highest reward, by one step of lookahead.

    All 40 pushes are tried in a model of rigid discs that ignores rolling and friction. Lines need more precision than
    that model has: for them the best pushes are tried once more, in the simulator itself. Noise on the rewards and now
    and then a random push, drawn from the episode's seed and step, keep the expert from walking in circles.

    Args:
        num_trials: how many pushes to try in the simulator where precision matters.
        noise: standard deviation of the noise on the rewards, in their units (10 a metre).
        random_share: probability of a random push.
    """

    def __init__(self, num_trials: int = 16, noise: float = 0.2, random_share: float = 0.1) -> None:
        self.num_trials = num_trials
        self.noise = noise
        self.random_share = random_share

    def act(self, envs: Sequence[LanguageEnv]) -> list[int]:
        outcomes = predict_pushes(np.stack([env.state for env in envs]))
        return [self._choose(env, outcome) for env, outcome in zip(envs, outcomes, strict=True)]

    def _choose(self, env: LanguageEnv, outcomes: NDArray) -> int:
        rng = np.random.default_rng([env.seed, env.num_steps])
        if rng.random() < self.random_share:
            return int(rng.integers(NUM_ACTIONS))
        noise = self.noise * rng.standard_normal(NUM_ACTIONS)
        rewards = self._rewards(env, outcomes) + noise
        if env.goal.family != "line":
            return int(rewards.argmax())
        best = np.argsort(-rewards)[: self.num_trials]
        physics: Any = env.env.unwrapped
        tried = np.stack([physics.try_push(int(action)) for action in best])
        return int(best[(self._rewards(env, tried) + noise[best]).argmax()])

    @staticmethod
    def _rewards(env: LanguageEnv, next_states: NDArray) -> NDArray:
        return env.task.reward(env.goal, env.state, next_states, env.start_state)


def predict_pushes(states: NDArray) -> NDArray[np.float32]:
    """Where every push would leave the balls: states (B, 10) -> next states (B, 40, 10), in metres.

    Balls are discs that give way to the pushed one, and to each other, inside the walls.
    """
    batch = len(states)
    start = np.asarray(states, np.float32).reshape(batch, 1, NUM_BALLS, 2)
    positions = np.repeat(start, NUM_ACTIONS, axis=1)
    step = (np.tile(_UNIT, (NUM_BALLS, 1)) * (PUSH_LENGTH / _NUM_SUBSTEPS)).astype(np.float32)
    low, high = LOW.astype(np.float32), HIGH.astype(np.float32)
    for _ in range(_NUM_SUBSTEPS):
        positions[:, np.arange(NUM_ACTIONS), _MOVER] += step
        np.clip(positions, low, high, out=positions)
        _give_way(positions, _YIELD)
        np.clip(positions, low, high, out=positions)
        _give_way(positions, np.float32(0.5))
    return np.clip(positions, low, high).reshape(batch, NUM_ACTIONS, 2 * NUM_BALLS)


def _give_way(positions: NDArray, share: NDArray | np.float32) -> None:
    """Move overlapping discs apart in place, each by its share of the overlap."""
    offset = positions[..., :, None, :] - positions[..., None, :, :]
    distance = np.sqrt((offset**2).sum(-1))
    distance[..., _SELF] = 1.0
    overlap = np.maximum(0.0, 2 * BALL_RADIUS - distance) * share
    positions += ((overlap / np.maximum(distance, 1e-6))[..., None] * offset).sum(-2)

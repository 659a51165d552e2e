"""Scripted experts: the library's policies, one of them steadier, and two of our own for the composed tasks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from envs.language import LanguageEnv
from envs.meta_world.predicates import STEPS
from envs.meta_world.state import FIRST, HAND, OBSERVATION, OPENING, SECOND, TARGET

Policy: TypeAlias = Callable[[NDArray[np.float64]], NDArray]


class MetaWorldExpert:
    """Follows the policy of the goal's task; nothing is random."""

    def act(self, envs: Sequence[LanguageEnv]) -> list[NDArray[np.float32]]:
        return [expert_action(env.goal.id, env.state) for env in envs]


def expert_action(task: str, state: NDArray) -> NDArray[np.float32]:
    """Return the expert's action (4,) in a state (D,)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Constant")  # says that actions would be clipped, as they are here
        action = _policy(task)(np.array(state, np.float64))  # a copy: some policies write into what they are given
    return np.clip(action, -1.0, 1.0).astype(np.float32)


@cache
def _policy(task: str) -> Policy:
    if task in _OURS:
        return _OURS[task]
    return _library_policy(task)


def _library_policy(task: str) -> Policy:
    make: Callable[[], Any] = ENV_POLICY_MAP[f"{task}-v3"]
    policy = make()
    return lambda state: policy.get_action(state[OBSERVATION])


def _go(state: NDArray, to: NDArray, grip: float, gain: float = 10.0) -> NDArray:
    return np.append(gain * (to - state[HAND]), grip)


def door_lock(state: NDArray) -> NDArray:
    """Act as the library does, but keep pushing the lock until the hand has slipped by 5 cm, where it stops at 2 cm."""
    beside = state[FIRST] + np.array([-0.02, -0.02, 0.0])
    slipped = state[HAND] - beside
    if np.hypot(slipped[0], slipped[1]) < 0.05 and -0.01 < slipped[2] < 0.08:
        return _go(state, beside + np.array([-0.1, 0.0, -0.1]), -1.0, 25.0)
    return _library_policy("door-lock")(state)


def make_coffee(state: NDArray) -> NDArray:
    """Push the mug as in coffee-push, let go sideways, since the fingers close along y, and press the button."""
    hand, mug, place = state[HAND], state[FIRST], state[TARGET]
    front = state[SECOND] + np.array([0.0, 0.0, -0.07])
    before_machine = place[1] - 0.14
    away = np.linalg.norm((mug - place)[:2])  # it hangs above its place while it is held
    if away > (0.06 if state[OPENING] > 0.8 else 0.025):
        return _policy("coffee-push")(state)
    low, near = hand[2] < front[2] - 0.02, hand[1] > before_machine
    if low and near and state[OPENING] < 0.95:
        return _go(state, hand, -1.0)
    if low and near and hand[0] < mug[0] + 0.12:
        return _go(state, hand + np.array([0.1, 0.0, 0.0]), -1.0)
    if low and near:
        return _go(state, np.array([hand[0], before_machine - 0.1, hand[2]]), -1.0)
    if np.abs(hand[[0, 2]] - front[[0, 2]]).max() > 0.02:
        return _go(state, np.array([front[0], before_machine - 0.02, front[2]]), -1.0)
    return _go(state, front + np.array([0.0, 0.2, 0.0]), -1.0)


def locked_door_open(state: NDArray) -> NDArray:
    """Push the bolt up from its left, back away, and open the door as in door-open."""
    hand, bolt, handle = state[HAND], state[FIRST], state[SECOND]
    unlocked = STEPS["locked-door-open"][0].gap(state, state) < 0.018
    beside = bolt + np.array([-0.04, -0.02, -0.03])
    if unlocked and hand[1] > handle[1] - 0.08 and hand[0] < handle[0] - 0.12:
        return _go(state, hand + np.array([0.05, -0.1, 0.0]), 1.0)
    if unlocked:
        seen = state.copy()
        seen[FIRST] = handle
        return _policy("door-open")(seen)
    if np.linalg.norm(hand[:2] - beside[:2]) > 0.02:
        return _go(state, beside, 1.0, 25.0)
    return _go(state, beside + np.array([0.1, 0.0, 0.01]), 1.0, 25.0)


_OURS: dict[str, Policy] = {
    "door-lock": door_lock,
    "make-coffee": make_coffee,
    "locked-door-open": locked_door_open,
}

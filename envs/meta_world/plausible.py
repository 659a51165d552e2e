"""Whether physics could have made a transition of Meta-World, as far as states tell.

The bounds leave a margin around what was measured in 19,800 real transitions of experts, experts with noise and random
actions: the hand moved by at most 3.4 cm in a step, an object by 3.1 cm, or by 0.9 cm while the tool was farther than
25 cm from every object; the tool centre was within 0.5 cm of its place under the hand; the gripper opened or shut by at
most 0.08.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.meta_world.state import BASE, FIRST, FLAGS, HAND, OPENING, PREVIOUS_FRAME, SECOND, TARGET, TOOL, WALL

HAND_LOW, HAND_HIGH = np.array([-0.58, 0.32, -0.03]), np.array([0.58, 1.08, 0.58])
MAX_HAND_STEP = 0.05
MAX_OBJECT_STEP = 0.06
MAX_OPENING_STEP = 0.15
REACH = 0.25  # an object farther from the tool than this moves only by its own momentum
MAX_DRIFT = 0.02
TOOL_OFFSET, TOOL_SLACK = np.array([0.0, 0.0, -0.045]), 0.02
SLACK = 0.02  # of what cannot move at all
MEMORY_SLACK = 0.05  # of positions in the previous frame

_CONSTANT = np.r_[TARGET, BASE, WALL]
_POSITIONS = np.r_[HAND, FIRST, SECOND]
_REMEMBERED = _POSITIONS + PREVIOUS_FRAME.start


def plausible(states: NDArray, next_states: NDArray) -> NDArray[np.bool_]:
    """Return whether nothing jumps, moves by itself or changes if it cannot: (..., D), (..., D) -> (...)."""
    change = next_states - states
    hand, opening, tool = next_states[..., HAND], next_states[..., OPENING], next_states[..., TOOL]
    moved = np.stack([_norm(change[..., part]) for part in (FIRST, SECOND)])
    distances = [_norm(states[..., TOOL] - states[..., part]) for part in (FIRST, SECOND)]
    allowed = np.where(np.minimum(*distances) > REACH, MAX_DRIFT, MAX_OBJECT_STEP)
    rules = (
        np.isfinite(next_states).all(-1),
        ((hand > HAND_LOW) & (hand < HAND_HIGH)).all(-1),
        (opening > -0.05) & (opening < 1.05),
        _norm(change[..., HAND]) < MAX_HAND_STEP,
        np.abs(change[..., OPENING]) < MAX_OPENING_STEP,
        _norm(tool - hand - TOOL_OFFSET) < TOOL_SLACK,
        (moved < allowed).all(0),
        (np.abs(change[..., _CONSTANT]) < SLACK).all(-1),
        (np.abs(change[..., FLAGS]) < 0.5).all(-1),
        (np.abs(next_states[..., _REMEMBERED] - states[..., _POSITIONS]) < MEMORY_SLACK).all(-1),
    )
    return np.logical_and.reduce(rules)


def _norm(offset: NDArray) -> NDArray[np.floating]:
    return np.sqrt((offset * offset).sum(-1))

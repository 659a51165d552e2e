"""The numbers of a Meta-World state: what the library observes, and what it leaves out.

==========  =====================================================================================================
0:39        the library's observation, in metres: a frame of 18 numbers, the previous frame, the target
            (0:3 hand, 3 opening of the gripper (0 shut, 1 open), 4:7 and 7:11 position and quaternion of the first
            object, 11:14 and 14:18 of the second, zeros where there is none)
39:42       the tool centre, between the fingers: `reach` is judged by it, and the hand is 4.4 cm above it
42:45       the base of the fixture (hinge, rail, box), zeros where there is none: opening and closing mean
            different targets and observe different points of a handle, but share the base
45:48       the centre of the wall that stands in the way, zeros where there is none
48:59       which things the objects are, one flag for each of `THINGS`; the first one set is the first object
==========  =====================================================================================================

x grows to the right, y away from the robot, z upwards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HAND = slice(0, 3)
OPENING = 3
FIRST = slice(4, 7)
SECOND = slice(11, 14)
FRAME = slice(0, 18)
PREVIOUS_FRAME = slice(18, 36)
TARGET = slice(36, 39)
OBSERVATION = slice(0, 39)
TOOL = slice(39, 42)
BASE = slice(42, 45)
WALL = slice(45, 48)
FLAGS = slice(48, 59)

# In a scene with two objects, the library's order is the order here.
THINGS = ("puck", "ball", "hammer", "mug", "lock", "button", "coffee button", "door", "window", "faucet", "nail")
STATE_SIZE = FLAGS.stop


def flags(things: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the flags (11,) of a scene with these things."""
    return np.isin(THINGS, things).astype(np.float32)


def things_in(state: NDArray) -> list[str]:
    """Return what the objects of a state (D,) are, first object first; flags of imagined states may be inexact."""
    return [thing for thing, flag in zip(THINGS, state[FLAGS].tolist(), strict=True) if flag > 0.5][:2]

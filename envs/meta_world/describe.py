"""A state of Meta-World in words: where things are, in centimetres, and in which direction from each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from envs.meta_world.state import FIRST, OPENING, SECOND, TARGET, TOOL, WALL, things_in

_NAMES = {
    "lock": "end of the lock",
    "door": "handle of the door",
    "window": "handle of the window",
    "faucet": "handle of the faucet",
    "coffee button": "button of the coffee machine",
}
_WAYS = (("right", "left"), ("ahead", "back"), ("up", "down"))
NOTHING = 0.5  # smaller offsets are not mentioned, centimetres
OPEN, SHUT = 0.9, 0.3  # opening of the gripper; it is 0.26 when the fingers meet


def describe(state: ArrayLike) -> str:
    """Describe a state (D,): gripper, objects, target and wall; right is +x, ahead +y, up +z."""
    state = np.asarray(state)
    centimetres = (100 * state).tolist()
    tool, target, wall = centimetres[TOOL], centimetres[TARGET], centimetres[WALL]
    objects = [
        (_NAMES.get(thing, thing), centimetres[part])
        for thing, part in zip(things_in(state), (FIRST, SECOND), strict=False)
    ]
    sentences = [f"The gripper is {_opening(state[OPENING])} at {_place(tool)}."]
    sentences += [f"The {name} is at {_place(place)}, {_way(tool, place)} from the gripper." for name, place in objects]
    ways = [f"{_way(tool, target)} from the gripper"]
    ways += [f"{_way(place, target)} from the {name}" for name, place in objects]
    sentences.append(f"The target is at {_place(target)}, {' and '.join(ways)}.")
    if any(wall):
        sentences.append(f"A wall stands at {_place(wall)}.")
    return " ".join(sentences)


def _opening(share: float) -> str:
    return "open" if share > OPEN else "shut" if share < SHUT else "half open"


def _place(place: Sequence[float]) -> str:
    x, y, z = (round(number, 1) + 0.0 for number in place)  # without the sign of a negative zero
    return f"({x}, {y}, {z}) cm"


def _way(start: Sequence[float], end: Sequence[float]) -> str:
    parts = [
        f"{abs(to - come):.0f} cm {names[to < come]}"
        for come, to, names in zip(start, end, _WAYS, strict=True)
        if abs(to - come) > NOTHING
    ]
    return ", ".join(parts) or "no way"

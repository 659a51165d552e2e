"""The sentences of BabyAI-Text (Carta et al., 2023, arXiv 2302.02662) for what the agent sees, from the state alone."""

from __future__ import annotations

import numpy as np
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from numpy.typing import NDArray

from envs.babyai.view import AGENT, IMAGE_SIZE, SIZE

NOTHING = "You see nothing"
_WALL = float(OBJECT_TO_IDX["wall"])
_EMPTY = float(OBJECT_TO_IDX["empty"])


def describe(state: NDArray) -> str:
    """Return the sentences of a state, (D,) as laid out by `envs.babyai.text_env`, in one line."""
    return ", ".join(sentences(state)) or NOTHING


def sentences(state: NDArray) -> list[str]:
    """Describe what the agent carries, the unobstructed walls ahead, left and right, then objects from left to right.

    An imagined state may hold any numbers: they are rounded, and what then encodes no object is left out.
    """
    numbers = np.rint(state[: IMAGE_SIZE + 3]).tolist()
    kinds = numbers[0:IMAGE_SIZE:3]
    told = []
    carried = CARRIED.get((numbers[IMAGE_SIZE + 1], numbers[IMAGE_SIZE + 2]))
    if carried:
        told.append(carried)
    for cells in _LINES:
        told.extend(_wall(kinds, cells))
    for cell in [cell for cell, kind in enumerate(kinds) if kind > _WALL and cell != _AGENT_CELL]:
        thing = THINGS.get(tuple(numbers[3 * cell : 3 * cell + 3]))
        if thing:
            told.append(f"{thing} {_PLACES[cell]}")
    return told


def _wall(kinds: list[float], cells: tuple[int, ...]) -> list[str]:
    """Return the sentence about the wall along a line of sight, if it is the first thing there."""
    for cell in cells:
        if kinds[cell] == _WALL:
            return [f"You see a wall {_PLACES[cell]}"]
        if kinds[cell] != _EMPTY:
            break
    return []


def steps(count: int, where: str) -> str:
    """Write a distance in words, such as "2 steps left"."""
    return f"{count} step{'s' if count > 1 else ''} {where}"


def _place(column: int, row: int) -> str:
    aside, ahead = column - AGENT[0], AGENT[1] - row
    parts = [steps(abs(aside), "left" if aside < 0 else "right")] if aside else []
    return " and ".join(parts + ([steps(ahead, "forward")] if ahead else []))


_AGENT_CELL = AGENT[0] * SIZE + AGENT[1]
_PLACES = [_place(column, row) for column in range(SIZE) for row in range(SIZE)]
_AHEAD = tuple(AGENT[0] * SIZE + row for row in reversed(range(AGENT[1])))
_LEFT = tuple(column * SIZE + AGENT[1] for column in reversed(range(AGENT[0])))
_RIGHT = tuple(column * SIZE + AGENT[1] for column in range(AGENT[0] + 1, SIZE))
_LINES = (_AHEAD, _LEFT, _RIGHT)

# The sentences for a carried object, by type and colour, and for a thing in a cell, by type, colour and state.
CARRIED: dict[tuple[float, float], str] = {
    (OBJECT_TO_IDX[kind], number): f"You carry a {colour} {kind}"
    for kind in ("key", "ball", "box")
    for colour, number in COLOR_TO_IDX.items()
}
THINGS: dict[tuple[float, ...], str] = {
    (OBJECT_TO_IDX[kind], number, 0): f"You see a {colour} {kind}"
    for kind in ("key", "ball", "box")
    for colour, number in COLOR_TO_IDX.items()
}
THINGS |= {
    (OBJECT_TO_IDX["door"], number, code): f"You see {'an' if state == 'open' else 'a'} {state} {colour} door"
    for state, code in STATE_TO_IDX.items()
    for colour, number in COLOR_TO_IDX.items()
}

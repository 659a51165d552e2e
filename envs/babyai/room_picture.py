"""Pictures of the room's states, real or imagined, in minigrid's tiles."""

from __future__ import annotations

import numpy as np
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.world_object import WorldObj
from numpy.typing import ArrayLike, NDArray

from envs.babyai.room_state import COLOURS, DOOR_STATES, SIZE, TYPES, decode

TILE_PIXELS = 20


def draw(state: ArrayLike, tile_pixels: int = TILE_PIXELS) -> NDArray[np.uint8]:
    """Draw the room nearest to a state (D,), from above: RGB (H, W, 3), north up. What is carried is in a corner."""
    room = decode(np.asarray(state))
    grid = Grid(SIZE, SIZE)
    grid.wall_rect(0, 0, SIZE, SIZE)
    for index, (kind, cell) in enumerate(zip(room.kinds.tolist(), room.cells.tolist(), strict=True)):
        x, y = (0, 0) if index == room.carried else cell
        grid.set(x, y, _thing(TYPES[kind % len(TYPES)], COLOURS[kind // len(TYPES)]))
    x, y = room.door.tolist()
    grid.set(x, y, _thing("door", COLOURS[room.door_colour], DOOR_STATES[room.door_state]))
    return grid.render(tile_pixels, tuple(room.agent.tolist()), int(room.heading))


def _thing(type_: str, colour: str, state: str = "open") -> WorldObj | None:
    return WorldObj.decode(OBJECT_TO_IDX[type_], COLOR_TO_IDX[colour], STATE_TO_IDX[state])

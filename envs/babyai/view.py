"""What the agent of BabyAI sees, computed directly from the grid.

`minigrid` slices, rotates and encodes a grid of objects for each observation, which is 87 % of its step. Here the grid
is kept as one number per cell. A view gathers 49 of them, and what hides behind walls and closed doors is looked up by
which of the 49 cells let light through. The result is the image of ``gen_obs``, bit for bit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.world_object import WorldObj
from numpy.typing import NDArray

SIZE = 7  # cells along each side of the view
AGENT = (SIZE // 2, SIZE - 1)  # column and row of the agent in its view, which is turned so that it faces up
IMAGE_SIZE = SIZE * SIZE * 3

# A cell as one number: type + 16 * colour + 128 * state. Unseen is 0, empty 1.
_PARTS = (16, 8, 4)
_EMPTY = OBJECT_TO_IDX["empty"]
_WALL = OBJECT_TO_IDX["wall"] + 16 * COLOR_TO_IDX["grey"]
_CODES = np.arange(np.prod(_PARTS))
_CHANNELS = np.stack(np.unravel_index(_CODES, _PARTS, order="F"), -1).astype(np.float32)
_IS_SHUT = (_CHANNELS[:, 0] == OBJECT_TO_IDX["door"]) & (_CHANNELS[:, 2] != STATE_TO_IDX["open"])
_CLEAR = (_CHANNELS[:, 0] != OBJECT_TO_IDX["wall"]) & ~_IS_SHUT
_AGENT_CELL = AGENT[0] * SIZE + AGENT[1]
_MARGIN = SIZE - 1  # cells around the grid that a view may reach


class EgocentricView:
    """A grid of ``width`` x ``height`` cells, seen from inside.

    Call `load` after a reset and `update` for each cell that changes later.
    """

    def __init__(self, width: int, height: int) -> None:
        self._codes = np.full((width + 2 * _MARGIN, height + 2 * _MARGIN), _WALL, np.int16)
        self._inside = self._codes[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        self._row_length = self._codes.shape[1]
        self._offsets = [_offsets(direction, self._row_length) for direction in range(len(DIR_TO_VEC))]

    def load(self, grid: Grid) -> None:
        """Copy a whole grid."""
        codes = [_code(cell) for cell in grid.grid]
        self._inside[:] = np.reshape(codes, (grid.height, grid.width)).T

    def update(self, grid: Grid, x: int, y: int) -> None:
        """Copy one cell."""
        self._inside[x, y] = _code(grid.get(x, y))

    def cells(self) -> NDArray[np.float32]:
        """Return the whole grid, (W, H, 3), as ``Grid.encode`` gives it."""
        return _CHANNELS.take(self._inside, axis=0)

    def image(self, x: int, y: int, direction: int, carrying: WorldObj | None) -> NDArray[np.float32]:
        """Return the 147 numbers of ``gen_obs()["image"].ravel()`` for an agent at (x, y): (column, row, channel)."""
        corner = (x + _MARGIN) * self._row_length + y + _MARGIN
        codes = self._codes.take(self._offsets[direction] + corner)
        codes *= _visible(_CLEAR.take(codes).tobytes())
        codes[_AGENT_CELL] = _code(carrying)
        return _CHANNELS.take(codes, axis=0).ravel()


def _code(cell: WorldObj | None) -> int:
    if cell is None:
        return _EMPTY
    kind, colour, state = cell.encode()
    return kind + 16 * colour + 128 * state


@lru_cache(maxsize=256)
def _offsets(direction: int, row_length: int) -> NDArray[np.int64]:
    """Return the offsets of a view's cells from the agent's, as indices into the flat grid with its margin, (49,)."""
    forward = DIR_TO_VEC[direction]
    right = np.array([-forward[1], forward[0]])
    column, row = (axis[..., None] for axis in np.indices((SIZE, SIZE)))
    cells = (AGENT[1] - row) * forward + (column - AGENT[0]) * right
    return (cells @ [row_length, 1]).ravel()


@lru_cache(maxsize=2**14)
def _visible(clear: bytes) -> NDArray[np.bool_]:
    """Return which cells of a view are seen, (49,), from which let light through: minigrid's ``Grid.process_vis``.

    Light spreads along a row to both sides and from each lit clear cell to the row ahead, in its column and the next.
    """
    lets_through = np.frombuffer(clear, bool).reshape(SIZE, SIZE)
    seen = np.zeros((SIZE, SIZE), bool)
    seen[AGENT] = True
    for row in reversed(range(SIZE)):
        for side, columns in ((1, range(SIZE - 1)), (-1, range(SIZE - 1, 0, -1))):
            for column in columns:
                if seen[column, row] and lets_through[column, row]:
                    seen[column + side, row] = True
                    if row > 0:
                        seen[[column, column + side], row - 1] = True
    flat = seen.ravel()
    flat.setflags(write=False)  # the cache shares it
    return flat

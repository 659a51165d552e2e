"""BabyAI levels with the whole grid observed instead of the agent's view: ``partial=False``.

The state is the grid as minigrid encodes it, three numbers per cell (column, row, channel), then the agent's column and
row, and then what a partial view ends with: direction, type and colour of what is carried, and the verifier's verdict.
If a grid is smaller than the largest of its environment, the cells beyond it are unseen, zeros.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import DIR_TO_VEC, OBJECT_TO_IDX
from minigrid.core.grid import Grid
from numpy.typing import NDArray

from envs.babyai.describe import CARRIED, THINGS, steps
from envs.babyai.levels import make_level
from envs.babyai.room_state import HEADINGS
from envs.babyai.suite import MIXED, ROOM_SIZE, SuiteTask
from envs.babyai.text_env import (
    DIRECTION,
    DROP,
    GO_FORWARD,
    HIGHEST_CELL,
    HIGHEST_TAIL,
    PICK_UP,
    TURN_LEFT,
    TURN_RIGHT,
    BabyAITextEnv,
)
from envs.babyai.text_task import TILE, BabyAITextTask, LevelTask
from envs.goals import Goal
from envs.language import StateGrid

Size = tuple[int, int]  # columns and rows

SUITE_SIZE: Size = (2 * ROOM_SIZE - 1, ROOM_SIZE)  # two rooms share a wall
_WALL = OBJECT_TO_IDX["wall"]
_FORWARD = np.array(DIR_TO_VEC)
_TAIL_SIZE = len(HIGHEST_TAIL)


def level_size(level_id: str) -> Size:
    """Return the columns and rows of a registered level.

    Raises:
        UnknownLevel: no BabyAI level is registered under this id.
    """
    level = make_level(level_id)
    return level.width, level.height


class WholeGridEnv(gymnasium.ObservationWrapper):
    """A BabyAI environment that shows its whole grid.

    Args:
        env: an environment whose levels are at most as large as ``size``.
    """

    def __init__(self, env: BabyAITextEnv, size: Size) -> None:
        super().__init__(env)
        self._size = size
        high = np.concatenate([np.tile(HIGHEST_CELL, size[0] * size[1]), np.subtract(size, 1), HIGHEST_TAIL])
        self.observation_space = spaces.Box(np.zeros_like(high, np.float32), high.astype(np.float32))

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the state (D,), given that of the partial view."""
        physics = self.unwrapped
        assert isinstance(physics, BabyAITextEnv)
        cells, whole = physics.cells(), np.zeros((*self._size, 3), np.float32)
        whole[: cells.shape[0], : cells.shape[1]] = cells
        return np.concatenate([whole.ravel(), physics.level.agent_pos, observation[DIRECTION:]]).astype(np.float32)


class Parts(NamedTuple):
    """The parts of states (..., D), as views of them."""

    cells: NDArray  # (..., W, H, 3)
    place: NDArray  # (..., 2)
    direction: NDArray  # (...)
    carried: NDArray  # (..., 2)
    verified: NDArray  # (...)


def split(states: NDArray, size: Size) -> Parts:
    """Split states into their parts.

    Raises:
        ValueError: the states have another size.
    """
    states, num_cells = np.asarray(states), 3 * size[0] * size[1]
    expected = num_cells + 2 + _TAIL_SIZE
    if states.shape[-1] != expected:
        raise ValueError(f"a state of {size[0]}x{size[1]} cells has {expected} numbers, got shape {states.shape}")
    return Parts(
        cells=states[..., :num_cells].reshape(*states.shape[:-1], *size, 3),
        place=states[..., num_cells : num_cells + 2],
        direction=states[..., -4],
        carried=states[..., -3:-1],
        verified=states[..., -1],
    )


def _rounded(state: NDArray, size: Size) -> Parts:
    """Split a state (D,) of any numbers into parts with whole numbers and the agent somewhere on the grid."""
    state = np.rint(state)
    parts = split(state if np.isfinite(state).all() else np.nan_to_num(state), size)
    place = np.clip(parts.place, 0, np.subtract(size, 1))
    return parts._replace(place=place, direction=parts.direction % len(HEADINGS))


def describe_whole(state: NDArray, size: Size) -> str:
    """Describe the agent's place, what it carries, where walls run, and all objects from left to right as it sees them.

    Objects are described as in `envs.babyai.describe`, with "back" for those behind the agent. An imagined state may
    hold any numbers: they are rounded, and what then encodes no object is left out.
    """
    parts = _rounded(state, size)
    (x, y), heading = parts.place.tolist(), int(parts.direction)
    told = [f"You are in column {x:.0f} and row {y:.0f} and face {HEADINGS[heading]}"]
    carried = CARRIED.get(tuple(parts.carried.tolist()))
    told += [carried] if carried else []
    told += _walls((parts.cells[..., 0] == _WALL).tobytes(), size)
    return ", ".join(told + _things(parts, _FORWARD[heading]))


def _things(parts: Parts, forward: NDArray) -> list[str]:
    """Describe the objects from left to right and from far to near."""
    columns, rows = np.nonzero(parts.cells[..., 0] > _WALL)
    offsets = np.stack([columns, rows], -1) - parts.place
    aside, back = (offsets @ (-forward[1], forward[0])).tolist(), (-offsets @ forward).tolist()
    things = sorted(zip(aside, back, parts.cells[columns, rows].tolist(), strict=True))
    named = ((THINGS.get(tuple(numbers)), _place(x, y)) for x, y, numbers in things)
    return [f"{thing} {place}" for thing, place in named if thing]


@lru_cache(maxsize=4096)
def _place(aside: float, back: float) -> str:
    across = [steps(int(abs(aside)), "left" if aside < 0 else "right")] if aside else []
    along = [steps(int(abs(back)), "forward" if back < 0 else "back")] if back else []
    return " and ".join(across + along) or "where you stand"


@lru_cache(maxsize=1024)
def _walls(is_wall: bytes, size: Size) -> list[str]:
    """Describe straight walls, columns before rows, and then walls of a single cell; from (W, H) booleans."""
    walls = np.frombuffer(is_wall, bool).reshape(size)
    told, in_a_run = [], np.zeros(size, bool)
    for across, along, lines, marked in (("column", "row", walls, in_a_run), ("row", "column", walls.T, in_a_run.T)):
        for index, line in enumerate(lines):
            for first, last in _runs(line):
                told.append(f"A wall fills {across} {index} from {along} {first} to {along} {last}")
                marked[index, first : last + 1] = True
    return told + [f"A wall stands in column {x} and row {y}" for x, y in np.argwhere(walls & ~in_a_run)]


def _runs(line: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first and last index of each run of at least two."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(int)))
    return [(first, end - 1) for first, end in edges.reshape(-1, 2).tolist() if end - first > 1]


class _SeenWhole(BabyAITextTask):
    """The parts of a task that differ for whole grids."""

    size: Size

    def describe(self, state: NDArray) -> str:
        return describe_whole(state, self.size)

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        return split(states, self.size).verified > 0.5

    def plausible(self, states: NDArray, actions: NDArray, next_states: NDArray) -> NDArray[np.bool_]:
        """Return whether each transition changes only what its action can.

        Cells are meaningful whole numbers; turns turn, and steps go ahead or nowhere; hands change only by picking up
        or dropping; and nothing changes on the grid except what is ahead of a hand at work.
        """
        before, after = split(states, self.size), split(next_states, self.size)
        actions = np.asarray(actions).astype(int)
        cells = after.cells
        meaningful = ((cells == np.rint(cells)) & (cells >= 0) & (cells <= HIGHEST_CELL)).all((-3, -2, -1))
        turn = (actions == TURN_RIGHT).astype(int) - (actions == TURN_LEFT)
        turned = (before.direction + turn) % 4 == after.direction
        step = _FORWARD[np.nan_to_num(before.direction).astype(int) % 4]
        moved = after.place - before.place
        went = (moved == 0).all(-1) | ((moved == step).all(-1) & (actions == GO_FORWARD))
        kept = (before.carried == after.carried).all(-1) | (actions == PICK_UP) | (actions == DROP)
        touched = self._is_at(before.place + step) & (actions >= PICK_UP)[..., None, None]
        still = ((before.cells == after.cells).all(-1) | touched).all((-2, -1))
        return np.isfinite(next_states).all(-1) & meaningful & turned & went & kept & still

    def grid(self) -> StateGrid:
        """Return the whole grid."""
        return StateGrid(0, (*self.size, 3))

    def render_state(self, state: NDArray) -> NDArray[np.uint8]:
        """Draw the grid from above, (32 H, 32 W, 3)."""
        parts = _rounded(state, self.size)
        grid, _ = Grid.decode(np.clip(parts.cells, 0, HIGHEST_CELL).astype(np.uint8))
        return grid.render(TILE, tuple(parts.place.astype(int)), agent_dir=int(parts.direction))

    def _is_at(self, places: NDArray) -> NDArray[np.bool_]:
        """Return which cell of the grid each place is, (..., 2) -> (..., W, H)."""
        cells = np.moveaxis(np.indices(self.size), 0, -1)
        return (cells == places[..., None, None, :]).all(-1)


class WholeLevelTask(_SeenWhole, LevelTask):
    """`LevelTask` with the whole grid observed."""

    def __init__(self, level_id: str, horizon: int | None = None) -> None:
        super().__init__(level_id, horizon)
        self.size = level_size(level_id)


class WholeSuiteTask(_SeenWhole, SuiteTask):
    """`SuiteTask` with the whole grid observed."""

    def __init__(self, family: str = MIXED, horizon: int | None = None) -> None:
        super().__init__(family, horizon)
        self.size = SUITE_SIZE

"""One room with four objects and a door: the physics of minigrid, without goals and without images."""

from __future__ import annotations

import difflib
import sys
from typing import Any

import numpy as np
from gymnasium import spaces
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Ball, Box, Door, Key, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from envs.babyai.room_picture import draw
from envs.babyai.room_state import (
    COLOURS,
    DOOR_STATES,
    KINDS,
    NUM_OBJECTS,
    SIZE,
    STATE_SIZE,
    TYPES,
    Kind,
    Rooms,
    encode,
)

RESET_OPTIONS = ("objects", "door", "door_states", "key_in_hand")


class SealedBox(Box):
    """A box that cannot be opened: minigrid's own vanishes when it is toggled while empty."""

    def toggle(self, env: MiniGridEnv, pos: tuple[int, int]) -> bool:
        return False


class Doorway(Door):
    """A door that nobody walks through, since the grid ends there."""

    def can_overlap(self) -> bool:
        return False


_CLASSES = {"ball": Ball, "box": SealedBox, "key": Key}


class RoomEnv(MiniGridEnv):
    """An 8x8 room, walls included, fully observed.

    State: float32 (69,), see `envs.babyai.room_state`. Action: minigrid's seven native ones; ``done`` does nothing.
    A step is minigrid's own, without the image, which would take nine tenths of its time.

    ``reset`` takes the options ``objects`` (kinds that must be present, as (colour, type)), ``door`` (its colour),
    ``door_states`` (one of them is drawn; all three by default) and ``key_in_hand`` (whether the agent begins with
    the key in hand if the door is locked). The key of a locked door is always in the room.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render mode {render_mode!r}: the room renders to 'rgb_array'")
        super().__init__(
            MissionSpace(lambda: ""), grid_size=SIZE, max_steps=sys.maxsize, render_mode=render_mode, highlight=False
        )
        self.mission = ""
        bound = SIZE / 2
        self.observation_space = spaces.Box(-bound, bound, (STATE_SIZE,), np.float32)
        self.objects: list[WorldObj] = []
        self.kinds: list[int] = []
        self.door = Doorway(COLOURS[0])
        self._options: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Furnish the room.

        Raises:
            ValueError: an unknown option, or more objects than fit.
        """
        self._options = dict(options or {})
        for name in self._options:
            if name not in RESET_OPTIONS:
                near = difflib.get_close_matches(name, RESET_OPTIONS, n=1) or RESET_OPTIONS
                raise ValueError(f"unknown reset option {name!r}: did you mean {' or '.join(near)}?")
        _, info = super().reset(seed=seed)
        if self._options.get("key_in_hand") and self.door.is_locked:
            self._put_key_in_hand()
        return self.gen_obs(), info

    def gen_obs(self) -> NDArray[np.float32]:
        """Return the state vector, where minigrid makes an image."""
        held = [index for index, thing in enumerate(self.objects) if thing is self.carrying]
        cells = [self.agent_pos if thing is self.carrying else thing.cur_pos for thing in self.objects]
        state = "open" if self.door.is_open else "locked" if self.door.is_locked else "closed"
        return encode(
            Rooms(
                agent=np.array(self.agent_pos),
                heading=np.array(self.agent_dir),
                kinds=np.array(self.kinds),
                cells=np.array(cells),
                carried=np.array(held[0] if held else -1),
                door=np.array(self.door.cur_pos),
                door_colour=np.array(COLOURS.index(self.door.color)),
                door_state=np.array(DOOR_STATES.index(state)),
            )
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the room from above, (H, W, 3)."""
        return draw(self.gen_obs()) if self.render_mode == "rgb_array" else None

    def _gen_grid(self, width: int, height: int) -> None:
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        rng = self.np_random
        threshold = self._hang_door(rng)
        self.kinds = self._draw_kinds(rng)
        inside = [(x, y) for x in range(1, width - 1) for y in range(1, height - 1)]
        self.agent_pos, self.agent_dir = inside[rng.integers(len(inside))], int(rng.integers(4))
        places = [inside[i] for i in rng.permutation(len(inside)) if inside[i] not in (self.agent_pos, threshold)]
        self.objects = [_CLASSES[TYPES[kind % len(TYPES)]](COLOURS[kind // len(TYPES)]) for kind in self.kinds]
        for thing in self.objects:
            self.put_obj(thing, *places.pop())

    def _hang_door(self, rng: np.random.Generator) -> tuple[int, int]:
        """Put a door into one of the walls and return the cell in front of it."""
        colour = self._options.get("door") or COLOURS[rng.integers(len(COLOURS))]
        states = self._options.get("door_states") or DOOR_STATES
        state = states[rng.integers(len(states))]
        self.door = Doorway(colour, is_open=state == "open", is_locked=state == "locked")
        along, last = int(rng.integers(1, SIZE - 1)), SIZE - 1
        walls = (((last, along), (last - 1, along)), ((along, last), (along, last - 1)),
                 ((0, along), (1, along)), ((along, 0), (along, 1)))  # fmt: skip
        cell, threshold = walls[rng.integers(4)]
        self.put_obj(self.door, *cell)
        return threshold

    def _draw_kinds(self, rng: np.random.Generator) -> list[int]:
        """Draw the required objects and some others, each kind once, in random order."""
        wanted: list[Kind] = list(self._options.get("objects", ()))
        if self.door.is_locked and (self.door.color, "key") not in wanted:
            wanted.append((self.door.color, "key"))
        if len(wanted) > NUM_OBJECTS:
            raise ValueError(f"{len(wanted)} objects are asked for, {NUM_OBJECTS} have a place: {wanted}")
        kinds = [KINDS.index(kind) for kind in wanted]
        others = [kind for kind in rng.permutation(len(KINDS)).tolist() if kind not in kinds]
        kinds += others[: NUM_OBJECTS - len(kinds)]
        return [kinds[index] for index in rng.permutation(NUM_OBJECTS)]

    def _put_key_in_hand(self) -> None:
        key = next(thing for thing in self.objects if (thing.color, thing.type) == (self.door.color, "key"))
        self.carrying = key  # type: ignore[assignment]  # minigrid declares it None
        self.grid.grid[self.grid.grid.index(key)] = None

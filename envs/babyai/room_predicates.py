"""What the goals of the room ask for: whether one is reached, and how many actions away it is.

A cost is the length of the shortest plan by breadth-first search, obstacles included; for goals of several parts it is
the length of the whole chain. So in every state one of the seven actions lowers it, turning included, and one step of
lookahead is enough to follow it. Only two things are estimated: putting down what is in the way, and what remains once
the next object of an arrangement is in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.babyai.room_paths import FAR, INSIDE, Table, around, bits, to_act, to_face, to_stand
from envs.babyai.room_state import COLOURS, KINDS, NUM_OBJECTS, SIZE, Kind, Rooms, decode

LOST = 99  # the cost of a goal that cannot be reached from here, actions
ARRANGED = 30  # at least what bringing one object to its place takes, actions
DETOUR = 6  # around an object that was put down, actions

OPEN, CLOSED, LOCKED = range(3)
# The cells along each wall, and the four in the middle.
WALLS = {
    "north": 0x7E << 8,
    "east": INSIDE & 0x4040404040404040,
    "south": 0x7E << 48,
    "west": INSIDE & 0x0202020202020202,
}
CENTRE = 0x18 << 24 | 0x18 << 32


class Scene(NamedTuple):
    """One room as the predicates see it; cells and poses are numbered as in `envs.babyai.room_paths`.

    Attributes:
        pose: the agent's pose.
        free: the cells with nothing in them; the agent's own counts as free.
        cells: the cells of the objects on the floor, by kind.
        held: the kind that is carried, or -1.
        door: the door's cell.
        door_colour, door_state: as in `envs.babyai.room_state`.
    """

    pose: int
    free: int
    cells: dict[int, int]
    held: int
    door: int
    door_colour: int
    door_state: int


class Judge:
    """What a goal of one family asks for."""

    def achieved(self, scene: Scene) -> bool:
        raise NotImplementedError

    def plan(self, scene: Scene) -> int:
        """Return the length of the plan, `FAR` or more if there is none."""
        raise NotImplementedError

    def cost(self, scene: Scene) -> int:
        """Count the actions until the goal is reached, `LOST` if it cannot be."""
        return 0 if self.achieved(scene) else min(self.plan(scene), LOST)


class GoTo(Judge):
    """The agent faces the object from the cell before it."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def achieved(self, scene: Scene) -> bool:
        return self.plan(scene) == 0

    def plan(self, scene: Scene) -> int:
        if scene.held == self.kind:
            return _lay_down(scene)
        return self.table(scene)[scene.pose]

    def table(self, scene: Scene) -> Table:
        return to_face(scene.free, _bit(scene.cells.get(self.kind)))


class PickUp(Judge):
    """The agent carries the object."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def achieved(self, scene: Scene) -> bool:
        return scene.held == self.kind

    def plan(self, scene: Scene) -> int:
        return _empty_handed(scene) + self.table(scene)[scene.pose]

    def table(self, scene: Scene) -> Table:
        return to_face(scene.free, _bit(scene.cells.get(self.kind)), then=1)


class OpenDoor(Judge):
    """The door of this colour is open."""

    def __init__(self, colour: int) -> None:
        self.colour = colour
        self.key = KINDS.index((COLOURS[colour], "key"))

    def achieved(self, scene: Scene) -> bool:
        return scene.door_state == OPEN and scene.door_colour == self.colour

    def plan(self, scene: Scene) -> int:
        if scene.door_colour != self.colour:
            return FAR
        if scene.door_state == CLOSED or scene.held == self.key:
            return to_face(scene.free, 1 << scene.door, then=1)[scene.pose]
        if self.key not in scene.cells:
            return FAR
        key = scene.cells[self.key]
        after = to_face(scene.free | 1 << key, 1 << scene.door, then=1)
        return _empty_handed(scene) + to_act(scene.free, key, after)[scene.pose]


class OpenThen(Judge):
    """The door is open, and the object is reached or carried."""

    def __init__(self, colour: int, then: GoTo | PickUp) -> None:
        self.door, self.then = OpenDoor(colour), then

    def achieved(self, scene: Scene) -> bool:
        return self.door.achieved(scene) and self.then.achieved(scene)

    def plan(self, scene: Scene) -> int:
        if self.door.achieved(scene):
            return self.then.plan(scene)
        if scene.held == self.then.kind or scene.door_state == LOCKED:
            return self.door.plan(scene) + (0 if self.then.achieved(scene) else ARRANGED)
        if scene.door_colour != self.door.colour:
            return FAR
        hands = _empty_handed(scene) if isinstance(self.then, PickUp) else 0
        return hands + to_act(scene.free, scene.door, self.then.table(scene))[scene.pose]


class PutNext(Judge):
    """Both objects lie on the floor in neighbouring cells; the plan moves the first."""

    def __init__(self, kind: int, other: int) -> None:
        self.kind, self.other = kind, other

    def achieved(self, scene: Scene) -> bool:
        cells = scene.cells
        if self.kind not in cells or self.other not in cells:
            return False
        return bool(around(1 << cells[self.kind]) >> cells[self.other] & 1)

    def plan(self, scene: Scene) -> int:
        cells = scene.cells
        if scene.held in (self.kind, self.other):
            still = self.other if scene.held == self.kind else self.kind
            return to_face(scene.free, around(_bit(cells.get(still))) & scene.free, then=1)[scene.pose]
        if self.kind not in cells or self.other not in cells:
            return FAR
        return _empty_handed(scene) + _bring(scene, cells[self.kind], around(1 << cells[self.other]))


class Stand(Judge):
    """The agent stands in one of these cells."""

    def __init__(self, cells: int) -> None:
        self.cells = cells

    def achieved(self, scene: Scene) -> bool:
        return bool(self.cells >> (scene.pose & 63) & 1)

    def plan(self, scene: Scene) -> int:
        return to_stand(scene.free, self.cells)[scene.pose]


class Arrange(Judge):
    """Three objects lie on the floor in one of these shapes, in any order."""

    def __init__(self, shape: str, kinds: tuple[int, ...]) -> None:
        self.shape, self.kinds = shape, kinds

    def achieved(self, scene: Scene) -> bool:
        if not all(kind in scene.cells for kind in self.kinds):
            return False
        first, second, third = (scene.cells[kind] for kind in self.kinds)
        return bool(_thirds(self.shape, first, second) >> third & 1)

    def plan(self, scene: Scene) -> int:
        if not all(kind in scene.cells or kind == scene.held for kind in self.kinds):
            return FAR
        if scene.held in self.kinds:
            last, next_to_last = self._places(scene, scene.held, scene.free)
            return min(
                to_face(scene.free, last, then=1)[scene.pose],
                ARRANGED + to_face(scene.free, next_to_last, then=1)[scene.pose],
            )
        options = []
        for kind in self.kinds:
            cell = scene.cells[kind]
            last, next_to_last = self._places(scene, kind, scene.free | 1 << cell)
            options += [_bring(scene, cell, last), ARRANGED + _bring(scene, cell, next_to_last & ~(1 << cell))]
        return _empty_handed(scene) + min(options)

    def _places(self, scene: Scene, kind: int, free: int) -> tuple[int, int]:
        """Return where to put down one of the three: to finish the shape, or to leave only one object to move."""
        others = [scene.cells[other] for other in self.kinds if other != kind]
        return _thirds(self.shape, *others) & free, _union(_seconds(self.shape, cell, free) for cell in others)


@lru_cache(maxsize=4096)
def find_predicate(goal_id: str) -> Judge:
    """Return the predicate of a goal."""
    family, *names = goal_id.split("/")
    if family == "wall":
        return Stand(WALLS[names[0]])
    if family == "centre":
        return Stand(CENTRE)
    door = names.pop(0) if family in ("open", "unlock", "opengoto", "openpickup") else ""
    kinds = tuple(KINDS.index(kind) for kind in pairs(names))
    if family in ("open", "unlock"):
        return OpenDoor(COLOURS.index(door))
    if family == "opengoto":
        return OpenThen(COLOURS.index(door), GoTo(*kinds))
    if family == "openpickup":
        return OpenThen(COLOURS.index(door), PickUp(*kinds))
    if family in ("line", "pile"):
        return Arrange(family, kinds)
    return {"goto": GoTo, "pickup": PickUp, "putnext": PutNext}[family](*kinds)


def find_scenes(states: NDArray) -> Iterable[Scene]:
    """Return the rooms nearest to states (..., D), one by one. Recent single states are cached: a step asks often."""
    states = np.asarray(states, np.float32)
    return (_lone_scene(states.tobytes()),) if states.ndim == 1 else _scenes(decode(states))


@lru_cache(maxsize=256)
def _lone_scene(state: bytes) -> Scene:
    return next(_scenes(decode(np.frombuffer(state, np.float32))))


def _scenes(rooms: Rooms) -> Iterator[Scene]:
    poses = (64 * rooms.heading + _number(rooms.agent)).ravel().tolist()
    kinds = rooms.kinds.reshape(-1, NUM_OBJECTS).tolist()
    cells = _number(rooms.cells).reshape(-1, NUM_OBJECTS).tolist()
    rest = (part.ravel().tolist() for part in (rooms.carried, _number(rooms.door), rooms.door_colour, rooms.door_state))
    for pose, row_kinds, row_cells, carried, *door in zip(poses, kinds, cells, *rest, strict=True):
        held = row_kinds[carried] if carried >= 0 else -1
        lying = {kind: cell for kind, cell in zip(row_kinds, row_cells, strict=True) if kind != held}
        yield Scene(pose, INSIDE & ~_union(1 << cell for cell in lying.values()), lying, held, *door)


def _number(cells: NDArray) -> NDArray:
    return cells[..., 0] + SIZE * cells[..., 1]


def pairs(names: Sequence[str]) -> tuple[Kind, ...]:
    """Return the kinds in a list of colour, type, colour, type, ..."""
    return tuple((names[i], names[i + 1]) for i in range(0, len(names), 2))


def _bit(cell: int | None) -> int:
    return 0 if cell is None else 1 << cell


def _lay_down(scene: Scene) -> int:
    """Count the actions until what is carried lies on the floor, anywhere."""
    return to_face(scene.free, scene.free, then=1)[scene.pose]


def _empty_handed(scene: Scene) -> int:
    """Estimate the actions to put down what is carried, including the way around it."""
    return 0 if scene.held < 0 else _lay_down(scene) + DETOUR


def _bring(scene: Scene, cell: int, places: int) -> int:
    """Count the actions until the object in a cell lies in one of some places."""
    free = scene.free | 1 << cell
    return to_act(scene.free, cell, to_face(free, places & free, then=1))[scene.pose]


def _union(masks: Iterable[int]) -> int:
    """Return the union of some sets of cells."""
    union = 0
    for mask in masks:
        union |= mask
    return union


@lru_cache
def _shapes(shape: str) -> tuple[frozenset[int], ...]:
    """List every place of a shape in the room as three cells: a row or column without gaps, or three of a 2x2 block."""
    inside = range(1, SIZE - 1)
    offsets = [(0, 1, 2), (0, 8, 16)] if shape == "line" else [(0, 1, 8), (0, 1, 9), (0, 8, 9), (1, 8, 9)]
    placed = [{8 * y + x + offset for offset in three} for y in inside for x in inside for three in offsets]
    return tuple(frozenset(cells) for cells in placed if all(INSIDE >> cell & 1 for cell in cells))


@lru_cache(1 << 13)
def _thirds(shape: str, first: int, second: int) -> int:
    """Return the cells that complete the shape together with two others."""
    if first == second:
        return 0
    return _union(1 << cell for cells in _shapes(shape) if {first, second} <= cells for cell in cells - {first, second})


@lru_cache(1 << 15)
def _seconds(shape: str, first: int, free: int) -> int:
    """Return the free cells that, with another cell, leave a free cell that completes the shape."""
    return _union(1 << cell for cell in bits(free) if _thirds(shape, first, cell) & free)

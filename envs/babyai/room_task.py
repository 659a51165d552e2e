"""The goals of the room and their predicates, rewards and texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.babyai import room_phrasings as phrasings
from envs.babyai.room_predicates import LOST, WALLS, Scene, find_predicate, find_scenes, pairs
from envs.babyai.room_state import (
    COLOURS,
    DERIVED,
    DOOR_STATES,
    HEADINGS,
    KINDS,
    NUM_OBJECTS,
    SIZE,
    TYPES,
    Kind,
    Rooms,
    decode,
    project,
)
from envs.goals import Goal, GoalSet, Split
from envs.language import Expert, InvalidAction, LanguageTask

ACTION_TEXTS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle", "done")
SUCCESS_BONUS = 10.0
NUM_ARRANGED = 120  # lines, and as many piles
# Actions after which an episode is truncated, and the least number of actions from a start to its goal.
HORIZONS = {"goto": 40, "open": 40, "pickup": 40, "putnext": 64, "wall": 20, "centre": 16,
            "opengoto": 64, "openpickup": 64, "unlock": 64, "line": 96, "pile": 96}  # fmt: skip
START_COSTS = {"goto": 4, "open": 4, "pickup": 4, "wall": 5, "centre": 5}
# The states in which the door may begin if the goal is about it.
DOOR_STARTS = {
    "open": ("closed", "locked"),
    "unlock": ("locked",),
    "opengoto": ("closed",),
    "openpickup": ("closed",),
}
TOLERANCE = 0.4  # how far a number of a plausible state may be from that of the nearest valid one


class BabyAIRoomTask(LanguageTask):
    """Eleven families of goals over a room with four objects and a door, where <object> is <colour>/<type>.

    - train, rephrase: ``goto/<object>``: the agent faces it from the next cell; ``open/<colour>``: the door is open
      (it begins closed, or locked with its key in the agent's hand); ``pickup/<object>``: the agent carries it;
      ``putnext/<object>/<object>``: both lie on the floor in cells that share a side.
    - easy: ``opengoto/<colour>/<object>``, ``openpickup/<colour>/<object>``: the door, closed at first, is open and
      the object faced or carried; ``wall/<side>``: the agent is in a cell along this wall; ``centre``: in one of the
      four cells in the middle.
    - hard: ``unlock/<colour>``: the door, locked at first, is open; ``line/...`` and ``pile/...``: three objects lie in
      a row or column without gaps, or within a block of two by two cells.

    The reward of a transition is ``cost(s) - cost(s') + 10 * achieved(s')``, where the cost is the length of the
    shortest known plan, in actions.
    """

    def __init__(self) -> None:
        self.goal_set = GoalSet(_goals())

    def describe(self, state: NDArray) -> str:
        (scene,) = find_scenes(state)
        heading, cell = divmod(scene.pose, SIZE**2)
        return " ".join(
            [
                f"You are at {_place(cell)}, facing {HEADINGS[heading]}.",
                f"You carry {'the ' + _name(scene.held) if scene.held >= 0 else 'nothing'}.",
                *(f"The {_name(kind)} is {_offset(cell, at)}, at {_place(at)}." for kind, at in scene.cells.items()),
                f"The {COLOURS[scene.door_colour]} door in the {_wall(scene.door)} is {DOOR_STATES[scene.door_state]}.",
            ]
        )

    def action_texts(self, state: NDArray) -> tuple[str, ...]:
        return ACTION_TEXTS

    def parse_action(self, text: str) -> int:
        words = " ".join(re.sub(r"[^a-z ]", " ", text.lower()).split())
        if words not in ACTION_TEXTS:
            raise InvalidAction(f"no action is called {text!r}; the actions are: {', '.join(ACTION_TEXTS)}")
        return ACTION_TEXTS.index(words)

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        return _map(find_predicate(goal.id).achieved, states, bool)

    def cost(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.floating]:
        """Count the actions from each state to the goal, (..., D) -> (...)."""
        return _map(find_predicate(goal.id).cost, states, np.float32)

    def reward(
        self, goal: Goal, states: NDArray, next_states: NDArray, start: NDArray | None = None
    ) -> NDArray[np.floating]:
        after = self.cost(goal, next_states)
        return self.cost(goal, states) - after + SUCCESS_BONUS * (after == 0)

    def horizon(self, goal: Goal) -> int:
        return HORIZONS[goal.family]

    def is_valid_start(self, goal: Goal, states: NDArray) -> NDArray[np.bool_]:
        cost = self.cost(goal, states)
        return (cost >= START_COSTS.get(goal.family, 1)) & (cost < LOST)

    def plausible(self, states: NDArray, actions: NDArray, next_states: NDArray) -> NDArray[np.bool_]:
        """Return whether each next state is near a valid one and within reach of one action.

        At most one step and a quarter turn; nothing moves except what is carried; kinds stay; a locked door opens only
        with its key. Approximate states are judged as the rooms nearest to them.
        """
        before, after = decode(states), decode(next_states)
        valid = (np.abs(np.asarray(next_states) - project(next_states)) < TOLERANCE)[..., ~DERIVED].all(-1)
        stepped = np.abs(after.agent - before.agent).sum(-1) <= 1
        turned = (after.heading - before.heading) % len(HEADINGS) != 2
        moved = np.abs(after.cells - before.cells).sum(-1)
        objects = np.arange(NUM_OBJECTS)
        in_hand = (before.carried[..., None] == objects) | (after.carried[..., None] == objects)
        still = (moved <= in_hand).all(-1)
        kept = (after.kinds == before.kinds).all(-1) & (after.door == before.door).all(-1)
        same_door = after.door_colour == before.door_colour
        return valid & stepped & turned & still & kept & same_door & _unlocked_by_key(before, after)

    def project(self, states: NDArray) -> NDArray[np.floating]:
        states = np.asarray(states)
        return np.where(np.isfinite(states).all(-1, keepdims=True), project(states), states)

    def render_state(self, state: NDArray) -> NDArray[np.uint8]:
        from envs.babyai.room_picture import draw

        return draw(state)

    def expert(self) -> Expert:
        from envs.babyai.room_expert import RoomExpert

        return RoomExpert()

    def reset_options(self, goal: Goal) -> dict[str, Any]:
        family, *names = goal.id.split("/")
        if family in ("wall", "centre"):
            return {}
        if family not in DOOR_STARTS:
            return {"objects": pairs(names)}
        options = {"door": names[0], "door_states": DOOR_STARTS[family], "objects": pairs(names[1:])}
        return options | ({"key_in_hand": True} if family == "open" else {})


def _map(judge: Callable[[Scene], Any], states: NDArray, dtype: type) -> NDArray:
    """Apply a function of scenes to each state: (..., D) -> (...)."""
    states = np.asarray(states)
    return np.fromiter(map(judge, find_scenes(states)), dtype, states[..., 0].size).reshape(states.shape[:-1])


def _unlocked_by_key(before: Rooms, after: Rooms) -> NDArray[np.bool_]:
    """Return whether the door's lock is unchanged, or was opened by the key in the agent's hand."""
    locked = DOOR_STATES.index("locked")
    was, is_now = before.door_state == locked, after.door_state == locked
    kind = np.take_along_axis(before.kinds, np.maximum(before.carried, 0)[..., None], -1)[..., 0]
    key = before.door_colour * len(TYPES) + TYPES.index("key")
    return (was == is_now) | (was & (before.carried >= 0) & (kind == key))


def _name(kind: int) -> str:
    return " ".join(KINDS[kind])


def _place(cell: int) -> str:
    return f"column {cell % SIZE}, row {cell // SIZE}"


def _offset(here: int, there: int) -> str:
    """Say where a cell is from another, such as "2 steps east and 1 step north of you"."""
    east, south = there % SIZE - here % SIZE, there // SIZE - here // SIZE
    parts = [_steps(east, "east", "west"), _steps(south, "south", "north")]
    return " and ".join(part for part in parts if part) + " of you"


def _steps(count: int, ahead: str, back: str) -> str:
    if not count:
        return ""
    return f"{abs(count)} step{'' if abs(count) == 1 else 's'} {ahead if count > 0 else back}"


def _wall(door: int) -> str:
    row, column = divmod(door, SIZE)
    if column in (0, SIZE - 1):
        return f"{'east' if column else 'west'} wall, at row {row},"
    return f"{'south' if row else 'north'} wall, at column {column},"


def _goals() -> Iterator[Goal]:
    for colour in COLOURS:
        yield from _both("open", (colour,), phrasings.open_door(colour), phrasings.open_rephrase(colour))
        yield Goal(f"unlock/{colour}", "unlock", "hard", phrasings.unlock(colour))
    for kind in KINDS:
        yield from _both("goto", kind, phrasings.goto(kind), phrasings.goto_rephrase(kind))
        yield from _both("pickup", kind, phrasings.pickup(kind), phrasings.pickup_rephrase(kind))
    for x, y in permutations(KINDS, 2):
        yield from _both("putnext", (*x, *y), phrasings.putnext(x, y), phrasings.putnext_rephrase(x, y))
    for colour, kind in product(COLOURS, KINDS):
        names = "/".join((colour, *kind))
        yield Goal(f"opengoto/{names}", "opengoto", "easy", phrasings.open_then_goto(colour, kind))
        yield Goal(f"openpickup/{names}", "openpickup", "easy", phrasings.open_then_pickup(colour, kind))
    for side in WALLS:
        yield Goal(f"wall/{side}", "wall", "easy", phrasings.wall(side))
    yield Goal("centre", "centre", "easy", phrasings.CENTRE)
    for number, (family, say) in enumerate((("line", phrasings.line), ("pile", phrasings.pile))):
        for kinds in _triples(number):
            names = "/".join(name for kind in kinds for name in kind)
            yield Goal(f"{family}/{names}", family, "hard", say(*kinds))


def _both(family: str, names: tuple[str, ...], train: tuple[str, ...], rephrase: tuple[str, ...]) -> Iterator[Goal]:
    """Yield a goal for each of the splits train and rephrase."""
    splits: tuple[tuple[Split, tuple[str, ...]], ...] = (("train", train), ("rephrase", rephrase))
    for split_, said in splits:
        yield Goal("/".join((family, *names)), family, split_, said)


def _triples(seed: int) -> list[tuple[Kind, ...]]:
    """Draw a fixed sample of triples of different objects."""
    every = list(combinations(KINDS, 3))
    chosen = np.random.default_rng(seed).choice(len(every), NUM_ARRANGED, replace=False)
    return [every[index] for index in chosen]

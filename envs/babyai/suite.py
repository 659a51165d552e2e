"""The mixed suite of GLAM (Carta et al., 2023): five families of tasks in an 8x8 room, with held-out pairs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations, product
from typing import Any

import numpy as np
from minigrid.core.constants import COLOR_NAMES
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import (
    ActionInstr,
    BeforeInstr,
    GoToInstr,
    ObjDesc,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)

from envs.babyai.levels import lean
from envs.babyai.modifiers import MODIFIERS, modify
from envs.babyai.text_env import HELD_OUT, BabyAITextEnv
from envs.babyai.text_task import BabyAITextTask
from envs.goals import Goal, GoalSet, unknown

Thing = tuple[str, str]  # colour and kind
Clause = tuple[str, tuple[Thing, ...]]  # a verb of `VERBS` and what it is about

MIXED = "mixed"
ROOM_SIZE = 8
NUM_DISTRACTORS = 8
NUM_COMPOSED = 60  # goals in each family of `hard`
KINDS = ("ball", "box", "key")

VERBS = {
    "goto": "go to the {}",
    "pickup": "pick up the {}",
    "putnext": "put the {} next to the {}",
    "open": "open the {}",
}
# The clauses of each family's missions, in order.
FAMILIES = {
    "goto": ("goto",),
    "pickup": ("pickup",),
    "putnext": ("putnext",),
    "open": ("open",),
    "sequence": ("pickup", "goto"),
}
COMPOSITIONS = {
    "pickup_pickup": ("pickup", "pickup"),
    "pickup_open": ("pickup", "open"),
    "putnext_goto": ("putnext", "goto"),
}
# The compositions that are the hard goals of a family on its own.
_HARD_FOR = {
    "goto": ("putnext_goto",),
    "pickup": ("pickup_pickup", "pickup_open"),
    "putnext": ("putnext_goto",),
    "open": ("pickup_open",),
    "sequence": ("pickup_pickup", "pickup_open", "putnext_goto"),
}
HORIZONS = {"goto": 32, "pickup": 64, "putnext": 128, "open": 128, "sequence": 128}
HORIZONS |= dict.fromkeys(COMPOSITIONS, 192)


class SuiteLevel(RoomGridLevel):
    """An 8x8 room with the things that the mission names, eight distractors that it does not name, and the agent.

    Missions that open a door have a second room behind it; the door is locked and its key lies in the first room.
    Set ``clauses`` before ``reset``.
    """

    def __init__(self, num_rooms: int) -> None:
        self.clauses: tuple[Clause, ...] = ()
        super().__init__(room_size=ROOM_SIZE, num_rows=1, num_cols=num_rooms)

    def gen_mission(self) -> None:
        self.place_agent(0, 0)
        named = {thing for _, things in self.clauses for thing in things}
        for colour, _ in sorted(thing for thing in named if thing[1] == "door"):
            self.add_door(0, 0, 0, colour, locked=True)
            named.add((colour, "key"))
        for colour, kind in sorted(thing for thing in named if thing[1] != "door"):
            self.add_object(0, 0, kind, colour)
        self._add_distractors(named)
        self.check_objs_reachable()
        first, *rest = [_instruction(clause) for clause in self.clauses]
        self.instrs = BeforeInstr(first, rest[0]) if rest else first

    def _add_distractors(self, named: set[Thing]) -> None:
        others = [pair for pair in product(COLOR_NAMES, KINDS) if pair not in named]
        for _ in range(NUM_DISTRACTORS):
            colour, kind = self._rand_elem(others)
            self.add_object(0, 0, kind, colour)


def _instruction(clause: Clause) -> ActionInstr:
    verb, things = clause
    kinds = {"goto": GoToInstr, "pickup": PickupInstr, "putnext": PutNextInstr, "open": OpenInstr}
    return kinds[verb](*(ObjDesc(kind, colour) for colour, kind in things))


class SuiteEnv(BabyAITextEnv):
    """The levels of the suite. ``reset(options={"goal": id})`` names the goal to make a level for."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self._levels = {num_rooms: lean(SuiteLevel)(num_rooms) for num_rooms in (1, 2)}

    def _begin(self, seed: int, options: dict[str, Any]) -> Any:
        clauses = clauses_of(options["goal"])
        level = self._levels[2 if any(verb == "open" for verb, _ in clauses) else 1]
        level.clauses = clauses
        level.reset(seed=seed)
        return level


class SuiteTask(BabyAITextTask):
    """Goals such as ``goto/red/ball``, ``putnext/red/ball/blue/key`` or ``sequence/red/ball/blue/key``.

    - train: the five families over all colour-object pairs except `HELD_OUT`, in BabyAI's words.
    - rephrase: the same goals rephrased by the modifiers of `envs.babyai.modifiers`.
    - easy: the five families over missions that name a held-out pair.
    - hard: new compositions: pick up two objects, pick up and then open a door, put next to and then go to.

    Args:
        family: one of `FAMILIES`, or ``mixed`` for all.
        horizon: the number of steps after which an episode is truncated; by default `HORIZONS` of the goal's family.
    """

    def __init__(self, family: str = MIXED, horizon: int | None = None) -> None:
        if family not in (MIXED, *FAMILIES):
            raise ValueError(unknown("family of BabyAI tasks", family, (MIXED, *FAMILIES)))
        super().__init__(f"the suite {family!r}")
        self._horizon = horizon
        self.goal_set = GoalSet(_goals(tuple(FAMILIES) if family == MIXED else (family,)))

    def horizon(self, goal: Goal) -> int:
        return self._horizon or HORIZONS[goal.family]

    def reset_options(self, goal: Goal) -> dict[str, Any]:
        return {"goal": goal.id}


@lru_cache(maxsize=4096)
def clauses_of(goal_id: str) -> tuple[Clause, ...]:
    """Return what a goal asks for, clause by clause."""
    family, *words = goal_id.split("/")
    things = iter(list(zip(words[::2], words[1::2], strict=True)))
    verbs = (FAMILIES | COMPOSITIONS)[family]
    return tuple((verb, tuple(next(things) for _ in range(VERBS[verb].count("{}")))) for verb in verbs)


def phrasings(goal_id: str) -> tuple[str, ...]:
    """Return the goal in BabyAI's words: one phrasing, or two where one clause comes after another."""
    said = [VERBS[verb].format(*(" ".join(thing) for thing in things)) for verb, things in clauses_of(goal_id)]
    if len(said) == 1:
        return (said[0],)
    first, second = said
    return f"{first}, then {second}", f"{second} after you {first}"


def _goals(families: tuple[str, ...]) -> Iterator[Goal]:
    for family in families:
        for goal_id, is_held_out in _missions(family, FAMILIES[family]):
            words = phrasings(goal_id)
            if is_held_out:
                yield Goal(goal_id, family, "easy", words)
                continue
            yield Goal(goal_id, family, "train", words)
            modified = tuple(modify(said, name) for name in MODIFIERS for said in words)
            yield Goal(goal_id, family, "rephrase", modified)
    for composition in COMPOSITIONS:
        if any(composition in _HARD_FOR[family] for family in families):
            yield from _composed_goals(composition)


def _composed_goals(family: str) -> Iterator[Goal]:
    """Yield a fixed sample of the new compositions, over pairs known from training."""
    known = [goal_id for goal_id, is_held_out in _missions(family, COMPOSITIONS[family]) if not is_held_out]
    for i in np.random.default_rng(0).permutation(len(known))[:NUM_COMPOSED]:
        yield Goal(known[i], family, "hard", phrasings(known[i]))


def _missions(family: str, verbs: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Yield the id of each mission of a family, and whether it names a held-out pair. No thing is named twice."""
    objects = list(product(COLOR_NAMES, KINDS))
    num_objects = sum(VERBS[verb].count("{}") for verb in verbs if verb != "open")
    doors: list[tuple[Thing, ...]] = [((colour, "door"),) for colour in COLOR_NAMES] if "open" in verbs else [()]
    for things, door in product(permutations(objects, num_objects), doors):
        named = (*things, *door)
        yield "/".join([family, *(word for thing in named for word in thing)]), any(x in HELD_OUT for x in named)

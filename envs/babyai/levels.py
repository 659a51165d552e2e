"""The levels of BabyAI, without the slow parts of minigrid that nothing here needs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from minigrid.core.actions import Actions
from minigrid.core.constants import DIR_TO_VEC
from minigrid.core.roomgrid import RoomGrid
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel
from minigrid.envs.babyai.core.verifier import GoToInstr, Instr, ObjDesc, SeqInstr
from minigrid.minigrid_env import MiniGridEnv

from envs.goals import unknown

_FORWARD = [(int(dx), int(dy)) for dx, dy in DIR_TO_VEC]


class UnknownLevel(ValueError):
    """A level that does not exist."""


def level_ids() -> list[str]:
    """Return the ids of all registered BabyAI levels."""
    import minigrid  # noqa: F401 (registers them)

    return [name for name in gymnasium.registry if name.startswith("BabyAI-")]


def make_level(level_id: str) -> Any:
    """Create a registered level that draws as minigrid's does, without making images or printing.

    Raises:
        UnknownLevel: no BabyAI level is registered under this id.
    """
    if level_id not in level_ids():
        raise UnknownLevel(unknown("BabyAI level", level_id, level_ids()))
    spec: EnvSpec = gymnasium.spec(level_id)
    level_class: Any = load_env_creator(str(spec.entry_point))
    return lean(level_class)(**spec.kwargs)


@lru_cache(maxsize=256)
def lean(level_class: type[RoomGridLevel]) -> Any:
    """Derive a level class without minigrid's overhead."""
    return type(level_class.__name__, (_LeanLevel, level_class), {})


class _LeanLevel(RoomGridLevel):
    """A level that makes no images, prints nothing at reset, and checks only where something may have changed.

    It draws the same levels as minigrid from the same seeds, and its verifier reaches the same verdicts.
    """

    instrs: Any
    _tracked: tuple[ObjDesc, ...] = ()
    _destinations: frozenset[tuple[int, int]] = frozenset()

    def reset(self, **kwargs: Any) -> Any:
        result = super().reset(**kwargs)
        self._tracked = tuple(desc for instr in _leaves(self.instrs) for desc in _descriptions(instr))
        for desc in self._tracked:
            for thing, place in zip(desc.obj_set, desc.obj_poss, strict=True):
                thing.cur_pos = place  # "the grey object" also means walls, which do not know their place
        self._find_destinations()
        return result

    def step(self, action: Any) -> Any:
        """Step as in RoomGridLevel, with reward 1 for success."""
        result = MiniGridEnv.step(self, action)
        if action == Actions.drop:
            self.update_objs_poss()
        # A turn or a step can only fulfil "go to". The first verdict also records what is carried from the start.
        if action <= Actions.forward and self.front_pos not in self._destinations and self.step_count > 1:
            return result
        status = self.instrs.verify(action)
        return result[0], float(status == "success"), status != "continue", *result[3:]

    @property
    def front_pos(self) -> tuple[int, int]:
        (x, y), (dx, dy) = self.agent_pos, _FORWARD[self.agent_dir]
        return int(x) + dx, int(y) + dy

    def gen_obs(self) -> dict[str, Any]:
        return {}

    def _gen_grid(self, width: int, height: int) -> None:
        # As in RoomGridLevel, which prints a line for each mission rejected.
        while True:
            try:
                RoomGrid._gen_grid(self, width, height)
                self.gen_mission()
                self.validate_instrs(self.instrs)
                break
            except (RecursionError, RejectSampling):
                continue
        self.surface = self.mission = self.instrs.surface(self)

    def check_objs_reachable(self, raise_exc: bool = True) -> bool:
        """Check that every object is next to where the agent can walk, as RoomGridLevel does, with cells as numbers."""
        kinds, width = [thing.type if thing else None for thing in self.grid.grid], self.grid.width
        x, y = self.agent_pos
        reached, waiting = set(), [int(y) * width + int(x)]
        while waiting:
            cell = waiting.pop()
            if cell in reached or not 0 <= cell < len(kinds):
                continue
            reached.add(cell)
            if kinds[cell] in (None, "door"):
                waiting += (cell - 1, cell + 1, cell - width, cell + width)
        if all(cell in reached or kind in (None, "wall") for cell, kind in enumerate(kinds)):
            return True
        if raise_exc:
            raise RejectSampling("unreachable object")
        return False

    def update_objs_poss(self, instr: Instr | None = None) -> None:
        """Update the positions without RoomGridLevel's scan of the whole grid for each description and each drop."""
        for desc in self._tracked:
            # Sorted as a scan would find them, since the bot chooses the first of the nearest.
            desc.obj_poss = sorted(tuple(thing.cur_pos) for thing in desc.obj_set if self._holds(thing))
        self._find_destinations()

    def _holds(self, thing: WorldObj) -> bool:
        x, y = thing.cur_pos  # type: ignore[misc]  # set by reset
        return x >= 0 and self.grid.get(x, y) is thing

    def _find_destinations(self) -> None:
        goto = (instr for instr in _leaves(self.instrs) if isinstance(instr, GoToInstr))
        self._destinations = frozenset(place for instr in goto for place in instr.desc.obj_poss)


def _leaves(instr: Instr) -> Iterator[Instr]:
    if isinstance(instr, SeqInstr):
        yield from _leaves(instr.instr_a)
        yield from _leaves(instr.instr_b)
    else:
        yield instr


def _descriptions(instr: Instr) -> list[ObjDesc]:
    return [getattr(instr, name) for name in ("desc", "desc_move", "desc_fixed") if hasattr(instr, name)]

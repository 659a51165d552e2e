"""The language tasks of BabyAI: for all levels, and for the registered ones, whose mission is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.envs.babyai.core.levelgen import LevelGen
from numpy.typing import NDArray

from envs.babyai.describe import describe
from envs.babyai.levels import make_level
from envs.babyai.modifiers import COMPOSED, INVENTED, MODIFIERS, modifiers_of, modify
from envs.babyai.text_env import (
    ACTION_TEXTS,
    CARRIED_COLOUR,
    CARRIED_KIND,
    DIRECTION,
    DROP,
    PICK_UP,
    STATE_SIZE,
    TURN_LEFT,
    TURN_RIGHT,
    VERIFIED,
)
from envs.babyai.view import AGENT, IMAGE_SIZE, SIZE
from envs.goals import SPLITS, Goal, GoalSet
from envs.language import Expert, InvalidAction, LanguageTask, StateGrid

# Levels whose missions name no colour-object pair, or always the same one: they have no new goals to hold out.
FIXED_MISSIONS = frozenset((
    "BabyAI-GoToRedBallGrey-v0", "BabyAI-GoToRedBall-v0", "BabyAI-GoToRedBallNoDists-v0", "BabyAI-GoToRedBlueBall-v0",
    "BabyAI-OpenRedDoor-v0", "BabyAI-OpenDoorLoc-v0", "BabyAI-OpenRedBlueDoors-v0", "BabyAI-OpenRedBlueDoorsDebug-v0",
    "BabyAI-UnlockLocal-v0", "BabyAI-UnlockLocalDist-v0", "BabyAI-KeyInBox-v0", "BabyAI-BlockedUnlockPickup-v0",
    "BabyAI-UnlockToUnlock-v0", "BabyAI-FindObjS5-v0", "BabyAI-FindObjS6-v0", "BabyAI-FindObjS7-v0",
    "BabyAI-KeyCorridor-v0", "BabyAI-KeyCorridorS3R1-v0", "BabyAI-KeyCorridorS3R2-v0", "BabyAI-KeyCorridorS3R3-v0",
    "BabyAI-KeyCorridorS4R3-v0", "BabyAI-KeyCorridorS5R3-v0", "BabyAI-KeyCorridorS6R3-v0", "BabyAI-OneRoomS8-v0",
    "BabyAI-OneRoomS12-v0", "BabyAI-OneRoomS16-v0", "BabyAI-OneRoomS20-v0",
))  # fmt: skip
TILE = 32  # pixels along each side of a cell in a picture
_MISSION = re.compile(r"\{(?:unseen_)?mission(?::([a-z_+]+))?\}")
_TURNS = np.array([{TURN_LEFT: -1, TURN_RIGHT: 1}.get(action, 0) for action in range(len(ACTION_TEXTS))])
_LARGEST = np.tile([OBJECT_TO_IDX["agent"] - 1, max(COLOR_TO_IDX.values()), 2], SIZE * SIZE)


class BabyAITextTask(LanguageTask):
    """The texts, actions and predicates that all levels share; states are laid out by `envs.babyai.text_env`.

    A goal is achieved in a state that records that the library's verifier found the mission fulfilled; the reward is 1
    for the step that fulfils it.

    Args:
        level_id: the level named in messages and given to the expert.
    """

    def __init__(self, level_id: str) -> None:
        self.level_id = level_id

    def describe(self, state: NDArray) -> str:
        return describe(state)

    def action_texts(self, state: NDArray) -> tuple[str, ...]:
        return ACTION_TEXTS

    def parse_action(self, text: str) -> int:
        words = " ".join(re.findall(r"[a-z]+", text.lower()))
        if words not in ACTION_TEXTS:
            raise InvalidAction(f"no action is called {text!r}; there are: {', '.join(ACTION_TEXTS)}")
        return ACTION_TEXTS.index(words)

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        return _checked(states)[..., VERIFIED] > 0.5

    def reward(
        self, goal: Goal, states: NDArray, next_states: NDArray, start: NDArray | None = None
    ) -> NDArray[np.floating]:
        return self.achieved(goal, next_states).astype(np.float32)

    def phrasing_kind(self, phrasing: str) -> str:
        """Return the modifiers that a phrasing came from, joined by ``+``; empty for BabyAI's own words."""
        template = _MISSION.search(phrasing)
        return template[1] or "" if template else modifiers_of(phrasing)

    def plausible(self, states: NDArray, actions: NDArray, next_states: NDArray) -> NDArray[np.bool_]:
        """Return whether cells are meaningful whole numbers, turns turn, and hands change only by pick-ups or drops."""
        before, after, actions = _checked(states), _checked(next_states), np.asarray(actions).astype(int)
        image = after[..., :IMAGE_SIZE]
        meaningful = ((image == np.rint(image)) & (image >= 0) & (image <= _LARGEST)).all(-1)
        turned = (before[..., DIRECTION] + _TURNS[actions]) % 4 == after[..., DIRECTION]
        hands = slice(CARRIED_KIND, CARRIED_COLOUR + 1)
        kept = (before[..., hands] == after[..., hands]).all(-1) | (actions == PICK_UP) | (actions == DROP)
        return np.isfinite(after).all(-1) & meaningful & turned & kept

    def grid(self) -> StateGrid:
        """Return the agent's view."""
        return StateGrid(0, (SIZE, SIZE, IMAGE_SIZE // SIZE**2))

    def render_state(self, state: NDArray) -> NDArray[np.uint8]:
        """Draw the agent's view, facing up, (224, 224, 3); what it cannot see is dark."""
        image = np.clip(np.rint(np.nan_to_num(_checked(state)[:IMAGE_SIZE])), 0, _LARGEST).astype(np.uint8)
        grid, visible = Grid.decode(image.reshape(SIZE, SIZE, 3))
        return grid.render(TILE, AGENT, agent_dir=3, highlight_mask=visible)

    def expert(self) -> Expert:
        from envs.babyai.bot import BabyAIExpert

        return BabyAIExpert(self.level_id)


class LevelTask(BabyAITextTask):
    """A registered level, whose mission is drawn with the start: one goal per split, to do what the mission says.

    - train: missions without the five colour-object pairs `HELD_OUT`, in BabyAI's words.
    - rephrase: the same missions under one modifier each.
    - easy: missions that name a held-out pair, in BabyAI's words.
    - hard: missions that name a held-out pair, under two modifiers at once.

    Where missions name no pair, or always the same one (`FIXED_MISSIONS`), nothing new can be asked for. All splits
    then ask for the same missions, in ever stranger words: rephrase in synonyms and other phrasings, easy in two of
    these at once, hard in invented words.

    Args:
        level_id: such as ``BabyAI-GoToLocal-v0``.
        horizon: the number of steps after which an episode is truncated; by default `level_horizon`.
    """

    def __init__(self, level_id: str, horizon: int | None = None) -> None:
        super().__init__(level_id)
        self._horizon = horizon or level_horizon(level_id)
        self._is_fixed = level_id in FIXED_MISSIONS
        self.goal_set = _level_goals(level_id, self._is_fixed)

    def horizon(self, goal: Goal) -> int:
        return self._horizon

    def reset_options(self, goal: Goal) -> dict[str, Any] | None:
        return None if self._is_fixed else {"held_out": goal.split in ("easy", "hard")}

    def render_instruction(self, phrasing: str, info: dict[str, Any]) -> str:
        """Replace ``{mission}`` in the phrasing by the mission drawn, ``{mission:nouns}`` by it with other nouns."""

        def said(match: re.Match[str]) -> str:
            return modify(info["mission"], match[1]) if match[1] else info["mission"]

        return _MISSION.sub(said, phrasing)


def _level_goals(level_id: str, is_fixed: bool) -> GoalSet:
    name = level_id.removeprefix("BabyAI-")
    goals: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("mission", _templates("mission")),
        ("mission", _templates("mission", MODIFIERS)),
        ("held_out", _templates("unseen_mission")),
        ("held_out_reworded", _templates("unseen_mission", (*COMPOSED, *INVENTED))),
    )
    if is_fixed:
        synonyms = [modifier for modifier in MODIFIERS if not modifier.startswith("invented")]
        goals = (
            ("mission", _templates("mission")),
            ("mission", _templates("mission", synonyms)),
            ("reworded", _templates("mission", COMPOSED)),
            ("invented", _templates("mission", INVENTED)),
        )
    return GoalSet(
        Goal(f"{name}/{kind}", name, split, phrasings) for split, (kind, phrasings) in zip(SPLITS, goals, strict=True)
    )


def _templates(what: str, modifiers: Iterable[str] = ()) -> tuple[str, ...]:
    return tuple(f"{{{what}:{names}}}" for names in modifiers) or (f"{{{what}}}",)


def level_horizon(level_id: str) -> int:
    """Return the most steps that a registered level allows any mission.

    ``num_navs_needed`` of its instruction times what it allows for one; for generated levels, that of the longest
    possible instruction.
    """
    level = make_level(level_id)
    level.reset(seed=0)
    if not isinstance(level, LevelGen):
        return int(level.max_steps)
    of_an_action = 2 if "putnext" in level.action_kinds else 1
    num_actions = {"action": 1, "and": 2, "seq": 4}
    longest = max(num_actions[kind] for kind in level.instr_kinds) * of_an_action
    return int(longest * level.room_size**2 * level.num_rows * level.num_cols)


def _checked(states: NDArray) -> NDArray:
    states = np.asarray(states)
    if states.shape[-1] != STATE_SIZE:
        raise ValueError(f"a state of BabyAI has {STATE_SIZE} numbers, got shape {states.shape}")
    return states

"""A scripted expert for every family of goals in the room: it follows the shortest plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.babyai.room_paths import CELL_STEPS
from envs.babyai.room_predicates import CLOSED, LOCKED, OPEN, Scene, find_predicate, find_scenes
from envs.babyai.room_state import COLOURS, KINDS
from envs.language import LanguageEnv

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)


class RoomExpert:
    """Takes the action after which the goal is the fewest actions away.

    If no action brings it closer, which happens only after random actions, one that keeps it as close is drawn from
    the episode's seed and step.
    """

    def act(self, envs: Sequence[LanguageEnv]) -> list[int]:
        return [_choose(env) for env in envs]


def _choose(env: LanguageEnv) -> int:
    (scene,) = find_scenes(env.state)
    judge = find_predicate(env.goal.id)
    costs = [judge.cost(outcome(scene, action)) for action in range(6)]
    best = [action for action, cost in enumerate(costs) if cost == min(costs)]
    if len(best) == 1 or min(costs) < judge.cost(scene):
        return best[0]
    return int(np.random.default_rng([env.seed, env.num_steps]).choice(best))


def outcome(scene: Scene, action: int) -> Scene:
    """Return the scene after an action, as minigrid would change it."""
    heading, cell = divmod(scene.pose, 64)
    ahead = cell + CELL_STEPS[heading]
    is_free = bool(scene.free >> ahead & 1)
    if action in (LEFT, RIGHT):
        return scene._replace(pose=64 * ((heading + (1 if action == RIGHT else -1)) % 4) + cell)
    if action == FORWARD and is_free:
        return scene._replace(pose=64 * heading + ahead)
    if action == PICK_UP and scene.held < 0:
        return _pick_up(scene, ahead)
    if action == DROP and scene.held >= 0 and is_free:
        return scene._replace(free=scene.free ^ 1 << ahead, cells=scene.cells | {scene.held: ahead}, held=-1)
    if action == TOGGLE and ahead == scene.door:
        return scene._replace(door_state=_toggled(scene))
    return scene


def _pick_up(scene: Scene, cell: int) -> Scene:
    for kind, place in scene.cells.items():
        if place == cell:
            left = {other: where for other, where in scene.cells.items() if other != kind}
            return scene._replace(free=scene.free | 1 << cell, cells=left, held=kind)
    return scene


def _toggled(scene: Scene) -> int:
    if scene.door_state != LOCKED:
        return CLOSED if scene.door_state == OPEN else OPEN
    has_key = scene.held >= 0 and KINDS[scene.held] == (COLOURS[scene.door_colour], "key")
    return OPEN if has_key else LOCKED

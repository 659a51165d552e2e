"""States of Meta-World made by hand, and which tasks stand in which split."""

import numpy as np

from envs.meta_world.state import BASE, FIRST, FLAGS, HAND, OPENING, SECOND, STATE_SIZE, TARGET, TOOL, WALL, flags
from envs.meta_world.task import MetaWorldTask

TASK = MetaWorldTask()
TRAIN = {
    *("reach", "push", "pick-place", "button-press", "door-unlock"),
    *("door-open", "window-open", "faucet-open", "coffee-push", "coffee-button"),
}
EASY = {
    *("reach-wall", "push-wall", "pick-place-wall", "button-press-wall"),
    *("door-lock", "door-close", "window-close", "faucet-close"),
}
HARD = {"hammer", "soccer", "make-coffee", "locked-door-open"}


def goal(name):
    return TASK.goal_set.find(name)


def state(first=(0, 0.6, 0.02), target=(0, 0.8, 0.02), tool=(0, 0.6, 0.15), second=(0, 0, 0), **parts):
    """A state made by hand."""
    made = np.zeros(STATE_SIZE, np.float32)
    made[FIRST], made[SECOND], made[TARGET], made[TOOL] = first, second, target, tool
    made[HAND] = np.add(tool, (0, 0, 0.045))
    made[OPENING] = 1.0
    made[BASE], made[WALL] = parts.get("base", 0.0), parts.get("wall", 0.0)
    made[FLAGS] = flags(parts.get("things", ("puck",)))
    return made

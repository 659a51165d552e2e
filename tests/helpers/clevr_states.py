"""States of CLEVR-Robot made by hand, and whether goals hold in them."""

import numpy as np

from envs.clevr_robot.task import ClevrRobotTask

COLOURS = ("red", "blue", "green", "purple", "cyan")
SIDES = {"behind": (0, 1), "left": (-1, 0), "front": (0, -1), "right": (1, 0)}
TASK = ClevrRobotTask()
# Five places far from each other, for the balls that a test is not about.
FAR = {"red": (-0.4, -0.1), "blue": (0.4, -0.1), "green": (-0.4, 0.5), "purple": (0.4, 0.5), "cyan": (0.0, 0.2)}


def state(**places):
    """A state made by hand: where the named balls are; the others are far off."""
    return np.array([(FAR | places)[colour] for colour in COLOURS], np.float32).ravel()


def achieved(goal_id, states, start=None):
    return TASK.achieved(TASK.goal_set.find(goal_id), states, start)


def beside(place, side, distance):
    return tuple(np.add(place, np.multiply(SIDES[side], distance)))

"""Rooms of BabyAI made by hand or by random actions, and the goals of each family."""

from collections import defaultdict

import numpy as np

from envs.babyai.room_env import RoomEnv
from envs.babyai.room_state import COLOURS, DOOR_STATES, HEADINGS, KINDS, Rooms, encode
from envs.babyai.room_task import BabyAIRoomTask
from envs.goals import SPLITS

TASK = BabyAIRoomTask()
FAMILIES = defaultdict(list)
for _split in SPLITS:
    for _goal in TASK.goals(_split):
        FAMILIES[_split, _goal.family].append(_goal)
LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)
# Four objects far from each other and from the middle.
PLACES = {"red ball": (1, 1), "green box": (6, 1), "blue key": (1, 6), "grey ball": (6, 6)}


def room(agent=(3, 3), facing="north", carried=None, door=(0, 3), colour="blue", state="closed", **moved):
    """A state made by hand; objects are moved by ``red_ball=(x, y)``."""
    places = PLACES | {name.replace("_", " "): cell for name, cell in moved.items()}
    names = list(places)
    return encode(
        Rooms(
            agent=np.array(agent),
            heading=np.array(HEADINGS.index(facing)),
            kinds=np.array([KINDS.index(tuple(name.split())) for name in names]),
            cells=np.array(list(places.values())),
            carried=np.array(names.index(carried) if carried else -1),
            door=np.array(door),
            door_colour=np.array(COLOURS.index(colour)),
            door_state=np.array(DOOR_STATES.index(state)),
        )
    )


def achieved(goal_id, state):
    return bool(TASK.achieved(TASK.goal_set.find(goal_id), state))


def cost(goal_id, state):
    return float(TASK.cost(TASK.goal_set.find(goal_id), state))


def random_states(num_episodes, num_steps, seed=0):
    """Transitions of random actions: states, actions, next states."""
    env, rng = RoomEnv(), np.random.default_rng(seed)
    rows = []
    for episode in range(num_episodes):
        state, _ = env.reset(seed=episode)
        for action in rng.integers(7, size=num_steps).tolist():
            following, *_ = env.step(action)
            rows.append((state, action, following))
            state = following
    return tuple(map(np.array, zip(*rows, strict=True)))

"""What Taxi can say about itself: goals of four splits, a state in words, actions in words, and what was achieved.

A passenger who is set down where they want to go ends the ride, by Taxi's own rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium.envs.toy_text.taxi import MAP
from numpy.typing import NDArray

from envs.goals import Goal, GoalSet, InvalidAction
from envs.language import Expert, LanguageTask
from llm_agents_taxi.expert import ShortestPath

STOPS = {"red": (0, 0), "green": (0, 4), "yellow": (4, 0), "blue": (4, 3)}
COLOURS = tuple(STOPS)
ABOARD = 4
ACTION_TEXTS = ("go south", "go north", "go east", "go west", "pick up the passenger", "set down the passenger")
DRIVE_HORIZON, CARRY_HORIZON, COMPOSED_HORIZON = 12, 25, 35  # steps; the longest shortest paths are 9, 18 and 26
# There is a wall east of these squares (row, column); Taxi draws one character per square and one for what is between.
WALLS = {(row, column) for row in range(5) for column in range(4) if MAP[row + 1][2 * column + 2] == "|"}

SAYINGS = {
    "drive": {
        "train": ("drive to the {to} stop", "take the taxi to the {to} stop", "go to {to}"),
        "rephrase": ("head over to the {to} stand", "the cab is wanted at {to}", "make for {to}"),
    },
    "board": {
        "train": ("pick up the passenger", "let the passenger get in", "fetch the passenger"),
        "rephrase": ("get your fare into the cab", "someone is waiting, take them aboard"),
    },
    "bring": {
        "train": (
            "bring the passenger to the {to} stop",
            "drop the passenger at {to}",
            "set the passenger down at {to}",
        ),
        "rephrase": ("your fare should get out at the {to} stand", "chauffeur whoever is waiting to {to}"),
        "easy": (
            "bring the passenger to the {to} stop",
            "drop the passenger at {to}",
            "set the passenger down at {to}",
        ),
    },
    "show": {"hard": ("with the passenger aboard, drive to the {to} stop", "go to {to} with the passenger on board")},
    "park": {
        "hard": (
            "bring the passenger to the {to} stop, then drive to the {then} stop",
            "set the passenger down at {to} and park at {then}",
        )
    },
}


class TaxiTask(LanguageTask):
    """Goals of a taxi driver.

    ``train`` has the skills one by one: drive to a stop, pick up the passenger, bring them to one of three stops.
    ``rephrase`` has the same goals in other words. ``easy`` has the fourth stop to bring them to, known from driving.
    ``hard`` composes: drive to a stop with the passenger aboard; bring them to one stop, then park at another.
    """

    def __init__(self) -> None:
        self.goal_set = GoalSet(_goals())

    def describe(self, state: NDArray) -> str:
        row, column, passenger, destination = np.rint(state).astype(int)
        stops = ", ".join(f"{colour} at row {r} column {c}" for colour, (r, c) in STOPS.items())
        where = "is aboard" if passenger == ABOARD else f"waits at the {COLOURS[passenger]} stop"
        walls = [side for side, column in (("west", column - 1), ("east", column)) if (row, column) in WALLS]
        wall = f" There is a wall to the {' and the '.join(walls)}." if walls else ""
        return (
            f"The taxi is at row {row} column {column} of 0 to 4, counted from the north and the west.{wall} The "
            f"passenger {where} and wants to go to {COLOURS[destination]}. Stops: {stops}."
        )

    def action_texts(self, state: NDArray) -> Sequence[str]:
        return ACTION_TEXTS

    def parse_action(self, text: str) -> int:
        if text not in ACTION_TEXTS:
            raise InvalidAction(f"{text!r} is no action; known: {', '.join(ACTION_TEXTS)}")
        return ACTION_TEXTS.index(text)

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        kind, *stops = goal.id.split("/")
        if kind == "board":
            return _passenger(states) == ABOARD
        if kind == "drive":
            return _taxi_at(states, stops[0])
        if kind == "show":
            return _taxi_at(states, stops[0]) & (_passenger(states) == ABOARD)
        brought = _passenger(states) == COLOURS.index(stops[0])
        return brought & _taxi_at(states, stops[1]) if kind == "park" else brought

    def reward(
        self, goal: Goal, states: NDArray, next_states: NDArray, start: NDArray | None = None
    ) -> NDArray[np.floating]:
        return self.achieved(goal, next_states).astype(np.float32)

    def horizon(self, goal: Goal) -> int:
        return {"drive": DRIVE_HORIZON, "board": DRIVE_HORIZON, "park": COMPOSED_HORIZON}.get(
            goal.family, CARRY_HORIZON
        )

    def is_valid_start(self, goal: Goal, states: NDArray) -> NDArray[np.bool_]:
        """Refuse states in which the goal already holds.

        For ``park``, also those where the passenger is already at the first stop, or wants to go there, which ends the
        ride.
        """
        starts = ~self.achieved(goal, states)
        if goal.family == "park":
            first = COLOURS.index(goal.id.split("/")[1])
            starts &= (np.rint(np.asarray(states)[..., 2:4]) != first).all(-1)
        return starts

    def expert(self) -> Expert:
        return ShortestPath()


def _goals() -> Iterator[Goal]:
    for split in ("train", "rephrase"):
        yield from (_goal("drive", split, to=colour) for colour in COLOURS)
        yield _goal("board", split)
        yield from (_goal("bring", split, to=colour) for colour in COLOURS[:3])
    yield _goal("bring", "easy", to=COLOURS[3])
    yield from (_goal("show", "hard", to=colour) for colour in COLOURS)
    yield from (_goal("park", "hard", to=to, then=then) for to in COLOURS for then in COLOURS if to != then)


def _goal(kind: str, split: Any, **stops: str) -> Goal:
    phrasings = tuple(saying.format(**stops) for saying in SAYINGS[kind][split])
    return Goal("/".join([kind, *stops.values()]), kind, split, phrasings)


def _passenger(states: NDArray) -> NDArray:
    return np.rint(np.asarray(states)[..., 2])


def _taxi_at(states: NDArray, colour: str) -> NDArray[np.bool_]:
    return (np.rint(np.asarray(states)[..., :2]) == STOPS[colour]).all(-1)

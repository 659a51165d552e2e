"""A small world with continuous actions: a point on a square table, and words for where it is to go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.goals import Goal, GoalSet, Split
from envs.language import InvalidAction, LanguageEnv, LanguageTask, start_of

STRIDE = 0.2  # how far an action of 1 moves the point, in metres
TOLERANCE = 0.15
ELEVATION = 123.456  # metres above sea: a number that never changes
PLACES = {
    "left": (-0.8, None),
    "right": (0.8, None),
    "front": (None, -0.8),
    "back": (None, 0.8),
    "middle": (0.0, 0.0),
    "left back": (-0.8, 0.8),
    "right front": (0.8, -0.8),
}
WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("go to the {}", "move to the {} of the table"),
    "rephrase": ("the point should be at the {}", "make for the {}"),
    "easy": ("settle in the {}", "stop in the {}"),
    "hard": ("go into the {} corner", "hide in the {} corner"),
}


def _goals(split: Split, family: str, places: Sequence[str]) -> list[Goal]:
    return [Goal(place, family, split, tuple(words.format(place) for words in WORDS[split])) for place in places]


SIDES, MIDDLE, CORNERS = ("left", "right", "front", "back"), ("middle",), ("left back", "right front")


class PointMass(gymnasium.Env):
    """States are x, y and the elevation; an action moves the point, which stays on the table."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict]:
        super().reset(seed=seed)
        self._position = self.np_random.uniform(-1.0, 1.0, 2)
        return self._observation(), {}

    def step(self, action: NDArray) -> tuple[NDArray, float, bool, bool, dict]:
        self._position = np.clip(self._position + STRIDE * action, -1.0, 1.0)
        return self._observation(), 0.0, False, False, {}

    def _observation(self) -> NDArray:
        return np.array([*self._position, ELEVATION], np.float32)


class PointMassTask(LanguageTask):
    def __init__(self) -> None:
        self.goal_set = GoalSet(
            [
                *_goals("train", "side", SIDES),
                *_goals("rephrase", "side", SIDES),
                *_goals("easy", "middle", MIDDLE),
                *_goals("hard", "corner", CORNERS),
            ]
        )

    def describe(self, state: NDArray) -> str:
        return f"The point is at {state[0]:.2f}, {state[1]:.2f}."

    def action_texts(self, state: NDArray) -> None:
        return None

    def parse_action(self, text: str) -> NDArray:
        try:
            action = np.array([float(number) for number in text.split(",")], np.float32)
        except ValueError:
            raise InvalidAction(f"{text!r} is not two numbers") from None
        if not PointMass.action_space.contains(action):
            raise InvalidAction(f"{text!r} is not in {PointMass.action_space}")
        return action

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        return (_offsets(goal, states) <= TOLERANCE).all(-1)

    def reward(
        self, goal: Goal, states: NDArray, next_states: NDArray, start: NDArray | None = None
    ) -> NDArray[np.floating]:
        start = start_of(states, start)
        before, after = _offsets(goal, states).sum(-1), _offsets(goal, next_states).sum(-1)
        return 10 * (before - after) + 10.0 * self.achieved(goal, next_states, start)

    def horizon(self, goal: Goal) -> int:
        return 20

    def plausible(self, states: NDArray, actions: NDArray, next_states: NDArray) -> NDArray[np.bool_]:
        steps = np.abs(next_states[..., :2] - states[..., :2]).max(-1)
        return np.isfinite(next_states).all(-1) & (steps < 1.5 * STRIDE) & (np.abs(next_states[..., :2]) < 1.1).all(-1)

    def render_state(self, state: NDArray) -> NDArray[np.uint8]:
        """A dark point on a light table, seen from above."""
        picture = np.full((32, 32, 3), 230, np.uint8)
        column, row = np.clip(np.rint((state[:2] + 1) * 15.5), 0, 31).astype(int)
        picture[31 - row, column] = 20
        return picture

    def expert(self) -> PointMassExpert:
        return PointMassExpert()


class PointMassExpert:
    """Goes straight, as fast as it can; it needs only the state and the goal."""

    def act(self, envs: Sequence[LanguageEnv]) -> list[NDArray]:
        return [right_action(env.goal, env.state) for env in envs]


def right_action(goal: Goal, state: NDArray) -> NDArray[np.float32]:
    """Towards the goal, slower where a whole stride would go beyond it."""
    ways = [0.0 if place is None else place - at for at, place in zip(state, PLACES[goal.id], strict=False)]
    return np.clip(np.array(ways) / STRIDE, -1.0, 1.0).astype(np.float32)


def move(states: NDArray, actions: NDArray) -> NDArray[np.float32]:
    """The world itself: states (..., 3) and actions (..., 2) -> next states (..., 3)."""
    positions = np.clip(states[..., :2] + STRIDE * actions, -1.0, 1.0)
    elevation = np.broadcast_to(states[..., 2:], (*positions.shape[:-1], 1))
    return np.concatenate([positions, elevation], -1).astype(np.float32)


def _offsets(goal: Goal, states: NDArray) -> NDArray:
    """How far each coordinate is from where the goal wants it, (..., D) -> (..., 2)."""
    wanted = [states[..., axis] if place is None else place for axis, place in enumerate(PLACES[goal.id])]
    return np.stack([np.abs(states[..., axis] - place) for axis, place in enumerate(wanted)], -1)


def make() -> LanguageEnv:
    return LanguageEnv(PointMass(), PointMassTask())


gymnasium.register("PointMass-v0", entry_point=make)

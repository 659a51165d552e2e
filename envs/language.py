"""The contract between an environment and everything that learns in it, and the wrapper that applies it.

A new environment is one class: a `LanguageTask`. ``LanguageEnv(env, task)`` is then a Gymnasium environment with a
goal in words.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from envs.check import LanguageEnvError, check_language_env
from envs.goals import SPLITS, Goal, GoalSet, InvalidAction, Split, by_family, unknown

__all__ = [
    "AnyText",
    "Expert",
    "InvalidAction",
    "LanguageEnv",
    "LanguageEnvError",
    "LanguageTask",
    "StateGrid",
    "check_language_env",
    "start_of",
]

MAX_TEXT = 4096
MAX_START_DRAWS = 1000
# Task methods that had other names in version 0.1. A task that still defines an old name is told the new one.
RENAMED_METHODS = {
    "startable": "is_valid_start",
    "instruct": "render_instruction",
    "draw": "render_state",
    "wording_kind": "phrasing_kind",
}


class StateGrid(NamedTuple):
    """A grid of cells within a state: ``state[start : start + size].reshape(shape)``.

    Attributes:
        start: index of the grid's first number in the state.
        shape: width and height (in either order) and the number of values per cell.
    """

    start: int
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """The number of values in the grid."""
        return math.prod(self.shape)


class LanguageTask(Protocol):
    """What an environment must be able to say about itself.

    `achieved`, `reward`, `plausible`, `project` and `is_valid_start` are pure functions of states, vectorised over
    leading axes: real and imagined rollouts are judged by the same code. States are float arrays (..., D).
    Where a goal is relative to how the episode began, ``start`` holds the start states (..., D), broadcast against
    ``states``. By default it is the first state along the time axis, ``states[..., :1, :]`` (for a single state, that
    state).
    """

    goal_set: GoalSet

    def goals(self, split: Split) -> Sequence[Goal]:
        """Return the goals of a split."""
        return self.goal_set[split]

    def describe(self, state: NDArray) -> str:
        """Return the text observation of a state (D,)."""
        ...

    def action_texts(self, state: NDArray) -> Sequence[str] | None:
        """Return the admissible actions in words, or None if actions are continuous."""
        ...

    def parse_action(self, text: str) -> Any:
        """Return the action that a text names.

        Raises:
            InvalidAction: the text names no action.
        """
        ...

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        """Return whether the goal holds in each state: (..., D) -> (...)."""
        ...

    def reward(
        self, goal: Goal, states: NDArray, next_states: NDArray, start: NDArray | None = None
    ) -> NDArray[np.floating]:
        """Return the reward of each transition: (..., D), (..., D) -> (...)."""
        ...

    def phrasing_kind(self, phrasing: str) -> str:
        """Return the kind of a phrasing, such as verb synonyms. Results are shown by kind if a split has several."""
        return ""

    def horizon(self, goal: Goal) -> int:
        """Return the number of steps after which an episode for this goal is truncated."""
        ...

    def plausible(self, states: NDArray, actions: NDArray, next_states: NDArray) -> NDArray[np.bool_]:
        """Return whether each transition is physically possible; by default, whether its numbers are finite."""
        return np.isfinite(states).all(-1) & np.isfinite(next_states).all(-1)

    def project(self, states: NDArray) -> NDArray[np.floating]:
        """Return the nearest states that can exist, (..., D) -> (..., D) of the same dtype; by default, these states.

        Imagination continues from them, which keeps the small errors of a learned model from adding up. Real states
        stay unchanged. So do states with non-finite numbers, which are for `plausible` to refuse.
        """
        return states

    def is_valid_start(self, goal: Goal, states: NDArray) -> NDArray[np.bool_]:
        """Return which states an episode for this goal may start from; by default, those where it does not yet hold."""
        return ~self.achieved(goal, states, start=states)

    def grid(self) -> StateGrid | None:
        """Return where a grid of cells lies in the state, for convolutional networks; by default, there is no grid."""
        return None

    def render_state(self, state: NDArray) -> NDArray[np.uint8]:
        """Draw a state, real or imagined, as a picture (H, W, 3)."""
        # In two statements: type checkers treat a method that does nothing but raise as abstract.
        message = f"{type(self).__name__} cannot draw its states"
        raise NotImplementedError(message)

    def expert(self) -> Expert | None:
        """Return a scripted expert, or None if there is none."""
        return None

    def reset_options(self, goal: Goal) -> dict[str, Any] | None:
        """Return options for the wrapped environment's reset that make its start suit the goal; by default, none."""
        return None

    def render_instruction(self, phrasing: str, info: dict[str, Any]) -> str:
        """Return the instruction of an episode, given a phrasing and the info of the wrapped environment's reset.

        By default it is the phrasing itself; a task whose environment draws a mission inserts it here.
        """
        return phrasing


class Expert(Protocol):
    """A scripted policy that may inspect the environments themselves."""

    def act(self, envs: Sequence[LanguageEnv]) -> Sequence[Any]:
        """Return one action for each running episode."""
        ...


class AnyText(spaces.Text):
    """Any text up to a maximum length, unlike `gymnasium.spaces.Text`, whose strings use a fixed alphabet."""

    def __init__(self, max_length: int = MAX_TEXT) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length


class LanguageEnv(gymnasium.Env):
    """A Gymnasium environment with a goal in words.

    Observations are ``{"state": Box, "text": Text, "goal": Text}``; ``info["is_success"]`` says whether the goal
    holds. An episode terminates when it does, and is truncated at ``task.horizon(goal)``.

    ``reset(seed=..., options=...)`` takes the options ``split`` (draw a goal of this split: first a family, since some
    have many more goals than others), ``goal`` (an id) and ``instruction`` (these words instead of a phrasing of the
    goal). The same seed and goal give the same start, regardless of earlier episodes. Resetting with ``info["seed"]``
    repeats an episode that was started without a seed.

    Args:
        env: any Gymnasium environment; its flattened observation is the state. Its own reward is not used.
        task: what the environment says about itself.
        split: the split that goals are drawn from when ``reset`` names none.

    Raises:
        ValueError: an unknown split, observations that do not flatten to numbers (see `envs.adapters`), or a task that
            defines a method under a name from an earlier version.
    """

    def __init__(self, env: gymnasium.Env, task: LanguageTask, split: Split = "train") -> None:
        if split not in SPLITS:
            raise ValueError(unknown("split", split, SPLITS))
        _refuse_renamed_methods(task)
        self.env = env
        self.task = task
        self.split: Split = split
        self.action_space = env.action_space
        state_space = _state_space(env.observation_space)
        self.observation_space = spaces.Dict({"state": state_space, "text": AnyText(), "goal": AnyText()})
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.goal: Goal
        self._families: dict[Split, list[list[Goal]]] = {}
        self.instruction = ""
        self.state: NDArray = np.zeros(spaces.flatdim(state_space), np.float32)
        self.start_state: NDArray = self.state
        self.num_steps = 0
        self.seed = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Raises:
            UnknownGoal: an unknown split or goal id.
            ValueError: an unknown option, or no valid start for the goal.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        split = options.pop("split", None)
        goal_id = options.pop("goal", None)
        instruction = options.pop("instruction", None)
        if options:
            raise ValueError(unknown("reset option", next(iter(options)), ("split", "goal", "instruction")))
        self.seed = int(seed if seed is not None else self.np_random.integers(2**31))
        rng = np.random.default_rng([self.seed, 0])
        if goal_id is None:
            self.goal = self._draw_goal(split or self.split, rng)
        else:
            self.goal = self.task.goal_set.find(goal_id, split or self.split)
        phrasing = instruction or self.goal.phrasings[rng.integers(len(self.goal.phrasings))]
        self.instruction = self.task.render_instruction(phrasing, self._draw_start())
        self.num_steps = 0
        return self._observation(), self._info(success=False, seed=self.seed)

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take one step in the wrapped environment and judge it by the task.

        Raises:
            InvalidAction: an action outside the action space.
        """
        if not self._has_action(action):
            raise InvalidAction(f"action {action!r} is not in {self.action_space}")
        observation, _, terminated, truncated, _ = self.env.step(action)
        before, self.state = self.state, self._flatten(observation)
        self.num_steps += 1
        success = bool(self.task.achieved(self.goal, self.state, self.start_state))
        reward = float(self.task.reward(self.goal, before, self.state, self.start_state))
        terminated = bool(terminated or success)
        truncated = bool(truncated or self.num_steps >= self.task.horizon(self.goal)) and not terminated
        return self._observation(), reward, terminated, truncated, self._info(success)

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _draw_goal(self, split: Split, rng: np.random.Generator) -> Goal:
        if split not in self._families:
            self._families[split] = list(by_family(self.task.goals(split)).values())
        families = self._families[split]
        goals = families[rng.integers(len(families))]
        return goals[rng.integers(len(goals))]

    def _draw_start(self) -> dict[str, Any]:
        """Reset the wrapped environment to a valid start for the goal and return that reset's info."""
        seeds = np.random.default_rng([self.seed, 1])
        options = self.task.reset_options(self.goal)
        for _ in range(MAX_START_DRAWS):
            observation, info = self.env.reset(seed=int(seeds.integers(2**31)), options=options)
            self.state = self.start_state = self._flatten(observation)
            if self.task.is_valid_start(self.goal, self.state):
                return info
        raise ValueError(f"no start for goal {self.goal.id!r} found in {MAX_START_DRAWS} draws from seed {self.seed}")

    def _has_action(self, action: Any) -> bool:
        space = self.action_space
        if type(action) is int and isinstance(space, spaces.Discrete):
            return bool(space.start <= action < space.start + space.n)  # `contains` takes ten times as long
        return space.contains(action)

    def _flatten(self, observation: Any) -> NDArray:
        return np.asarray(spaces.flatten(self.env.observation_space, observation), np.float32)

    def _observation(self) -> dict[str, Any]:
        return {"state": self.state.copy(), "text": self.task.describe(self.state), "goal": self.instruction}

    def _info(self, success: bool, **more: Any) -> dict[str, Any]:
        return {"is_success": success, "goal_id": self.goal.id, "family": self.goal.family, **more}


def _refuse_renamed_methods(task: LanguageTask) -> None:
    """Refuse a task whose override would never be called because the method has been renamed."""
    for old, new in RENAMED_METHODS.items():
        if hasattr(type(task), old):
            raise LanguageEnvError(f"{type(task).__name__}.{old} is called {new} now: rename the method")


def _state_space(observations: spaces.Space) -> spaces.Box:
    """Return the space of the flattened observations, as float32."""
    try:
        flat = spaces.flatten_space(observations)
    except NotImplementedError:  # a library's custom space
        flat = None
    if not isinstance(flat, spaces.Box):
        raise ValueError(f"{observations} is no array of numbers when flattened: see envs.adapters.adapt")
    return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)


def start_of(states: ArrayLike, start: ArrayLike | None) -> NDArray:
    """Return the start states that a predicate compares with (see `LanguageTask`), broadcastable against ``states``."""
    states = np.asarray(states)
    if start is not None:
        return np.asarray(start)
    return states[..., :1, :] if states.ndim > 1 else states

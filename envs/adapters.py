"""Adapters for environments that already use language: a mission or a text in the observation, or only strings.

    babyai = gymnasium.make("minigrid:BabyAI-GoToLocal-v0")
    env = adapt(babyai, goals, text=describe, mission="mission", actions=WORDS, horizon=64)
    env = adapt(StringEnv(guess_the_number), goals, horizon=10)

What such an environment knows beyond numbers is written into the state: whether it was successful, the reward, the
mission, and the text, character by character. So `achieved`, `reward` and `describe` stay pure functions of states,
and a stored episode can be read again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.goals import Goal, GoalSet, InvalidAction
from envs.language import MAX_TEXT, AnyText, LanguageEnv, LanguageTask, Split

__all__ = ["AdaptedEnv", "AdaptedTask", "StringEnv", "StringGame", "adapt", "positive_end"]

Success = Callable[[float, bool, dict[str, Any]], bool]
SUCCESS, REWARD, TEXTS = 0, 1, 2  # indices in a state: the flag, the reward, and where the texts begin


def positive_end(reward: float, terminated: bool, info: dict[str, Any]) -> bool:
    """Judge success by the most common convention: the episode terminates with a reward above zero."""
    return terminated and reward > 0


def adapt(
    env: gymnasium.Env,
    goals: Iterable[Goal],
    *,
    horizon: int,
    text: str | Callable[[Any], str] | None = None,
    mission: str | None = None,
    actions: Sequence[str] | None = None,
    success: str | Success = positive_end,
    reset_options: Mapping[str, dict[str, Any]] | None = None,
    max_text: int = 1024,
    max_mission: int = 128,
    split: Split = "train",
) -> LanguageEnv:
    """Wrap an environment that carries its own mission or text in a `LanguageEnv`.

    Args:
        env: any Gymnasium environment; a string environment is wrapped in `StringEnv` first.
        goals: of all four splits. With a ``mission``, a goal's id is the mission, or a regular expression that its
            missions match in full. Resets are repeated until an episode begins with such a mission, which then
            replaces ``{mission}`` in a phrasing.
        horizon: the number of steps after which an episode is truncated.
        text: the key of a Dict observation that holds the text, or a function from observation to text; None if the
            observation is itself a text.
        mission: the key of a Dict observation, or failing that of reset's info, that holds the mission; None if there
            is no mission and every start suits every goal.
        actions: the text of each Discrete action; omitted for other spaces.
        success: the key of step's info that says whether the goal was reached, or a function of (reward, terminated,
            info).
        reset_options: by goal id, the ``options`` given to the environment's reset.
        max_text, max_mission: the number of characters of the state set aside for each.
        split: the split that goals are drawn from when ``reset`` names none.

    Raises:
        ValueError: the arguments do not fit the environment; later, a text or mission is longer than was set aside.
    """
    adapted = AdaptedEnv(env, text, mission, success, max_text, max_mission)
    task = AdaptedTask(goals, adapted, horizon, actions, reset_options or {})
    return LanguageEnv(adapted, task, split)


class AdaptedEnv(gymnasium.Env):
    """An environment whose observation is one vector: success, reward, mission, text, and the other observations.

    See `adapt` for the arguments. Texts are code points, padded with zeros.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        text: str | Callable[[Any], str] | None,
        mission: str | None,
        success: str | Success,
        max_text: int,
        max_mission: int,
    ) -> None:
        self.env = env
        self.max_mission = max_mission if mission else 0
        self.max_text = max_text
        self.action_space = env.action_space
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self._mission_key = mission
        self._write = _writer(text, env.observation_space)
        self._success = partial(_info_says, success) if isinstance(success, str) else success
        self._numbers = _numbers(env.observation_space, {mission, text})
        self._mission = np.zeros(self.max_mission, np.float32)
        size = TEXTS + self.max_mission + max_text + sum(map(spaces.flatdim, self._numbers.values()))
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        observation, info = self.env.reset(seed=seed, options=options)
        if self._mission_key:
            mission = _look_up(self._mission_key, observation, info)
            self._mission = encode_text(mission, self.max_mission, "mission")
            info = {**info, "mission": mission}
        return self._state(observation, False, 0.0), info

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = self._success(float(reward), bool(terminated), info)
        return self._state(observation, success, float(reward)), float(reward), terminated, truncated, info

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _state(self, observation: Any, success: bool, reward: float) -> NDArray[np.float32]:
        text = encode_text(self._write(observation), self.max_text, "text")
        parts = observation if isinstance(observation, Mapping) else {"": observation}
        numbers = [np.asarray(spaces.flatten(space, parts[key])) for key, space in self._numbers.items()]
        return np.concatenate([np.array([success, reward]), self._mission, text, *numbers], dtype=np.float32)


class AdaptedTask(LanguageTask):
    """What an `AdaptedEnv` says about itself; see `adapt` for the arguments."""

    def __init__(
        self,
        goals: Iterable[Goal],
        env: AdaptedEnv,
        horizon: int,
        actions: Sequence[str] | None,
        reset_options: Mapping[str, dict[str, Any]],
    ) -> None:
        self.goal_set = GoalSet(goals)
        self._horizon = horizon
        self._action_space = env.action_space
        self._texts = _action_texts(actions, env.action_space)
        self._reset_options = reset_options
        self._mission = slice(TEXTS, TEXTS + env.max_mission)
        self._text = slice(TEXTS + env.max_mission, TEXTS + env.max_mission + env.max_text)
        self._has_missions = env.max_mission > 0

    def describe(self, state: NDArray) -> str:
        return decode_text(state[self._text])

    def action_texts(self, state: NDArray) -> Sequence[str] | None:
        return self._texts or None

    def parse_action(self, text: str) -> Any:
        """Return the action of this text: for Box and MultiDiscrete its numbers, for Text the text itself."""
        if isinstance(self._action_space, spaces.Text):
            return text
        if not isinstance(self._action_space, spaces.Discrete):
            return _parse_numbers(text, self._action_space)
        if text not in self._texts:
            raise InvalidAction(f"{text!r} is no action; known: {', '.join(self._texts)}")
        return self._texts.index(text) + int(self._action_space.start)

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        """Return whether the environment reports success on a mission of this goal."""
        return (np.asarray(states)[..., SUCCESS] > 0.5) & self._suits(goal, states)

    def reward(
        self, goal: Goal, states: NDArray, next_states: NDArray, start: NDArray | None = None
    ) -> NDArray[np.floating]:
        """Return the environment's own reward."""
        return np.asarray(next_states)[..., REWARD]

    def horizon(self, goal: Goal) -> int:
        return self._horizon

    def is_valid_start(self, goal: Goal, states: NDArray) -> NDArray[np.bool_]:
        return (np.asarray(states)[..., SUCCESS] < 0.5) & self._suits(goal, states)

    def reset_options(self, goal: Goal) -> dict[str, Any] | None:
        return self._reset_options.get(goal.id)

    def render_instruction(self, phrasing: str, info: dict[str, Any]) -> str:
        return phrasing.replace("{mission}", info["mission"]) if self._has_missions else phrasing

    def _suits(self, goal: Goal, states: NDArray) -> NDArray[np.bool_]:
        """Return whether the mission in each state is one of the goal's: (..., D) -> (...)."""
        states = np.asarray(states)
        if not self._has_missions:
            return np.ones(states.shape[:-1], bool)
        codes = states[..., self._mission].reshape(-1, self._mission.stop - self._mission.start)
        missions, which = np.unique(codes, axis=0, return_inverse=True)
        suits = np.array([re.fullmatch(goal.id, decode_text(mission)) is not None for mission in missions], bool)
        return suits[which].reshape(states.shape[:-1])


class StringGame(Protocol):
    """An environment in the style of GEM or TextArena, which outputs a text and is given a text in return."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode; keyword arguments other than the seed are the options of `StringEnv.reset`."""
        ...

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Return (text, reward, terminated, truncated, info)."""
        ...


class StringEnv(gymnasium.Env):
    """A string environment as a Gymnasium environment: texts are observations, and any text is an action.

    The text that reset returns is also ``info["mission"]``, for environments that begin with the question.
    """

    def __init__(self, game: StringGame, max_length: int = MAX_TEXT) -> None:
        self.game = game
        self.observation_space = AnyText(max_length)
        self.action_space = AnyText(max_length)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        text, info = self.game.reset(seed=seed, **(options or {}))
        return text, {"mission": text, **info}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return self.game.step(action)


def encode_text(text: str, size: int, what: str = "text") -> NDArray[np.float32]:
    """Encode a text as code points (size,), padded with zeros; every code point is exact in float32.

    Raises:
        ValueError: the text is longer than ``size``.

    >>> encode_text("hi", size=4).tolist()
    [104.0, 105.0, 0.0, 0.0]
    >>> decode_text(encode_text("hi", size=4))
    'hi'
    """
    if len(text) > size:
        raise ValueError(f"a {what} has {len(text)} characters, {size} were set aside: adapt(..., max_{what}=...)")
    codes = np.zeros(size, np.float32)
    codes[: len(text)] = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return codes


def decode_text(codes: NDArray) -> str:
    """Invert `encode_text`; the numbers of an imagined state are rounded and those that encode no character dropped."""
    rounded = np.rint(np.nan_to_num(codes))
    return rounded[(rounded > 0) & (rounded <= 0x10FFFF)].astype("<u4").tobytes().decode("utf-32-le", errors="ignore")


def _writer(text: str | Callable[[Any], str] | None, observations: spaces.Space) -> Callable[[Any], str]:
    """Return the function from observation to text."""
    if callable(text):
        return text
    if text is None:
        if not isinstance(observations, spaces.Text):
            raise ValueError(f"the observation is {observations}, not a text: say where its text is with text=...")
        return str
    if not isinstance(observations, spaces.Dict) or text not in observations.spaces:
        raise ValueError(f"text={text!r} is no key of the observation {observations}")
    return lambda observation: observation[text]


def _numbers(observations: spaces.Space, texts: set[Any]) -> dict[str, spaces.Space]:
    """Return an observation's numeric parts by key; an observation without keys is one part, named ``""``."""
    parts = observations.spaces if isinstance(observations, spaces.Dict) else {"": observations}
    numbers = {key: space for key, space in parts.items() if key not in texts and not isinstance(space, spaces.Text)}
    for key, space in numbers.items():
        if not _is_flattenable(space):
            raise ValueError(f"observation[{key!r}] is {space}, not numbers: is it what text= or mission= should name?")
    return numbers


def _is_flattenable(space: spaces.Space) -> bool:
    try:
        return space.is_np_flattenable
    except NotImplementedError:  # a library's custom space
        return False


def _look_up(key: str, observation: Any, info: dict[str, Any]) -> str:
    for where in (observation, info):
        if isinstance(where, Mapping) and key in where:
            return str(where[key])
    raise ValueError(f"mission={key!r} is a key neither of the observation nor of what reset gives as info")


def _info_says(key: str, reward: float, terminated: bool, info: dict[str, Any]) -> bool:
    if key not in info:
        raise ValueError(f"success={key!r} is no key of what step gives as info, which has {', '.join(info) or 'none'}")
    return bool(info[key])


def _action_texts(actions: Sequence[str] | None, space: spaces.Space) -> tuple[str, ...]:
    """Return the texts of a Discrete space's actions; for any other space, an empty tuple."""
    if not isinstance(space, spaces.Discrete):
        if actions is not None:
            raise ValueError(f"actions= names Discrete actions, but the environment has {space}")
        return ()
    if actions is None or len(set(actions)) != space.n:
        given = "none" if actions is None else f"{len(set(actions))} different ones"
        raise ValueError(f"actions= must say each of the {space.n} actions in words of its own, got {given}")
    return tuple(actions)


def _parse_numbers(text: str, space: spaces.Space) -> NDArray:
    """Parse numbers separated by spaces or commas as an action of a Box or MultiDiscrete space."""
    try:
        action = np.array([float(word) for word in text.replace(",", " ").split()]).reshape(space.shape)
    except ValueError:
        raise InvalidAction(f"{text!r} is no action: it takes numbers of shape {space.shape}") from None
    cast = action.astype(space.dtype)
    if not space.contains(cast) or not np.allclose(cast, action):
        raise InvalidAction(f"{text!r} is not in {space}")
    return cast

"""The evidence that `envs.check` examines: the goals of an environment and some episodes of random actions.

Its checks also find here the words in which they tell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.goals import SPLITS, Goal, Split, by_family

MAX_ROWS = 40  # states that are examined one by one


@dataclass(frozen=True)
class Rollout:
    """An episode of random actions; ``error`` is what cut it short, if anything did."""

    goal: Goal
    seed: int
    instruction: str
    states: NDArray  # (T+1, D)
    actions: list[Any]
    rewards: list[float]
    successes: list[Any]
    terminated: bool
    truncated: bool
    error: Exception | None

    def __str__(self) -> str:
        return f"goal {self.goal.id!r} in split {self.goal.split!r} with seed {self.seed}"


@dataclass(frozen=True)
class Evidence:
    """What the checks examine."""

    env: Any
    goals: dict[Split, tuple[Goal, ...]]
    rollouts: list[Rollout]
    num_seeds: int

    @property
    def families(self) -> list[list[Goal]]:
        """The goals of every family in every split."""
        return _families(self.goals)

    @property
    def one_of_each_family(self) -> list[Goal]:
        return [family[0] for family in self.families]

    @property
    def transitions(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """At most `MAX_ROWS` states, starts, actions and next states from all rollouts."""
        rows = [
            (r.states[i], r.states[0], r.actions[i], r.states[i + 1])
            for r in self.rollouts
            for i in range(len(r.actions))
        ]
        states, starts, actions, next_states = (
            map(np.array, zip(*spread(rows, MAX_ROWS), strict=True)) if rows else [np.empty(0)] * 4
        )
        return states, starts, actions, next_states


def collect_evidence(env: Any, num_seeds: int) -> Evidence:
    """Play ``num_seeds`` episodes in an unwrapped `LanguageEnv`, spread over the families of goals in all splits."""
    goals = {split: _goals(env, split) for split in SPLITS}
    return Evidence(env, goals, _play(env, goals, num_seeds), num_seeds)


def _goals(env: Any, split: Split) -> tuple[Goal, ...]:
    try:
        return tuple(env.task.goals(split))
    except Exception:  # `envs.check` asks again and reports it
        return ()


def _families(goals: dict[Split, tuple[Goal, ...]]) -> list[list[Goal]]:
    return [family for of_split in goals.values() for family in by_family(of_split).values()]


def _play(env: Any, goals: dict[Split, tuple[Goal, ...]], num_seeds: int) -> list[Rollout]:
    """Play episodes of random actions, the families taking turns."""
    rng = np.random.default_rng(0)
    env.action_space.seed(0)
    families = _families(goals)
    turns = [families[seed % len(families)] for seed in range(num_seeds)] if families else []
    return [_rollout(env, family[rng.integers(len(family))], seed) for seed, family in enumerate(turns)]


def _rollout(env: Any, goal: Goal, seed: int) -> Rollout:
    instruction = ""
    states: list[NDArray] = []
    actions: list[Any] = []
    rewards: list[float] = []
    successes: list[Any] = []
    terminated = truncated = False
    error: Exception | None = None
    try:
        observation, _ = env.reset(seed=seed, options=reset_options(goal))
        instruction = observation["goal"]
        states.append(np.array(env.state))
        while not (terminated or truncated) and len(actions) <= env.task.horizon(goal):
            action = env.action_space.sample()
            _, reward, terminated, truncated, info = env.step(action)
            states.append(np.array(env.state))
            actions.append(action)
            rewards.append(reward)
            successes.append(info.get("is_success"))
    except Exception as raised:  # `envs.check` reports it
        error = raised
    return Rollout(
        goal=goal,
        seed=seed,
        instruction=instruction,
        states=np.array(states or [env.state]),
        actions=actions,
        rewards=rewards,
        successes=successes,
        terminated=terminated,
        truncated=truncated,
        error=error,
    )


def reset_options(goal: Goal) -> dict[str, str]:
    """Return the options of ``reset`` for an episode with this goal."""
    return {"goal": goal.id, "split": goal.split}


def spread(items: Sequence[Any] | NDArray, count: int) -> list[Any]:
    """Return at most ``count`` items, evenly spread, including the first and the last."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(len(items), count)).astype(int))]


def some(items: Sequence[str]) -> str:
    """Return the first three items, and how many more there are."""
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def told(error: Exception | None) -> str:
    """Return an error in words: its kind and its message."""
    return f"{type(error).__name__}: {error}"

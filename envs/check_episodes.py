"""Checks of how episodes go: their resets and starts, their rewards and their ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.check_evidence import Evidence, reset_options, some, spread, told
from envs.goals import Goal


def episodes_run(evidence: Evidence) -> Iterator[str]:
    """Every goal can be reset to and played with random actions."""
    failures = [f"{r} after {len(r.actions)} steps: {told(r.error)}" for r in evidence.rollouts if r.error]
    if failures:
        yield f"{len(failures)} of {len(evidence.rollouts)} episodes broke off, the first with {failures[0]}"


def goals_begin_unreached(evidence: Evidence) -> Iterator[str]:
    """No goal holds at reset."""
    env, reached = evidence.env, []
    for goals in evidence.families:
        for seed, goal in enumerate(spread(goals, evidence.num_seeds)):
            _, info = env.reset(seed=seed, options=reset_options(goal))
            if info["is_success"] or env.task.achieved(goal, np.array(env.state), np.array(env.state)):
                reached.append(f"goal {goal.id!r} with seed {seed}")
    if reached:
        yield f"goals hold at reset already; task.is_valid_start must refuse such starts: {some(reached)}"


def starts_repeat(evidence: Evidence) -> Iterator[str]:
    """The start depends on nothing but seed and goal."""
    env = evidence.env
    goals = evidence.one_of_each_family
    for seed, goal in enumerate(goals):
        start = _start(env, goal, seed)
        if not _same(start, _start(env, goal, seed)):
            yield f"two resets with seed {seed} and goal {goal.id!r} differ: a start may depend on seed and goal only"
            return
        _start(env, goals[seed - 1], seed + 1)
        env.step(env.action_space.sample())
        if not _same(start, _start(env, goal, seed)):
            yield (
                f"a reset with seed {seed} and goal {goal.id!r} differs after an episode for {goals[seed - 1].id!r}: "
                "a start may depend on seed and goal only"
            )
            return


def starts_differ(evidence: Evidence) -> Iterator[str]:
    """Different seeds give different starts."""
    if not evidence.families:
        return
    goal = evidence.families[0][0]
    starts = {_start(evidence.env, goal, seed)[0].tobytes() for seed in range(evidence.num_seeds)}
    if 2 * len(starts) < evidence.num_seeds:
        yield (
            f"{evidence.num_seeds} seeds give only {len(starts)} different start(s) for goal {goal.id!r}: "
            "the wrapped environment's reset must draw the start from its seed"
        )


def rewards_are_finite(evidence: Evidence) -> Iterator[str]:
    """Rewards are finite numbers."""
    for rollout in evidence.rollouts:
        wrong = [reward for reward in rollout.rewards if not np.isfinite(reward)]
        if wrong:
            yield f"the reward was {wrong[0]} in an episode for {rollout}: it must be finite"
            return


def episodes_end_at_the_horizon(evidence: Evidence) -> Iterator[str]:
    """An episode that does not terminate is truncated at task.horizon(goal)."""
    for rollout in (r for r in evidence.rollouts if not r.error):
        horizon = evidence.env.task.horizon(rollout.goal)
        if not isinstance(horizon, int | np.integer) or horizon < 1:
            yield f"task.horizon gives {horizon!r} for goal {rollout.goal.id!r}: it must give a whole number above 0"
            return
        if len(rollout.actions) > horizon:
            yield f"an episode for {rollout} goes on after {horizon} steps: it must be truncated at task.horizon(goal)"
            return
        if rollout.truncated and len(rollout.actions) < horizon:
            yield (
                f"an episode for {rollout} was truncated after {len(rollout.actions)} steps although task.horizon "
                f"gives {horizon}: lower the horizon or lift the limit of the wrapped environment"
            )
            return


def unknown_names_are_refused(evidence: Evidence) -> Iterator[str]:
    """reset raises a ValueError for an unknown goal, split or option."""
    for option in ("goal", "split", "no such option"):
        options = {option: "no such name"}
        try:
            evidence.env.reset(seed=0, options=options)
        except ValueError:
            continue
        except Exception as error:
            yield f"reset(options={options}) must raise a ValueError, not {told(error)}"
        else:
            yield f"reset(options={options}) goes through: it must raise a ValueError"


def _start(env: Any, goal: Goal, seed: int) -> tuple[NDArray, str]:
    observation, _ = env.reset(seed=seed, options=reset_options(goal))
    return np.array(observation["state"]), observation["goal"]


def _same(one: tuple[NDArray, str], other: tuple[NDArray, str]) -> bool:
    return np.array_equal(one[0], other[0]) and one[1] == other[1]

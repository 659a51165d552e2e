"""Checks of what a task judges: `achieved`, `reward`, `is_valid_start`, `plausible` and `project`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.check_evidence import Evidence

MAX_IMPLAUSIBLE = 0.01  # the share of real transitions that `plausible` may refuse


def achieved_is_vectorised(evidence: Evidence) -> Iterator[str]:
    """task.achieved judges many states as it judges each, and leaves its input alone."""
    states, starts, _, _ = evidence.transitions
    return _vectorised_for_goals(evidence, "achieved", "b", states, starts)


def reward_is_vectorised(evidence: Evidence) -> Iterator[str]:
    """task.reward judges many transitions as it judges each, and leaves its input alone."""
    states, starts, _, next_states = evidence.transitions
    return _vectorised_for_goals(evidence, "reward", "fiu", states, next_states, starts)


def is_valid_start_is_vectorised(evidence: Evidence) -> Iterator[str]:
    """task.is_valid_start judges many states as it judges each, and leaves its input alone."""
    return _vectorised_for_goals(evidence, "is_valid_start", "b", evidence.transitions[0])


def plausible_is_vectorised(evidence: Evidence) -> Iterator[str]:
    """task.plausible judges many transitions as it judges each, and leaves its input alone."""
    states, _, actions, next_states = evidence.transitions
    return _vectorised("plausible", evidence.env.task.plausible, "b", states, actions, next_states)


def start_may_be_left_out(evidence: Evidence) -> Iterator[str]:
    """Without a start, task.achieved takes the first of the states (T, D) for it."""
    states, _, _, _ = evidence.transitions
    for goal in evidence.one_of_each_family if len(states) else ():
        achieved = evidence.env.task.achieved
        if not np.array_equal(achieved(goal, states.copy()), achieved(goal, states.copy(), states[0].copy())):
            yield f"task.achieved without start must take the first of the states (T, D) for it (goal {goal.id!r})"
            return


def _vectorised_for_goals(evidence: Evidence, name: str, kinds: str, *arrays: NDArray) -> Iterator[str]:
    """Yield the problems of one predicate or reward of the task, for the first goal that shows any."""
    for goal in evidence.one_of_each_family:
        found = list(_vectorised(name, partial(getattr(evidence.env.task, name), goal), kinds, *arrays))
        if found:
            yield from (f"{problem} (seen for goal {goal.id!r})" for problem in found)
            return


def _vectorised(name: str, judge: Callable[..., Any], kinds: str, *arrays: NDArray) -> Iterator[str]:
    """Yield the problems of a function of arrays (T, ...) that must give (T,) and judge each row by itself."""
    if not len(arrays[0]):  # no step was taken, which `episodes_run` reports
        return
    copies = [array.copy() for array in arrays]
    batched = np.asarray(judge(*copies))
    if not all(np.array_equal(copy, array) for copy, array in zip(copies, arrays, strict=True)):
        yield f"task.{name} changes its input: it must work on a copy"
    num_rows = len(arrays[0])
    if batched.shape != (num_rows,):
        yield f"task.{name} gives shape {batched.shape} for {num_rows} rows: it must give ({num_rows},)"
        return
    if batched.dtype.kind not in kinds:
        yield f"task.{name} gives {batched.dtype}: it must give {'bool' if kinds == 'b' else 'numbers'}"
    singly = np.array([judge(*(array[row].copy() for array in arrays)) for row in range(num_rows)])
    if singly.shape != batched.shape or not np.allclose(batched, singly, rtol=1e-4, atol=1e-6, equal_nan=True):
        yield f"task.{name} gives something else for a batch than for its rows one by one: it must give the same"
    twice = np.asarray(judge(*(np.stack([array, array]) for array in arrays)))
    if twice.shape != (2, num_rows):
        yield f"task.{name} gives shape {twice.shape} for leading axes (2, {num_rows}): it must keep them"


def success_is_achieved(evidence: Evidence) -> Iterator[str]:
    """info["is_success"] says what task.achieved says."""
    for rollout in (r for r in evidence.rollouts if r.actions):
        achieved = np.asarray(evidence.env.task.achieved(rollout.goal, rollout.states[1:], rollout.states[0]))
        if achieved.shape == (len(rollout.actions),) and list(achieved) != rollout.successes:
            step = int(np.argmin([a == b for a, b in zip(achieved, rollout.successes, strict=True)]))
            yield (
                f'info["is_success"] was {rollout.successes[step]} at step {step + 1} of {rollout}, while '
                f"task.achieved says {achieved[step]} for the same state and start: both must agree"
            )
            return


def real_transitions_are_plausible(evidence: Evidence) -> Iterator[str]:
    """task.plausible accepts at least 99 percent of real transitions."""
    verdicts = [
        np.ravel(evidence.env.task.plausible(r.states[:-1], np.array(r.actions), r.states[1:]))
        for r in evidence.rollouts
        if r.actions and not r.error
    ]
    refused = 1 - np.concatenate(verdicts).mean() if verdicts else 0.0
    if refused > MAX_IMPLAUSIBLE:
        yield f"task.plausible refuses {refused:.1%} of real transitions: it may refuse {MAX_IMPLAUSIBLE:.0%}"


def real_states_can_exist(evidence: Evidence) -> Iterator[str]:
    """task.project leaves real states as they are."""
    if not evidence.rollouts:
        return
    states = np.concatenate([rollout.states for rollout in evidence.rollouts])
    given = states.copy()
    projected = np.asarray(evidence.env.task.project(given))
    if not np.array_equal(given, states):
        yield "task.project changes its input: it must work on a copy"
    if projected.shape != states.shape or projected.dtype != states.dtype:
        yield (
            f"task.project gives {projected.dtype} of shape {projected.shape} for {states.dtype} of shape "
            f"{states.shape}: it must keep both"
        )
        return
    moved = np.flatnonzero(~np.isclose(projected, states, rtol=1e-4, atol=1e-6).all(-1))
    if len(moved):
        yield f"task.project changes {len(moved)} of {len(states)} real states: it must leave them as they are"

"""A checker for environments with goals in words: it says plainly what is wrong and what would be right.

It relies on an environment's interface alone (``reset``, ``step``, ``task``), so `envs.language` can import it.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.check_evidence import MAX_ROWS, Evidence, collect_evidence, reset_options, spread
from envs.goals import SPLITS, Goal, InvalidAction

MAX_IMPLAUSIBLE = 0.01  # the share of real transitions that `plausible` may refuse
NONSENSE = ("", "xyzzy", "colourless green ideas sleep furiously")


class LanguageEnvError(ValueError):
    """An environment that breaks the contract of `envs.language`; the message lists every problem found."""


def check_language_env(env: Any, num_seeds: int = 20) -> None:
    """Check that an environment keeps the contract of `envs.language.LanguageTask` and `LanguageEnv`.

    It plays ``num_seeds`` episodes of random actions, spread over the families of goals in all splits. It examines
    the goals and their phrasings, the starts, the text observations and actions, and the predicates. Gymnasium's own
    ``check_env`` is the other half of the contract.

    Args:
        env: a `LanguageEnv`, bare or as wrapped by ``gymnasium.make``. It is left in the middle of an episode.
        num_seeds: the number of episodes to play.

    Raises:
        LanguageEnvError: the message lists every problem found.
    """
    if num_seeds < 2:
        raise ValueError(f"num_seeds is {num_seeds}: at least 2 are needed to see whether starts differ")
    env = env.unwrapped
    evidence = collect_evidence(env, num_seeds)
    problems = [problem for check in _CHECKS for problem in _problems(check, evidence)]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise LanguageEnvError(f"{type(env.task).__name__} has {len(problems)} problem(s):\n{listed}")


def _problems(check: Callable[[Evidence], Iterable[str]], evidence: Evidence) -> list[str]:
    """Return the problems that a check found; an error that stops the check is one too."""
    found = []
    try:
        for problem in check(evidence):
            found.append(problem)
    except Exception as error:
        found.append(f"an error stopped the check of this rule: {check.__doc__} {_told(error)}")
    return found


def _every_split_has_goals(evidence: Evidence) -> Iterator[str]:
    """Each of the four splits has goals."""
    for split in SPLITS:
        goals = evidence.env.task.goals(split)
        if not len(goals):
            yield f"split {split!r} has no goals: task.goals({split!r}) must hold at least one"
        strays = [goal.id for goal in goals if goal.split != split]
        if strays:
            yield f"task.goals({split!r}) holds goals of another split: {_some(strays)}"


def _goals_stand_in_one_split(evidence: Evidence) -> Iterator[str]:
    """A goal stands in one split, or in train and rephrase."""
    splits: dict[str, list[str]] = {}
    for split, goals in evidence.goals.items():
        for goal in goals:
            splits.setdefault(goal.id, []).append(split)
    wrong = [f"{goal_id!r} in {' and '.join(where)}" for goal_id, where in splits.items() if not _may_share(where)]
    if wrong:
        yield f"goals stand in more than one split, which only train and rephrase may share: {_some(wrong)}"


def _may_share(splits: Sequence[str]) -> bool:
    return len(splits) == 1 or sorted(splits) == ["rephrase", "train"]


def _phrasings_stand_in_one_split(evidence: Evidence) -> Iterator[str]:
    """A phrasing stands in one split only, whatever its case and punctuation, and whatever mission is put into it."""
    said = [
        (split, phrasing.replace("{mission}", goal.id))
        for split, goals in evidence.goals.items()
        for goal in goals
        for phrasing in goal.phrasings
    ]
    said += [(rollout.goal.split, rollout.instruction) for rollout in evidence.rollouts]
    splits: dict[str, set[str]] = {}
    for split, words in said:
        splits.setdefault(" ".join(re.findall(r"\w+", words.lower())), set()).add(split)
    splits.pop("", None)  # the instruction of an episode whose reset failed
    leaks = [f"{words!r} in {' and '.join(sorted(where))}" for words, where in splits.items() if len(where) > 1]
    if leaks:
        yield f"phrasings leak from one split to another, where each must be new: {_some(leaks)}"


def _episodes_run(evidence: Evidence) -> Iterator[str]:
    """Every goal can be reset to and played with random actions."""
    failures = [f"{r} after {len(r.actions)} steps: {_told(r.error)}" for r in evidence.rollouts if r.error]
    if failures:
        yield f"{len(failures)} of {len(evidence.rollouts)} episodes broke off, the first with {failures[0]}"


def _goals_begin_unreached(evidence: Evidence) -> Iterator[str]:
    """No goal holds at reset."""
    env, reached = evidence.env, []
    for goals in evidence.families:
        for seed, goal in enumerate(spread(goals, evidence.num_seeds)):
            _, info = env.reset(seed=seed, options=reset_options(goal))
            if info["is_success"] or env.task.achieved(goal, np.array(env.state), np.array(env.state)):
                reached.append(f"goal {goal.id!r} with seed {seed}")
    if reached:
        yield f"goals hold at reset already; task.is_valid_start must refuse such starts: {_some(reached)}"


def _starts_repeat(evidence: Evidence) -> Iterator[str]:
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


def _starts_differ(evidence: Evidence) -> Iterator[str]:
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


def _states_are_described(evidence: Evidence) -> Iterator[str]:
    """task.describe makes a text of every reached state."""
    env, reached = evidence.env, [rollout.states for rollout in evidence.rollouts]
    reached += [np.array([env.state])] if any(r.error for r in evidence.rollouts) else []
    for state in (state for states in reached for state in spread(states, MAX_ROWS)):
        text = env.task.describe(state.copy())
        if not isinstance(text, str) or not text.strip():
            yield f"task.describe gives {reprlib.repr(text)} for a reached state: it must give a str that is not empty"
            return
        if not env.observation_space["text"].contains(text):
            yield f"task.describe gives {len(text)} characters, more than the observation space holds"
            return


def _action_texts_name_actions(evidence: Evidence) -> Iterator[str]:
    """Each of task.action_texts names an action, and no two name the same."""
    discrete = isinstance(evidence.env.action_space, spaces.Discrete)
    for rollout in evidence.rollouts:
        for state in rollout.states[[0, -1]]:
            texts = evidence.env.task.action_texts(state)
            if texts is None and discrete:
                yield "task.action_texts gives None although actions are discrete: it must list the actions in words"
            found = list(_action_text_problems(evidence.env, texts or ()))
            yield from found
            if found or texts is None:
                return


def _action_text_problems(env: Any, texts: Sequence[str]) -> Iterator[str]:
    named: dict[tuple, str] = {}
    for text in texts:
        try:
            action = env.task.parse_action(text)
        except Exception as error:
            yield f"task.parse_action does not know {text!r}, which task.action_texts lists: {_told(error)}"
            continue
        if not env.action_space.contains(action):
            yield f"task.parse_action({text!r}) gives {action!r}, which is not in {env.action_space}"
            continue
        key = tuple(np.ravel(action).tolist())
        if key in named:
            yield f"two of task.action_texts, {named[key]!r} and {text!r}, name the same action {action!r}"
        named[key] = text


def _nonsense_is_refused(evidence: Evidence) -> Iterator[str]:
    """task.parse_action raises InvalidAction for a text that names no action."""
    any_text_is_an_action = isinstance(evidence.env.action_space, spaces.Text)
    for text in () if any_text_is_an_action else NONSENSE:
        try:
            action = evidence.env.task.parse_action(text)
        except InvalidAction:
            continue
        except Exception as error:
            yield f"task.parse_action({text!r}) must raise InvalidAction, not {_told(error)}"
        else:
            yield f"task.parse_action({text!r}) gives {action!r}: it must raise InvalidAction"


def _achieved_is_vectorised(evidence: Evidence) -> Iterator[str]:
    """task.achieved judges many states as it judges each, and leaves its input alone."""
    states, starts, _, _ = evidence.transitions
    return _vectorised_for_goals(evidence, "achieved", "b", states, starts)


def _reward_is_vectorised(evidence: Evidence) -> Iterator[str]:
    """task.reward judges many transitions as it judges each, and leaves its input alone."""
    states, starts, _, next_states = evidence.transitions
    return _vectorised_for_goals(evidence, "reward", "fiu", states, next_states, starts)


def _is_valid_start_is_vectorised(evidence: Evidence) -> Iterator[str]:
    """task.is_valid_start judges many states as it judges each, and leaves its input alone."""
    return _vectorised_for_goals(evidence, "is_valid_start", "b", evidence.transitions[0])


def _plausible_is_vectorised(evidence: Evidence) -> Iterator[str]:
    """task.plausible judges many transitions as it judges each, and leaves its input alone."""
    states, _, actions, next_states = evidence.transitions
    return _vectorised("plausible", evidence.env.task.plausible, "b", states, actions, next_states)


def _start_may_be_left_out(evidence: Evidence) -> Iterator[str]:
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
    if not len(arrays[0]):  # no step was taken, which `_episodes_run` reports
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


def _success_is_achieved(evidence: Evidence) -> Iterator[str]:
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


def _real_transitions_are_plausible(evidence: Evidence) -> Iterator[str]:
    """task.plausible accepts at least 99 percent of real transitions."""
    verdicts = [
        np.ravel(evidence.env.task.plausible(r.states[:-1], np.array(r.actions), r.states[1:]))
        for r in evidence.rollouts
        if r.actions and not r.error
    ]
    refused = 1 - np.concatenate(verdicts).mean() if verdicts else 0.0
    if refused > MAX_IMPLAUSIBLE:
        yield f"task.plausible refuses {refused:.1%} of real transitions: it may refuse {MAX_IMPLAUSIBLE:.0%}"


def _real_states_can_exist(evidence: Evidence) -> Iterator[str]:
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


def _rewards_are_finite(evidence: Evidence) -> Iterator[str]:
    """Rewards are finite numbers."""
    for rollout in evidence.rollouts:
        wrong = [reward for reward in rollout.rewards if not np.isfinite(reward)]
        if wrong:
            yield f"the reward was {wrong[0]} in an episode for {rollout}: it must be finite"
            return


def _episodes_end_at_the_horizon(evidence: Evidence) -> Iterator[str]:
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


def _unknown_names_are_refused(evidence: Evidence) -> Iterator[str]:
    """reset raises a ValueError for an unknown goal, split or option."""
    for option in ("goal", "split", "no such option"):
        options = {option: "no such name"}
        try:
            evidence.env.reset(seed=0, options=options)
        except ValueError:
            continue
        except Exception as error:
            yield f"reset(options={options}) must raise a ValueError, not {_told(error)}"
        else:
            yield f"reset(options={options}) goes through: it must raise a ValueError"


_CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    _every_split_has_goals,
    _goals_stand_in_one_split,
    _phrasings_stand_in_one_split,
    _episodes_run,
    _goals_begin_unreached,
    _starts_repeat,
    _starts_differ,
    _states_are_described,
    _action_texts_name_actions,
    _nonsense_is_refused,
    _achieved_is_vectorised,
    _reward_is_vectorised,
    _is_valid_start_is_vectorised,
    _plausible_is_vectorised,
    _start_may_be_left_out,
    _success_is_achieved,
    _real_transitions_are_plausible,
    _real_states_can_exist,
    _rewards_are_finite,
    _episodes_end_at_the_horizon,
    _unknown_names_are_refused,
)


def _start(env: Any, goal: Goal, seed: int) -> tuple[NDArray, str]:
    observation, _ = env.reset(seed=seed, options=reset_options(goal))
    return np.array(observation["state"]), observation["goal"]


def _same(one: tuple[NDArray, str], other: tuple[NDArray, str]) -> bool:
    return np.array_equal(one[0], other[0]) and one[1] == other[1]


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _told(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"

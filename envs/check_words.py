"""Checks of what a task says: its goals and their phrasings, and the words for states and actions."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.check_evidence import MAX_ROWS, Evidence, some, spread, told
from envs.goals import SPLITS, InvalidAction

NONSENSE = ("", "xyzzy", "colourless green ideas sleep furiously")


def every_split_has_goals(evidence: Evidence) -> Iterator[str]:
    """Each of the four splits has goals."""
    for split in SPLITS:
        goals = evidence.env.task.goals(split)
        if not len(goals):
            yield f"split {split!r} has no goals: task.goals({split!r}) must hold at least one"
        strays = [goal.id for goal in goals if goal.split != split]
        if strays:
            yield f"task.goals({split!r}) holds goals of another split: {some(strays)}"


def goals_stand_in_one_split(evidence: Evidence) -> Iterator[str]:
    """A goal stands in one split, or in train and rephrase."""
    splits: dict[str, list[str]] = {}
    for split, goals in evidence.goals.items():
        for goal in goals:
            splits.setdefault(goal.id, []).append(split)
    wrong = [f"{goal_id!r} in {' and '.join(where)}" for goal_id, where in splits.items() if not _may_share(where)]
    if wrong:
        yield f"goals stand in more than one split, which only train and rephrase may share: {some(wrong)}"


def _may_share(splits: Sequence[str]) -> bool:
    return len(splits) == 1 or sorted(splits) == ["rephrase", "train"]


def phrasings_stand_in_one_split(evidence: Evidence) -> Iterator[str]:
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
        yield f"phrasings leak from one split to another, where each must be new: {some(leaks)}"


def states_are_described(evidence: Evidence) -> Iterator[str]:
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


def action_texts_name_actions(evidence: Evidence) -> Iterator[str]:
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
            yield f"task.parse_action does not know {text!r}, which task.action_texts lists: {told(error)}"
            continue
        if not env.action_space.contains(action):
            yield f"task.parse_action({text!r}) gives {action!r}, which is not in {env.action_space}"
            continue
        key = tuple(np.ravel(action).tolist())
        if key in named:
            yield f"two of task.action_texts, {named[key]!r} and {text!r}, name the same action {action!r}"
        named[key] = text


def nonsense_is_refused(evidence: Evidence) -> Iterator[str]:
    """task.parse_action raises InvalidAction for a text that names no action."""
    any_text_is_an_action = isinstance(evidence.env.action_space, spaces.Text)
    for text in () if any_text_is_an_action else NONSENSE:
        try:
            action = evidence.env.task.parse_action(text)
        except InvalidAction:
            continue
        except Exception as error:
            yield f"task.parse_action({text!r}) must raise InvalidAction, not {told(error)}"
        else:
            yield f"task.parse_action({text!r}) gives {action!r}: it must raise InvalidAction"

"""Which episodes are played: goals, words and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import numpy as np

from envs.goals import Goal, Split, unknown
from envs.language import LanguageTask
from llm_agents.runtime.errors import UserError


@dataclass(frozen=True)
class Case:
    """One episode to be played: this goal, in these words, from this seed."""

    goal_id: str
    instruction: str
    seed: int
    split: Split


Wordings = Literal["all", "given", "new"]


def draw_goals(
    task: LanguageTask,
    split: Split,
    rng: np.random.Generator,
    wordings: Wordings = "all",
    kind: str | None = None,
) -> Iterator[tuple[Goal, str]]:
    """Goals of a split, each in one of its wordings, without end: families in turn, see `make_panel`.

    Raises:
        UserError: the task has no goal in the split, or no such wording for one.
        UnknownGoal: an unknown split.
    """
    families: dict[str, list[tuple[Goal, list[str]]]] = defaultdict(list)
    for goal in task.goals(split):
        said = [words for words in phrasings(goal, wordings) if kind is None or task.wording_kind(words) == kind]
        if said:
            families[goal.family].append((goal, said))
    if not families:
        of_kind = "" if kind is None else f" with a wording of the kind {kind!r}"
        raise UserError(f"{type(task).__name__} has no goal in split {split!r}{of_kind}")
    orders: dict[str, list[tuple[Goal, list[str]]]] = {name: [] for name in families}
    for name in cycle(sorted(families)):
        if not orders[name]:
            orders[name] = [families[name][i] for i in rng.permutation(len(families[name]))]
        goal, said = orders[name].pop()
        yield goal, said[rng.integers(len(said))]


def phrasings(goal: Goal, wordings: Wordings) -> tuple[str, ...]:
    """A goal's phrasings: all; the ``given`` half, which imagination may use; or the ``new`` half, which nothing sees.

    The halves are every other phrasing, so the same wordings are new for every goal of a kind.

    Raises:
        UserError: unknown wordings, or a goal with a single phrasing was asked for a new one.
    """
    halves = {"all": goal.phrasings, "given": goal.phrasings[::2], "new": goal.phrasings[1::2]}
    if wordings not in halves:
        raise UserError(unknown("wordings", wordings, list(halves)))
    if not halves[wordings]:
        raise UserError(f"goal {goal.id!r} has one phrasing in split {goal.split!r}, so none of its wordings is new")
    return halves[wordings]


MAX_EPISODES = 10**6  # panels are seeded from there upwards


_SEEDS_PER_COLLECTION = 10**7


def draw_cases(task: LanguageTask, split: Split, count: int, seed: int) -> list[Case]:
    """Cases to learn from; the first ones do not depend on how many follow. No seed is one of an evaluation panel's."""
    goals = draw_goals(task, split, np.random.default_rng(seed))
    first = seed * _SEEDS_PER_COLLECTION
    return [Case(goal.id, words, first + index, split) for index, (goal, words) in enumerate(islice(goals, count))]

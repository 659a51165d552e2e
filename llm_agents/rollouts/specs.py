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
from llm_agents.runtime.streams import start_seed, stream


@dataclass(frozen=True)
class EpisodeSpec:
    """One episode to be played: this goal, in these words, from this seed."""

    goal_id: str
    instruction: str
    seed: int
    split: Split


PhrasingSubset = Literal["all", "given", "new"]


def draw_goals(
    task: LanguageTask,
    split: Split,
    rng: np.random.Generator,
    subset: PhrasingSubset = "all",
    kind: str | None = None,
) -> Iterator[tuple[Goal, str]]:
    """Goals of a split, each in one of its phrasings, without end: families in turn, see `make_panel`.

    Raises:
        UserError: the task has no goal in the split, or no such phrasing for one.
        UnknownGoal: an unknown split.
    """
    families: dict[str, list[tuple[Goal, list[str]]]] = defaultdict(list)
    for goal in task.goals(split):
        phrasings = [
            phrasing
            for phrasing in select_phrasings(goal, subset)
            if kind is None or task.phrasing_kind(phrasing) == kind
        ]
        if phrasings:
            families[goal.family].append((goal, phrasings))
    if not families:
        of_kind = "" if kind is None else f" with a phrasing of the kind {kind!r}"
        raise UserError(f"{type(task).__name__} has no goal in split {split!r}{of_kind}")
    orders: dict[str, list[tuple[Goal, list[str]]]] = {name: [] for name in families}
    for name in cycle(sorted(families)):
        if not orders[name]:
            orders[name] = [families[name][i] for i in rng.permutation(len(families[name]))]
        goal, phrasings = orders[name].pop()
        yield goal, phrasings[rng.integers(len(phrasings))]


def select_phrasings(goal: Goal, subset: PhrasingSubset) -> tuple[str, ...]:
    """A goal's phrasings: all; the ``given`` half, which imagination may use; or the ``new`` half, which nothing sees.

    The halves are every other phrasing, so the same phrasings are new for every goal of a kind.

    Raises:
        UserError: unknown phrasings, or a goal with a single phrasing was asked for a new one.

    >>> goal = Goal("line", "line", "rephrase", ("line them up", "form a row", "make a queue"))
    >>> select_phrasings(goal, "given"), select_phrasings(goal, "new")
    (('line them up', 'make a queue'), ('form a row',))
    """
    halves = {"all": goal.phrasings, "given": goal.phrasings[::2], "new": goal.phrasings[1::2]}
    if subset not in halves:
        raise UserError(unknown("phrasings", subset, list(halves)))
    if not halves[subset]:
        raise UserError(f"goal {goal.id!r} has one phrasing in split {goal.split!r}, so none of its phrasings is new")
    return halves[subset]


def draw_specs(
    task: LanguageTask, split: Split, count: int, seed: int, start_range: str = "collect"
) -> list[EpisodeSpec]:
    """Draw episodes to learn from; the first ones do not depend on how many follow.

    Args:
        start_range: the range of start seeds, and the name of the stream of goals (see `llm_agents.runtime.streams`).

    Raises:
        UserError: there are more than a range holds, or the task has no goal in the split.
    """
    goals = draw_goals(task, split, stream(seed, f"{start_range}/goals"))
    return [
        EpisodeSpec(goal.id, phrasing, start_seed(start_range, seed, index), split)
        for index, (goal, phrasing) in enumerate(islice(goals, count))
    ]

"""Which episodes are played and imagined: goals, words and seeds, each stage in a range of seeds of its own."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from envs.goals import Goal, Split
from envs.language import LanguageTask
from llm_agents.rollouts.cases import Case, Wordings, phrasings
from llm_agents.runtime.errors import UserError

# Panels start at 10**6; what is learned from stays below, whatever the run's seed is.
_SEEDS = {"real": 0, "play": 200_000, "gate": 300_000, "rephrase": 400_000, "easy": 500_000, "hard": 600_000}
_SEEDS_PER_RUN = 10**7
PANEL_SEEDS = range(10**6, 10**7)


def training_cases(task: LanguageTask, stage: str, count: int, seed: int) -> list[Case]:
    """Cases for training goals in training wordings, every goal equally often."""
    return _draw(task, "train", stage, count, seed, "all")


def imagination_cases(task: LanguageTask, split: Split, count: int, seed: int) -> list[Case]:
    """Cases for unseen goals; of `rephrase`, only the given half of the wordings."""
    return _draw(task, split, split, count, seed, "given" if split == "rephrase" else "all")


def _draw(task: LanguageTask, split: Split, stage: str, count: int, seed: int, wordings: Wordings) -> list[Case]:
    """The same number of cases for each family; in it, each (goal, wording) as often as any other.

    Raises:
        UserError: there would be none for each.
    """
    rng = np.random.default_rng([seed, _SEEDS[stage]])
    families: dict[str, list[tuple[Goal, str]]] = defaultdict(list)
    for goal in task.goals(split):
        families[goal.family] += [(goal, words) for words in phrasings(goal, wordings)]
    if 0 < count < len(families):
        raise UserError(f"{count} cases ({stage}) cannot be shared among {len(families)} families of {split!r} goals")
    cases = []
    for name in sorted(families):
        said = families[name]
        size = count // len(families)
        order = np.concatenate([rng.permutation(len(said)) for _ in range(size // len(said) + 1)])[:size]
        cases += [(said[i][0].id, said[i][1]) for i in order]
    first = seed * _SEEDS_PER_RUN + _SEEDS[stage]
    return [Case(goal_id, words, first + index, split) for index, (goal_id, words) in enumerate(cases)]

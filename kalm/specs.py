"""Which episodes are played and imagined: goals, phrasings, and starts from a range for each stage."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from envs.goals import Goal, Split
from envs.language import LanguageTask
from llm_agents.rollouts.specs import EpisodeSpec, PhrasingSubset, select_phrasings
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.streams import START_RANGES, start_seed, stream


def training_specs(task: LanguageTask, stage: str, count: int, seed: int) -> list[EpisodeSpec]:
    """Cases for training goals in training phrasings, every goal equally often."""
    return _draw(task, "train", stage, count, seed, "all")


def imagination_specs(task: LanguageTask, split: Split, count: int, seed: int) -> list[EpisodeSpec]:
    """Cases for unseen goals; of `rephrase`, only the given half of the phrasings."""
    return _draw(task, split, split, count, seed, "given" if split == "rephrase" else "all")


def _draw(
    task: LanguageTask, split: Split, stage: str, count: int, seed: int, subset: PhrasingSubset
) -> list[EpisodeSpec]:
    """The same number of cases for each family; in it, each (goal, phrasing) as often as any other.

    Raises:
        UserError: there would be none for each.
    """
    rng = stream(seed, "kalm/goals", START_RANGES.index(stage))
    families: dict[str, list[tuple[Goal, str]]] = defaultdict(list)
    for goal in task.goals(split):
        families[goal.family] += [(goal, phrasing) for phrasing in select_phrasings(goal, subset)]
    if 0 < count < len(families):
        raise UserError(f"{count} cases ({stage}) cannot be shared among {len(families)} families of {split!r} goals")
    specs = []
    for name in sorted(families):
        phrasings = families[name]
        size = count // len(families)
        order = np.concatenate([rng.permutation(len(phrasings)) for _ in range(size // len(phrasings) + 1)])[:size]
        specs += [(phrasings[i][0].id, phrasings[i][1]) for i in order]
    return [
        EpisodeSpec(goal_id, phrasing, start_seed(stage, seed, index), split)
        for index, (goal_id, phrasing) in enumerate(specs)
    ]

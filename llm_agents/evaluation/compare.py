"""Several runs of one recipe, which differ in their seed, as one result, alone or beside as many of another config."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from envs.goals import GoalSet, unknown
from envs.language import LanguageTask
from llm_agents.evaluation.results import Result, StoredPanel, stored_panels
from llm_agents.evaluation.statistics import Estimate, over_seeds, paired_difference, success_rate
from llm_agents.registry.recipes import Recipe, References, find_recipe
from llm_agents.rollouts.panels import Panel
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run

Results = Mapping[str, Mapping[str, Result]]  # by column and agent


@dataclass(frozen=True)
class Comparison:
    """By agent and column: success rates, paired differences from the baseline, and fractions of the oracle."""

    references: References
    rates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    fractions: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Contrast:
    """Runs of one config beside runs of another, by agent and column; for the agents that both have.

    Attributes:
        differences: paired by seed and case, the runs less the others.
    """

    rates: dict[str, dict[str, Estimate]]
    other_rates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]


def compare(runs: Sequence[Results], references: References) -> Comparison:
    """Runs whose agents played the same panels, one run a seed.

    Intervals are at 95 %, over seeds and cases (see `over_seeds`); with one run they are over the cases alone, those of
    success rates Wilson's.

    Raises:
        UserError: the runs have no such agent.
    """
    columns = list(runs[0])
    agents = list(runs[0][columns[0]])
    baseline, oracle = references.baseline, references.oracle
    for name in (baseline, oracle):
        if name not in agents:
            raise UserError(unknown("agent", name, agents))
    scores = {agent: {column: _scores(runs, column, agent) for column in columns} for agent in agents}
    others = [agent for agent in agents if agent != baseline]
    return Comparison(
        references=references,
        rates={a: {c: _rate(scores[a][c]) for c in columns} for a in agents},
        differences={a: {c: paired_difference(scores[a][c], scores[baseline][c]) for c in columns} for a in others},
        fractions={
            a: {c: float(scores[a][c].mean() / max(scores[oracle][c].mean(), 1e-9)) for c in columns} for a in agents
        },
    )


def contrast(runs: Sequence[Results], others: Sequence[Results]) -> Contrast:
    """Runs beside as many others, on the same panels and in the same order of seeds.

    Raises:
        UserError: there are more of one than of the other, or no agent is in all of them.
    """
    if len(runs) != len(others):
        raise UserError(f"{len(runs)} runs cannot be paired with {len(others)} others: give as many, in the same order")
    columns = list(runs[0])
    agents = [name for name in runs[0][columns[0]] if all(name in run[columns[0]] for run in others)]
    if not agents:
        raise UserError("the runs and the others have no agent of the same name")
    scores, of_others = ({a: {c: _scores(side, c, a) for c in columns} for a in agents} for side in (runs, others))
    return Contrast(
        rates={a: {c: _rate(scores[a][c]) for c in columns} for a in agents},
        other_rates={a: {c: _rate(of_others[a][c]) for c in columns} for a in agents},
        differences={a: {c: paired_difference(scores[a][c], of_others[a][c]) for c in columns} for a in agents},
    )


def read_results(
    runs: Sequence[Run], columns: Sequence[str] = (), by_family: bool = False
) -> list[dict[str, dict[str, Result]]]:
    """The stored results of runs, on the panels that all of them were judged on; agents in the recipe's order.

    Args:
        columns: those that are wanted, in this order; all by default.
        by_family: a column for each family of goals instead of one for the panel.

    Raises:
        UserError: there is no such panel.
    """
    stored = [{panel.panel.hash: panel for panel in stored_panels(run)} for run in runs]
    shared = [key for key in stored[0] if all(key in panels for panels in stored)]
    if not shared:
        raise UserError("the runs were not judged on a panel they share: evaluate them with the same options first")
    keys = {stored[0][key].column: key for key in shared}
    for column in columns:
        if column not in keys:
            raise UserError(unknown("column", column, list(keys)))
    recipe = find_recipe(runs[0].recipe)
    order = recipe.agent_names(runs[0])
    split = partial(_by_family, _make_task(recipe, runs[0]).goal_set) if by_family else _as_it_is
    return [
        {
            part.column: _in_order(part.results, order)
            for column in columns or keys
            for part in split(replace(panels[keys[column]], column=column))
        }
        for panels in stored
    ]


def _make_task(recipe: Recipe, run: Run) -> LanguageTask:
    return recipe.make_env(parse_config(recipe.Config, run.config, str(run.folder))).task


def _as_it_is(panel: StoredPanel) -> list[StoredPanel]:
    return [panel]


def _by_family(goals: GoalSet, panel: StoredPanel) -> list[StoredPanel]:
    """A panel for each family of its goals."""
    families = defaultdict(list)
    for number, spec in enumerate(panel.panel.specs):
        families[goals.find(spec.goal_id).family].append(number)
    return [
        StoredPanel(
            f"{panel.column}: {family} ({len(numbers)})",
            Panel(tuple(panel.panel.specs[number] for number in numbers)),
            {name: result.of_episodes(numbers) for name, result in panel.results.items()},
        )
        for family, numbers in sorted(families.items())
    ]


def _in_order(results: Mapping[str, Result], order: Sequence[str]) -> dict[str, Result]:
    return {name: results[name] for name in [*order, *results] if name in results}


def _rate(scores: NDArray[np.float64]) -> Estimate:
    """Of (runs, cases)."""
    if len(scores) == 1:
        return success_rate(int(scores.sum()), scores.size)
    return over_seeds(scores)


def _scores(runs: Sequence[Results], column: str, agent: str) -> NDArray[np.float64]:
    """(runs, cases)."""
    try:
        return np.array([run[column][agent].outcomes for run in runs], np.float64)
    except KeyError:
        raise UserError(f"not every run was judged with agent {agent!r} on {column!r}") from None

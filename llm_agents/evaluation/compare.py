"""Several runs of one recipe, which differ in their seed, as one result, alone or beside as many of another config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.goals import unknown
from llm_agents.evaluation.results import Result, select, stored_panels
from llm_agents.evaluation.statistics import Estimate, over_seeds, paired_difference, success_rate
from llm_agents.registry.recipes import References, find_recipe
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
        fractions={a: {c: _fraction(scores[a][c].mean(), scores[oracle][c].mean()) for c in columns} for a in agents},
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
    agents = list(find_recipe(runs[0].recipe).agents(runs[0]))
    found = [{column: select(panels[keys[column]].results, agents) for column in columns or keys} for panels in stored]
    return [_by_family(results) for results in found] if by_family else found


def _by_family(results: Results) -> dict[str, dict[str, Result]]:
    """A column for each family of goals of each column."""
    parts: dict[str, dict[str, Result]] = {}
    for column, by_agent in results.items():
        for agent, result in by_agent.items():
            for family, part in result.by("family").items():
                parts.setdefault(f"{column}: {family} ({part.episodes})", {})[agent] = part
    return parts


def _fraction(rate: float, oracle: float) -> float:
    """NaN where the oracle has nothing."""
    return float(rate / oracle) if oracle > 0 else float("nan")


def _rate(scores: NDArray[np.float64]) -> Estimate:
    """Of (runs, episodes)."""
    if len(scores) == 1:
        return success_rate(int(scores.sum()), scores.size)
    return over_seeds(scores)


def _scores(runs: Sequence[Results], column: str, agent: str) -> NDArray[np.float64]:
    """(runs, episodes)."""
    try:
        return np.array([run[column][agent].outcomes for run in runs], np.float64)
    except KeyError:
        raise UserError(f"not every run was judged with agent {agent!r} on {column!r}") from None

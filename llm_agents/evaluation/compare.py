"""Several runs of one recipe, which differ in their seed, as one result: means, differences, fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from envs.goals import unknown
from llm_agents.console import agents_table
from llm_agents.errors import UserError
from llm_agents.evaluation.evaluate import Result, stored_panels
from llm_agents.evaluation.statistics import Estimate, over_seeds, paired_difference, success_rate
from llm_agents.recipes import find_recipe
from llm_agents.run import Run

Results = Mapping[str, Mapping[str, Result]]  # by column and agent


@dataclass(frozen=True)
class References:
    """The agents that the others are set beside.

    Attributes:
        baseline: it is paired with all others, case by case and seed by seed.
        oracle: of it the fraction is reported.
    """

    baseline: str
    oracle: str


@dataclass(frozen=True)
class Comparison:
    """By agent and column: success rates, paired differences from the baseline, and fractions of the oracle."""

    references: References
    rates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    fractions: dict[str, dict[str, float]]


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


def read_results(runs: Sequence[Run]) -> list[dict[str, dict[str, Result]]]:
    """The stored results of runs, on the panels that all of them were judged on; agents in the recipe's order.

    Raises:
        UserError: there is no such panel.
    """
    stored = [{panel.panel.hash: panel for panel in stored_panels(run)} for run in runs]
    shared = [key for key in stored[0] if all(key in panels for panels in stored)]
    if not shared:
        raise UserError("the runs were not judged on a panel they share: evaluate them with the same options first")
    order = find_recipe(runs[0].recipe).agent_names(runs[0])
    return [{panels[key].column: _in_order(panels[key].results, order) for key in shared} for panels in stored]


def _in_order(results: Mapping[str, Result], order: Sequence[str]) -> dict[str, Result]:
    return {name: results[name] for name in [*order, *results] if name in results}


def tables(comparison: Comparison, num_runs: int) -> list[Table]:
    """Three tables to print: rates, differences, fractions."""
    over = f"{num_runs} seeds" if num_runs > 1 else "one seed"
    rates = _table(
        f"success rate, 95 % interval, {over}", comparison.rates, lambda e: f"{e.value:.3f} [{e.low:.2f}, {e.high:.2f}]"
    )
    differences = _table(
        f"paired difference from {comparison.references.baseline}, 95 % interval, {over}",
        comparison.differences,
        lambda e: f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]",
    )
    fractions = _table(
        f"fraction of {comparison.references.oracle}", comparison.fractions, lambda value: f"{value:.2f}"
    )
    return [rates, differences, fractions]


def _table(title: str, rows: Mapping[str, Mapping], show) -> Table:
    table = agents_table(title)
    for column in next(iter(rows.values()), {}):
        table.add_column(Text(column), justify="right")
    for name, row in rows.items():
        table.add_row(Text(name), *[Text(show(value)) for value in row.values()])
    return table


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

"""What the results of a run come to: fractions of the oracle, and paired differences from real data only."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from llm_agents.evaluation.evaluate import Result
from llm_agents.evaluation.statistics import paired_difference


def summarize(results: Mapping[str, Mapping[str, Result]]) -> dict[str, dict[str, float]]:
    """For each policy with imagined data, by column.

    Returns:
        ``<agent> / oracle``, and ``<agent> - real`` with ``(low)`` and ``(high)``, the 95 % interval of the paired
        difference over the panel's cases: the luck of the panel, not that of the training run.
    """
    agents = next(iter(results.values()))
    imagined = [name for name in agents if name.startswith("real+") and name != "real+oracle"]
    table: dict[str, dict[str, float]] = {}
    for name in imagined:
        table[f"{name} / oracle"] = {
            column: row[name].rate.value / max(row["real+oracle"].rate.value, 1e-9) for column, row in results.items()
        }
    for name in imagined:
        estimates = {c: paired_difference(row[name].outcomes, row["real"].outcomes) for c, row in results.items()}
        table[f"{name} - real"] = {column: estimate.value for column, estimate in estimates.items()}
        table[f"{name} - real (low)"] = {column: estimate.low for column, estimate in estimates.items()}
        table[f"{name} - real (high)"] = {column: estimate.high for column, estimate in estimates.items()}
    return table


def summary_table(summary: Mapping[str, Mapping[str, float]]) -> Table:
    """Fractions of the oracle, and differences from real data with their intervals, in one cell each."""
    table = Table("compared", title="fraction of the oracle; paired difference from real data only, 95 % interval")
    for column in next(iter(summary.values()), {}):
        table.add_column(column, justify="right")
    for name, row in summary.items():
        if name.endswith(" - real"):
            low, high = summary[f"{name} (low)"], summary[f"{name} (high)"]
            table.add_row(name, *[f"{row[c]:+.2f} [{low[c]:+.2f}, {high[c]:+.2f}]" for c in row])
        elif not name.endswith(")"):
            table.add_row(name, *[f"{value:.2f}" for value in row.values()])
    return table

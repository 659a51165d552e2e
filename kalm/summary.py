"""What the results of a run come to: fractions of the oracle, and paired differences from real data only."""

from __future__ import annotations

from collections.abc import Mapping

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

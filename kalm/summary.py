"""What the results of a run come to, as plain data for its folder and its report."""

from __future__ import annotations

from llm_agents.evaluation.compare import Comparison

BASELINE, ORACLE = "real", "real+oracle"


def summarize(comparison: Comparison) -> dict[str, dict[str, float]]:
    """For each policy with imagined data, by column: the fraction of the oracle, and the paired difference from real
    data only with the bounds of its interval."""
    imagined = [name for name in comparison.rates if name.startswith("real+") and name != ORACLE]
    table: dict[str, dict[str, float]] = {}
    for name in imagined:
        table[f"{name} / oracle"] = comparison.fractions[name]
    for name in imagined:
        row = comparison.differences[name]
        table[f"{name} - real"] = {column: estimate.value for column, estimate in row.items()}
        table[f"{name} - real (low)"] = {column: estimate.low for column, estimate in row.items()}
        table[f"{name} - real (high)"] = {column: estimate.high for column, estimate in row.items()}
    return table

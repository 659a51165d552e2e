"""Results as tables to print."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from llm_agents.evaluation.compare import (
    Comparison,
    Contrast,
)
from llm_agents.evaluation.results import (
    Result,
)
from llm_agents.evaluation.statistics import Estimate
from llm_agents.rollouts.panels import Panel
from llm_agents.runtime.console import add_numbers, agents_table


def results_table(results: Mapping[str, Mapping[str, Result]], panels: Mapping[str, Panel]) -> Table:
    """Agents down, columns across; each cell a success rate with its interval, each header the panel's hash."""
    table = agents_table("success rate with 95 % interval")
    for column in results:
        add_numbers(table, f"{column}\n{panels[column].hash}")
    for name in next(iter(results.values()), {}):
        table.add_row(Text(name), *[Text(format_rate(row[name].rate)) for row in results.values()])
    return table


def format_rate(rate: Estimate) -> str:
    """Such as ``0.873 [0.83, 0.91]``."""
    return f"{rate.value:.3f} [{rate.low:.2f}, {rate.high:.2f}]"


def tables(comparison: Comparison, num_runs: int) -> list[Table]:
    """Three tables to print: rates, differences, fractions."""
    over, references = _over(num_runs), comparison.references
    return [
        _table(f"success rate, {over}", comparison.rates, format_rate),
        _table(f"paired difference from {references.baseline}, {over}", comparison.differences, _format_difference),
        _table(f"fraction of {references.oracle}", comparison.fractions, _format_fraction),
    ]


def contrast_tables(found: Contrast, num_runs: int) -> list[Table]:
    """Three tables to print: rates, rates of the others, differences."""
    over = _over(num_runs)
    return [
        _table(f"success rate, {over}", found.rates, format_rate),
        _table(f"success rate of the others, {over}", found.other_rates, format_rate),
        _table(f"paired difference from the others, {over}", found.differences, _format_difference),
    ]


def _format_difference(found: Estimate) -> str:
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _format_fraction(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _over(num_runs: int) -> str:
    return f"95 % interval, {num_runs} seeds" if num_runs > 1 else "95 % interval, one seed"


def _table(title: str, rows: Mapping[str, Mapping], show) -> Table:
    table = agents_table(title)
    for column in next(iter(rows.values()), {}):
        add_numbers(table, column)
    for name, row in rows.items():
        table.add_row(Text(name), *[Text(show(value)) for value in row.values()])
    return table

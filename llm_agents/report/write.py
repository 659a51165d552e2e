"""Collect what a run's folder holds and render it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llm_agents.evaluation.results import StoredPanel, stored_panels
from llm_agents.evaluation.tables import format_rate
from llm_agents.registry.recipes import Recipe, load_run_config
from llm_agents.report.charts import BarChart, Curve, bar_chart, curve, number
from llm_agents.report.pictures import Strip, rollout_strips
from llm_agents.runtime.run import Run, write_atomically


@dataclass(frozen=True)
class NumberTable:
    """Rows and columns of numbers that a stage of the recipe left."""

    title: str
    columns: list[str]
    rows: dict[str, list[str]]


def write_report(run: Run, recipe: Recipe) -> Path:
    """Write ``report.html`` from what the run has so far; a section without data is left out."""
    config = load_run_config(recipe, run)
    names = list(recipe.agents(run))
    panels = _in_order(stored_panels(run), [column.name for column in recipe.columns(config)])
    judged = {name for panel in panels for name in panel.results}
    agents = [name for name in names if name in judged] + sorted(judged - set(names))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("report.html").render(
        run=run,
        title=run.folder.resolve().name,
        config=yaml.safe_dump(run.config, sort_keys=False),
        agents=agents,
        panels=panels,
        charts=_bar_charts(panels, agents),
        tables=_number_tables(run, recipe),
        curves=_curves(run),
        strips=_strips(run, recipe, config),
        format_rate=format_rate,
    )
    path = run.folder / "report.html"
    write_atomically(path, html)
    return path


def _in_order(panels: list[StoredPanel], columns: Sequence[str]) -> list[StoredPanel]:
    """The panels that have results, in the order of the recipe's columns; those of your own come last."""
    places = {name: place for place, name in enumerate(columns)}
    return sorted((panel for panel in panels if panel.results), key=lambda panel: places.get(panel.column, len(places)))


def _bar_charts(panels: Sequence[StoredPanel], agents: Sequence[str]) -> list[BarChart]:
    charts = []
    for panel in panels:
        rates = {name: panel.results[name].rate for name in agents if name in panel.results}
        charts.append(bar_chart(panel.column, f"{len(panel.panel)} episodes, panel {panel.panel.hash}", rates))
    return charts


def _curves(run: Run) -> dict[str, list[Curve]]:
    """By stage, a curve for each metric that was logged more than once."""
    logged: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for line in run.metrics():
        for name, value in line.items():
            if name not in ("stage", "step"):
                logged[line["stage"]][name].append((line["step"], value))
    curves = {
        stage: [curve(name, *zip(*points, strict=True)) for name, points in metrics.items() if len(points) > 1]
        for stage, metrics in logged.items()
    }
    return {stage: drawn for stage, found in curves.items() if (drawn := [c for c in found if c is not None])}


def _strips(run: Run, recipe: Recipe, config: Any) -> dict[str, list[Strip]]:
    captions = {name: text for name, text in recipe.episode_stores(run).items() if len(run.episodes(name))}
    return rollout_strips(run, recipe.make_env(config).task, captions) if captions else {}


def _number_tables(run: Run, recipe: Recipe) -> list[NumberTable]:
    """The JSON files with rows of numbers that the recipe names, as far as they are there."""
    titles = {run.folder / f"{stem}.json": title for stem, title in recipe.report_tables(run).items()}
    return [
        _number_table(title, json.loads(path.read_text(encoding="utf-8")))
        for path, title in titles.items()
        if path.exists()
    ]


def _number_table(title: str, rows: dict[str, dict[str, float]]) -> NumberTable:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    shown = {name: [number(row[column]) if column in row else "–" for column in columns] for name, row in rows.items()}
    return NumberTable(title, columns, shown)

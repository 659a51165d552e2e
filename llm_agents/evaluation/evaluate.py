"""The end of a training run: its agents on their panels, and what the results say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

from pydantic import Field

from envs.goals import unknown
from envs.language import LanguageEnv, LanguageTask
from llm_agents.evaluation.compare import Comparison, compare
from llm_agents.evaluation.results import (
    Result,
    read_result,
    result_path,
    store_panel,
)
from llm_agents.evaluation.tables import results_table, tables
from llm_agents.registry.recipes import Recipe
from llm_agents.rollouts.panels import Column, Panel, make_panel
from llm_agents.rollouts.rollout import AnyAgent, rollout
from llm_agents.runtime.config import Settings, parse_config
from llm_agents.runtime.console import wide_console
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import parallel_map
from llm_agents.runtime.progress import progress_bar
from llm_agents.runtime.run import Run, write_atomically


def evaluate_agents(run: Run, recipe: Recipe, panels: Mapping[str, Panel], num_workers: int) -> Comparison:
    """Judge a run's agents on panels, and print the table, and what they are beside the recipe's references.

    Raises:
        UserError: a worker died.
    """
    results = evaluate_run(run, recipe, panels, recipe.agent_names(run), num_workers)
    comparison = compare([results], recipe.references(run))
    console = wide_console()
    console.print(results_table(results, panels))
    for table in tables(comparison, num_runs=1)[1:]:
        console.print(table)
    return comparison


class EvaluationSettings(Settings):
    """How agents are judged at the end."""

    num_episodes: int = Field(300, ge=1)
    """Episodes an agent and a column."""
    panel_seed: int = Field(0, ge=0)
    """Seed of the panels."""


def evaluate_agent(agent: AnyAgent, make_env: Callable[[], LanguageEnv], panel: Panel, num_envs: int = 64) -> Result:
    """Play every case of a panel once."""
    episodes = rollout(agent, make_env, panel.specs, num_envs)
    return Result(
        outcomes=[int(episode.success) for episode in episodes],
        returns=[float(episode.rewards.sum()) for episode in episodes],
        lengths=[len(episode) for episode in episodes],
    )


def make_panels(task: LanguageTask, columns: Iterable[Column], size: int, seed: int = 0) -> dict[str, Panel]:
    """A panel of ``size`` cases for each column, by the column's name."""
    return {column.name: make_panel(task, column.split, size, seed, column.subset, column.kind) for column in columns}


def evaluate_run(
    run: Run, recipe: Recipe, panels: Mapping[str, Panel], agent_names: Sequence[str], num_workers: int = 1
) -> dict[str, dict[str, Result]]:
    """Judge a run's agents on panels: results by column and agent.

    What was judged before is read back, so an evaluation that was killed goes on. The numbers do not depend on
    ``num_workers``: each agent plays each panel as a whole, on one thread.

    Args:
        run: a run whose agents are trained.
        recipe: the recipe that made it.
        panels: by the name of their column.
        agent_names: some of ``recipe.agent_names(run)``.
        num_workers: processes; with 1 everything happens in this one.

    Raises:
        UserError: an unknown agent, or a worker died.
    """
    for name in agent_names:
        if name not in recipe.agent_names(run):
            raise UserError(unknown("agent", name, recipe.agent_names(run)))
    for column, panel in panels.items():
        store_panel(run, column, panel)
    distinct = {panel.hash: panel for panel in panels.values()}
    jobs = [
        (run.folder, recipe, name, panel)
        for name in agent_names
        for panel in distinct.values()
        if not result_path(run.folder, panel.hash, name).exists()
    ]
    with progress_bar("evaluating episodes", sum(len(panel) for *_, panel in jobs)) as advance:
        for panel in parallel_map(_judge, jobs, num_workers):
            advance(len(panel))
    return {
        column: {name: read_result(result_path(run.folder, panel.hash, name)) for name in agent_names}
        for column, panel in panels.items()
    }


def _judge(folder: Path, recipe: Recipe, name: str, panel: Panel) -> Panel:
    """One job: judge one agent on one panel and store the result. Runs in any process."""
    config = parse_config(recipe.Config, Run.open(folder).config, str(folder / "config.yaml"))
    agent = _load_agent(folder, type(recipe), name)
    result = evaluate_agent(agent, partial(recipe.make_env, config), panel)
    write_atomically(result_path(folder, panel.hash, name), json.dumps(asdict(result)))
    return panel


@lru_cache(maxsize=1)
def _load_agent(folder: Path, recipe_cls: type[Recipe], name: str) -> AnyAgent:
    """The agent, kept for the next panel: jobs come agent by agent."""
    return recipe_cls().load_agent(Run.open(folder), name)

"""The end of a training run: its agents on their panels, and what the results say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

from pydantic import Field

from envs.goals import unknown
from envs.language import LanguageEnv, LanguageTask
from llm_agents.evaluation.compare import Comparison, compare
from llm_agents.evaluation.results import Result, Row, read_result, result_path, store_panel, store_result
from llm_agents.evaluation.tables import results_table, tables
from llm_agents.registry.recipes import Recipe, load_agent, load_run_config
from llm_agents.rollouts.panels import Column, Panel, make_panel
from llm_agents.rollouts.rollout import AnyAgent, rollout
from llm_agents.runtime.console import wide_console
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import WorkerSettings, parallel_map
from llm_agents.runtime.progress import progress_bar
from llm_agents.runtime.run import Run
from llm_agents.runtime.settings import Settings


def evaluate_agents(run: Run, recipe: Recipe, panels: Mapping[str, Panel], workers: WorkerSettings | int) -> Comparison:
    """Judge a run's agents on panels; print the table, and how they compare with the recipe's references.

    Raises:
        UserError: a worker died.
    """
    results = evaluate_run(run, recipe, panels, list(recipe.agents(run)), workers)
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


def evaluate_agent(
    agent: AnyAgent, make_env: Callable[[], LanguageEnv], panel: Panel, name: str = "", num_envs: int = 64
) -> Result:
    """Play every spec of a panel once."""
    episodes = rollout(agent, make_env, panel.specs, num_envs)
    return Result(tuple(Row.of(episode, name, panel.hash) for episode in episodes))


def make_panels(task: LanguageTask, columns: Iterable[Column], size: int, seed: int = 0) -> dict[str, Panel]:
    """Make a panel of ``size`` episodes for each column, by the column's name."""
    return {column.name: make_panel(task, column.split, size, seed, column.subset, column.kind) for column in columns}


def evaluate_run(
    run: Run,
    recipe: Recipe,
    panels: Mapping[str, Panel],
    agent_names: Sequence[str],
    workers: WorkerSettings | int = 1,
) -> dict[str, dict[str, Result]]:
    """Judge a run's agents on panels: results by column and agent.

    What was judged before is read back, so an evaluation that was killed goes on. The numbers do not depend on
    ``workers``: each agent plays each panel as a whole, on one thread.

    Args:
        run: a run whose agents are trained.
        recipe: the recipe that made it.
        panels: by the name of their column.
        agent_names: some of ``recipe.agents(run)``.
        workers: among how many processes, and where; with 1 everything happens in this one.

    Raises:
        UserError: an unknown agent, or a worker died.
    """
    known = list(recipe.agents(run))
    for name in agent_names:
        if name not in known:
            raise UserError(unknown("agent", name, known))
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
        for panel in parallel_map(_judge, jobs, workers, run.folder):
            advance(len(panel))
    return {
        column: {name: read_result(result_path(run.folder, panel.hash, name)) for name in agent_names}
        for column, panel in panels.items()
    }


def _judge(folder: Path, recipe: Recipe, name: str, panel: Panel) -> Panel:
    """One job: judge one agent on one panel and store the result. Runs in any process."""
    config = load_run_config(recipe, Run.open(folder))
    agent = _load_agent(folder, type(recipe), name)
    result = evaluate_agent(agent, partial(recipe.make_env, config), panel, name)
    store_result(result_path(folder, panel.hash, name), result.rows)
    return panel


@lru_cache(maxsize=1)
def _load_agent(folder: Path, recipe_cls: type[Recipe], name: str) -> AnyAgent:
    """The agent, kept for the next panel: jobs come agent by agent."""
    return load_agent(recipe_cls(), Run.open(folder), name)

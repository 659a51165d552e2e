"""Judge agents on panels, keep the results in the run's folder, and show them as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pydantic import Field
from rich.table import Table
from rich.text import Text

from envs.episodes import Episode
from envs.goals import unknown
from envs.language import LanguageEnv, LanguageTask
from llm_agents.config import Settings, parse_config
from llm_agents.console import add_numbers, agents_table
from llm_agents.errors import UserError
from llm_agents.evaluation.panel import Column, Panel, make_panel
from llm_agents.evaluation.statistics import Estimate, success_rate
from llm_agents.parallel import in_processes
from llm_agents.recipes import Recipe
from llm_agents.rollout import Agent, Case, numbered_rollout
from llm_agents.run import Run, write_atomically
from llm_agents.training import progress_bar


class EvaluationSettings(Settings):
    """How agents are judged at the end."""

    num_episodes: int = Field(300, ge=1)
    """Episodes an agent and a column."""
    panel_seed: int = Field(0, ge=0)
    """Seed of the panels."""


@dataclass(frozen=True)
class Result:
    """How one agent did on one panel, in the order of its cases.

    Attributes:
        outcomes: 1 where the goal was reached, else 0.
        returns: the undiscounted sum of rewards.
        lengths: the number of steps.
    """

    outcomes: list[int]
    returns: list[float]
    lengths: list[int]

    def of_cases(self, cases: Sequence[int]) -> Result:
        """On a part of the panel, by the numbers of its cases."""
        return Result(
            outcomes=[self.outcomes[case] for case in cases],
            returns=[self.returns[case] for case in cases],
            lengths=[self.lengths[case] for case in cases],
        )

    @property
    def successes(self) -> int:
        return sum(self.outcomes)

    @property
    def episodes(self) -> int:
        return len(self.outcomes)

    @property
    def rate(self) -> Estimate:
        """The success rate with its Wilson interval."""
        return success_rate(self.successes, self.episodes)


@dataclass(frozen=True)
class StoredPanel:
    """A panel that a run was judged on, and the results by agent."""

    column: str
    panel: Panel
    results: dict[str, Result]


def evaluate_agent(agent: Agent, make_env: Callable[[], LanguageEnv], panel: Panel, num_envs: int = 64) -> Result:
    """Play every case of a panel once."""
    episodes: dict[int, Episode] = dict(numbered_rollout(agent, make_env, panel.cases, num_envs))
    ordered = [episodes[index] for index in range(len(panel))]
    return Result(
        outcomes=[int(episode.success) for episode in ordered],
        returns=[float(episode.rewards.sum()) for episode in ordered],
        lengths=[len(episode) for episode in ordered],
    )


def make_panels(task: LanguageTask, columns: Iterable[Column], size: int, seed: int = 0) -> dict[str, Panel]:
    """A panel of ``size`` cases for each column, by the column's name."""
    return {column.name: make_panel(task, column.split, size, seed, column.wordings, column.kind) for column in columns}


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
        _store_panel(run, column, panel)
    distinct = {panel.hash: panel for panel in panels.values()}
    jobs = [
        (run.folder, recipe, name, panel)
        for name in agent_names
        for panel in distinct.values()
        if not _path(run.folder, panel.hash, name).exists()
    ]
    with progress_bar("evaluating episodes", sum(len(panel) for *_, panel in jobs)) as advance:
        for panel in in_processes(_judge, jobs, num_workers):
            advance(len(panel))
    return {
        column: {name: _read_result(_path(run.folder, panel.hash, name)) for name in agent_names}
        for column, panel in panels.items()
    }


def stored_panels(run: Run) -> list[StoredPanel]:
    """Every panel that a run was judged on, oldest first."""
    paths = sorted((run.folder / "evaluation").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [_read_panel(path) for path in paths]


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


def column_as_json(column: str, panel: Panel, results: Mapping[str, Result]) -> dict[str, Any]:
    """One column of the table as plain data; the split of a panel of your own may be ``mixed``."""
    splits = {case.split for case in panel.cases}
    return {
        "column": column,
        "split": splits.pop() if len(splits) == 1 else "mixed",
        "panel": panel.hash,
        "agents": {name: _numbers(result) for name, result in results.items()},
    }


def _numbers(result: Result) -> dict[str, float]:
    rate = result.rate
    return {
        "successes": result.successes,
        "episodes": result.episodes,
        "success_rate": rate.value,
        "low": rate.low,
        "high": rate.high,
    }


def _judge(folder: Path, recipe: Recipe, name: str, panel: Panel) -> Panel:
    """One job: judge one agent on one panel and store the result. Runs in any process."""
    config = parse_config(recipe.Config, Run.open(folder).config, str(folder / "config.yaml"))
    agent = _load_agent(folder, type(recipe), name)
    result = evaluate_agent(agent, partial(recipe.make_env, config), panel)
    write_atomically(_path(folder, panel.hash, name), json.dumps(asdict(result)))
    return panel


@lru_cache(maxsize=1)
def _load_agent(folder: Path, recipe_cls: type[Recipe], name: str) -> Agent:
    """The agent, kept for the next panel: jobs come agent by agent."""
    return recipe_cls().load_agent(Run.open(folder), name)


def _path(folder: Path, panel_hash: str, agent: str) -> Path:
    return folder / "evaluation" / panel_hash / f"{quote(agent, safe=' ')}.json"


def _store_panel(run: Run, column: str, panel: Panel) -> None:
    path = run.folder / "evaluation" / f"{panel.hash}.json"
    if not path.exists():
        cases = [asdict(case) for case in panel.cases]
        write_atomically(path, json.dumps({"column": column, "cases": cases}, indent=1))


def _read_panel(path: Path) -> StoredPanel:
    stored = json.loads(path.read_text())
    results = {unquote(file.stem): _read_result(file) for file in sorted(path.with_suffix("").glob("*.json"))}
    return StoredPanel(stored["column"], Panel(tuple(Case(**case) for case in stored["cases"])), results)


def _read_result(path: Path) -> Result:
    return Result(**json.loads(path.read_text()))

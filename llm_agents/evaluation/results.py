"""Results: one tidy row an episode, in the run's folder; everything else is grouped from these rows.

::

    evaluation/<panel hash>.json           the column's name and the panel
    evaluation/<panel hash>/<agent>.jsonl  a row for each episode of the panel, in its order
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from envs.episodes import Episode
from llm_agents.evaluation.statistics import Estimate, success_rate
from llm_agents.rollouts.panels import Panel
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.run import Run, write_atomically


@dataclass(frozen=True)
class Row:
    """How one agent did in one episode of a panel.

    Attributes:
        agent: its name.
        panel: the hash of the panel.
        goal_id, family, split, instruction, seed: what was asked, in which words, from which start.
        success: 1 where the goal was reached, else 0.
        reward: the undiscounted sum of rewards.
        length: the number of steps.
    """

    agent: str
    panel: str
    goal_id: str
    family: str
    split: str
    instruction: str
    seed: int
    success: int
    reward: float
    length: int

    @classmethod
    def of(cls, episode: Episode, agent: str, panel: str) -> Row:
        """Return the row of an episode."""
        return cls(
            agent=agent,
            panel=panel,
            goal_id=episode.goal_id,
            family=episode.family,
            split=episode.split,
            instruction=episode.instruction,
            seed=episode.seed,
            success=int(episode.success),
            reward=float(episode.rewards.sum()),
            length=len(episode),
        )


@dataclass(frozen=True)
class Result:
    """How one agent did in some episodes, in the order of their panel."""

    rows: tuple[Row, ...]

    @property
    def outcomes(self) -> list[int]:
        """1 where the goal was reached, else 0."""
        return [row.success for row in self.rows]

    @property
    def successes(self) -> int:
        return sum(self.outcomes)

    @property
    def episodes(self) -> int:
        return len(self.rows)

    @property
    def rate(self) -> Estimate:
        """The success rate with its Wilson interval."""
        return success_rate(self.successes, self.episodes)

    def by(self, field: str) -> dict[str, Result]:
        """Group the rows by one of their fields, such as ``family``; groups are sorted."""
        names = sorted({getattr(row, field) for row in self.rows})
        return {name: Result(tuple(row for row in self.rows if getattr(row, field) == name)) for name in names}


@dataclass(frozen=True)
class StoredPanel:
    """A panel that a run was judged on, and the results by agent."""

    column: str
    panel: Panel
    results: dict[str, Result]


def stored_panels(run: Run) -> list[StoredPanel]:
    """Read every panel that a run was judged on, oldest first."""
    paths = sorted((run.folder / "evaluation").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [_read_panel(path) for path in paths]


def column_as_json(column: str, panel: Panel, results: Mapping[str, Result]) -> dict[str, Any]:
    """Return one column of the table as plain data; the split of a panel of your own may be ``mixed``."""
    splits = {spec.split for spec in panel.specs}
    return {
        "column": column,
        "split": splits.pop() if len(splits) == 1 else "mixed",
        "panel": panel.hash,
        "agents": {name: _numbers(result) for name, result in results.items()},
    }


def result_path(folder: Path, panel_hash: str, agent: str) -> Path:
    """Return where the rows of an agent on a panel are."""
    return folder / "evaluation" / panel_hash / f"{quote(agent, safe=' ()')}.jsonl"


def store_panel(run: Run, column: str, panel: Panel) -> None:
    """Write down what a run is judged on."""
    path = run.folder / "evaluation" / f"{panel.hash}.json"
    if not path.exists():
        specs = [asdict(spec) for spec in panel.specs]
        write_atomically(path, json.dumps({"column": column, "specs": specs}, indent=1))


def store_result(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows of an agent on a panel."""
    write_atomically(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def read_result(path: Path) -> Result:
    """Read the rows of an agent on a panel."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return Result(tuple(Row(**json.loads(line)) for line in lines))


def select(results: Mapping[str, Result], agents: Sequence[str]) -> dict[str, Result]:
    """Return the results in the order of some agents; those of others follow."""
    return {name: results[name] for name in [*agents, *results] if name in results}


def _numbers(result: Result) -> dict[str, float]:
    rate = result.rate
    return {
        "successes": result.successes,
        "episodes": result.episodes,
        "success_rate": rate.value,
        "low": rate.low,
        "high": rate.high,
    }


def _read_panel(path: Path) -> StoredPanel:
    stored = json.loads(path.read_text(encoding="utf-8"))
    results = {unquote(file.stem): read_result(file) for file in sorted(path.with_suffix("").glob("*.jsonl"))}
    return StoredPanel(stored["column"], Panel(tuple(EpisodeSpec(**spec) for spec in stored["specs"])), results)

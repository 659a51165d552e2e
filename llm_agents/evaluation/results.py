"""Results of agents on panels, and where they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from llm_agents.evaluation.statistics import Estimate, success_rate
from llm_agents.rollouts.panels import Panel
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.run import Run, write_atomically


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

    def of_episodes(self, specs: Sequence[int]) -> Result:
        """On a part of the panel, by the numbers of its cases."""
        return Result(
            outcomes=[self.outcomes[spec] for spec in specs],
            returns=[self.returns[spec] for spec in specs],
            lengths=[self.lengths[spec] for spec in specs],
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


def stored_panels(run: Run) -> list[StoredPanel]:
    """Every panel that a run was judged on, oldest first."""
    paths = sorted((run.folder / "evaluation").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [_read_panel(path) for path in paths]


def column_as_json(column: str, panel: Panel, results: Mapping[str, Result]) -> dict[str, Any]:
    """One column of the table as plain data; the split of a panel of your own may be ``mixed``."""
    splits = {spec.split for spec in panel.specs}
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


def result_path(folder: Path, panel_hash: str, agent: str) -> Path:
    return folder / "evaluation" / panel_hash / f"{quote(agent, safe=' ')}.json"


def store_panel(run: Run, column: str, panel: Panel) -> None:
    path = run.folder / "evaluation" / f"{panel.hash}.json"
    if not path.exists():
        specs = [asdict(spec) for spec in panel.specs]
        write_atomically(path, json.dumps({"column": column, "cases": specs}, indent=1))


def _read_panel(path: Path) -> StoredPanel:
    stored = json.loads(path.read_text())
    results = {unquote(file.stem): read_result(file) for file in sorted(path.with_suffix("").glob("*.json"))}
    return StoredPanel(stored["column"], Panel(tuple(EpisodeSpec(**spec) for spec in stored["cases"])), results)


def read_result(path: Path) -> Result:
    return Result(**json.loads(path.read_text()))

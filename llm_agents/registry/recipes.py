"""Training recipes, found through the entry-point group ``llm_agents.recipes``.

A recipe of your own is one class with the methods of `Recipe`, named in your package's pyproject.toml::

    [project.entry-points."llm_agents.recipes"]
    my-recipe = "my_package.recipe:MyRecipe"

``llm-agents train`` then takes a YAML file that says ``recipe: my-recipe``. `llm_agents.recipes.base.TrainingRecipe`
is a base class that leaves little to write.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from envs.goals import unknown
from llm_agents.runtime.config import parse_config, read_yaml
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.moved import explain_import_error
from llm_agents.runtime.settings import Settings

if TYPE_CHECKING:
    from envs.language import LanguageEnv
    from llm_agents.rollouts.panels import Column
    from llm_agents.rollouts.rollout import AnyAgent
    from llm_agents.runtime.run import Run

GROUP = "llm_agents.recipes"
RENAMED = {"sb3": "symbolic_ppo"}  # since version 0.1

Agents = Mapping[str, Callable[[], "AnyAgent"]]
"""By name, what makes each agent."""


@dataclass(frozen=True)
class References:
    """The agents that the others are compared with.

    Attributes:
        baseline: it is paired with all others, episode by episode and seed by seed.
        oracle: the fraction of its success is reported.
    """

    baseline: str
    oracle: str


class Recipe(Protocol):
    """How agents are trained, from a config to checkpoints in a run's folder. Made without arguments."""

    Config: type[Settings]

    def run(self, config: Any, run: Run) -> None:
        """Train everything, stage by stage; a stage whose results are in the run's folder is not done again."""
        ...

    def make_env(self, config: Any) -> LanguageEnv:
        """Make one environment to train and to be judged in."""
        ...

    def columns(self, config: Any) -> list[Column]:
        """Return what the table of results shows."""
        ...

    def agents(self, run: Run) -> Agents:
        """Return how to make each agent that is judged, baselines among them, in the order of the table."""
        ...

    def references(self, run: Run) -> References:
        """Return the agents that the others are compared with."""
        ...

    def episode_stores(self, run: Run) -> dict[str, str]:
        """Return which of the run's episode stores the report pictures, each with its caption."""
        return {}

    def report_tables(self, run: Run) -> dict[str, str]:
        """Return which of the run's JSON files (by stem) the report shows as tables, each with its title."""
        return {}


def load_agent(recipe: Recipe, run: Run, name: str) -> AnyAgent:
    """Make an agent of a run.

    Raises:
        UserError: the run has no such agent.
    """
    agents = recipe.agents(run)
    if name not in agents:
        raise UserError(unknown("agent", name, list(agents)))
    return agents[name]()


def load_run_config(recipe: Recipe, run: Run) -> Any:
    """Parse the config that a run was made with."""
    return parse_config(recipe.Config, run.config, str(run.folder / "config.yaml"))


def list_recipes() -> list[str]:
    """Return the names of the installed recipes."""
    return sorted(entry.name for entry in set(entry_points(group=GROUP)))


def find_recipe(name: str) -> Recipe:
    """Return the installed recipe of that name.

    Raises:
        UserError: there is none, or its package cannot be imported.
    """
    if name in RENAMED:
        print(f"llm-agents: recipe {name!r} is called {RENAMED[name]!r} now", file=sys.stderr)
    for entry in entry_points(group=GROUP):
        if entry.name == RENAMED.get(name, name):
            return _load(entry)
    raise UserError(unknown("recipe", name, list_recipes()))


def _load(entry: Any) -> Recipe:
    try:
        return entry.load()()
    except ImportError as error:
        reason = explain_import_error(error)
        raise UserError(f"recipe {entry.name!r} ({entry.value}) cannot be imported: {reason}") from error


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> tuple[str, Settings]:
    """Read which recipe a YAML file names, and its config.

    Args:
        path: a YAML file with ``recipe: <name>`` next to the fields of that recipe's config.
        overrides: see `parse_config`.

    Raises:
        UserError: the file cannot be read, or something in it or in the overrides is unknown, missing or ill-typed.
    """
    data = read_yaml(path)
    name = data.pop("recipe", None)
    if not isinstance(name, str):
        raise UserError(f"{path} names no recipe: it needs a line such as 'recipe: {(list_recipes() or ['kalm'])[0]}'")
    recipe = find_recipe(name)
    return RENAMED.get(name, name), parse_config(recipe.Config, data, str(path), overrides)

"""Environments, found through the entry-point group ``llm_agents.environments``.

An entry's name is the Gymnasium id and its value the module whose import registers it::

    [project.entry-points."llm_agents.environments"]
    "MyEnv-v0" = "my_package.envs"
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import gymnasium
from gymnasium import spaces
from rich.table import Table

from envs.goals import SPLITS, unknown
from envs.language import LanguageEnv
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.moved import explain_import_error

GROUP = "llm_agents.environments"


def list_environments() -> dict[str, str]:
    """The installed environments: Gymnasium id to the module that registers it."""
    return {entry.name: entry.value for entry in sorted(entry_points(group=GROUP))}


def make_environment(env_id: str, **options: Any) -> LanguageEnv:
    """One environment, without Gymnasium's wrappers.

    Args:
        env_id: such as ``ClevrRobot-v0``; ``module:Name-v0`` for one that no entry point names.
        options: passed on to the environment.

    Raises:
        UserError: there is no such environment, it cannot be imported, or it has no goals in words.
    """
    module, _, name = env_id.rpartition(":")
    if not module and name not in list_environments():
        raise UserError(unknown("environment", name, list(list_environments())))
    full_id = f"{module or list_environments()[name]}:{name}"
    try:
        env = gymnasium.make(full_id, disable_env_checker=True, **options).unwrapped
    except ImportError as error:
        raise UserError(f"environment {full_id} cannot be made: {explain_import_error(error)}") from error
    except gymnasium.error.Error as error:
        raise UserError(f"environment {full_id} cannot be made: {' '.join(str(error).split())}") from error
    if not isinstance(env, LanguageEnv):
        raise UserError(f"environment {full_id} is a {type(env).__name__}, expected a LanguageEnv: it has no goals")
    return env


def environments_table() -> tuple[Table, dict[str, str]]:
    """The installed environments with their actions and goals, and for those that cannot be made, why."""
    table = Table("environment", "actions", "horizon", *[f"{split} goals" for split in SPLITS])
    broken = {}
    for env_id in list_environments():
        try:
            table.add_row(*_row(env_id))
        except Exception as error:  # whatever another package's code raises, the others are listed
            table.add_row(env_id, "see below")
            broken[env_id] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return table, broken


def _row(env_id: str) -> list[str]:
    env = make_environment(env_id)
    horizons = {env.task.horizon(goal) for split in SPLITS for goal in env.task.goals(split)}
    horizon = str(max(horizons)) if len(horizons) == 1 else f"{min(horizons)} to {max(horizons)}"
    return [env_id, action_kind(env.action_space), horizon, *(str(len(env.task.goals(split))) for split in SPLITS)]


def action_kind(space: gymnasium.Space) -> str:
    """An action space in a word or two, such as ``6 discrete``, ``3 x 5 discrete`` or ``4 continuous``."""
    if isinstance(space, spaces.Discrete):
        return f"{space.n} discrete"
    if isinstance(space, spaces.MultiDiscrete):
        return f"{' x '.join(map(str, space.nvec.ravel()))} discrete"
    if isinstance(space, spaces.Text):
        return "free text"
    return f"{spaces.flatdim(space)} continuous"

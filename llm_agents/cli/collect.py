"""The command ``llm-agents collect``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import Field
from rich.table import Table

from envs.data_card import count, write_data_card
from envs.episodes import EpisodeStore
from envs.goals import Split
from envs.language import LanguageTask
from llm_agents.agents.scripted import ExpertAgent, NoisyAgent, RandomAgent
from llm_agents.registry.environments import make_environment
from llm_agents.rollouts.collect import EPISODES_PER_FILE, collect
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.rollouts.specs import draw_specs
from llm_agents.runtime.config import parse_config, read_yaml
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import WorkerSettings
from llm_agents.runtime.run import write_atomically
from llm_agents.runtime.settings import differences


class CollectSettings(WorkerSettings):
    """What ``llm-agents collect`` plays, and where it puts it."""

    renamed: ClassVar[Mapping[str, str]] = {"random_share": "random_fraction"}

    environment: str
    """Gymnasium id, such as ``envs:ClevrRobot-v0``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the environment, such as ``{level: BabyAI-GoToLocal-v0}``."""
    agent: Literal["expert", "random"] = "expert"
    """Who acts."""
    random_fraction: float = Field(0.0, ge=0, lt=1)
    """The share of an expert's actions that are replaced by random ones."""
    split: Split = "train"
    """Whose goals are played, and in whose words."""
    num_episodes: int = Field(ge=1)
    """Families of goals get equally many."""
    seed: int = Field(0, ge=0)
    """Of goals, words and starts; no start is one of an evaluation panel's."""
    out: str
    """The store's folder."""
    episodes_per_file: int = Field(EPISODES_PER_FILE, ge=1)
    """Also the work that one process does at a time."""


def run_collection(settings: CollectSettings, command: str) -> EpisodeStore:
    """Play what the settings say, or what is left of it; then the data card.

    Args:
        settings: kept beside the store as ``collect.yaml``.
        command: for the data card.

    Raises:
        UserError: the folder holds a collection by other settings.
    """
    make_env = partial(make_environment, settings.environment, **settings.options)
    specs = draw_specs(make_env().task, settings.split, settings.num_episodes, settings.seed, "collect")
    _keep_settings(settings)
    store, name = EpisodeStore(settings.out), Path(settings.out).name
    make_agent = partial(_make_agent, settings.agent, settings.random_fraction)
    collect(make_env, make_agent, specs, store, name, settings, settings.episodes_per_file)
    write_data_card(store, name, command, settings.model_dump(mode="json"))
    return store


def counts_table(store: EpisodeStore) -> Table:
    """What a store holds."""
    table = Table("split", "family", "episodes", "goals", "steps", "success")
    for (_, split, family), row in count(store).items():
        table.add_row(split, family, *map(str, (row.episodes, len(row.goals), row.steps)), f"{row.success:.3f}")
    return table


def _keep_settings(settings: CollectSettings) -> None:
    path = Path(settings.out) / "collect.yaml"
    if path.exists():
        earlier = parse_config(CollectSettings, read_yaml(path), str(path))
        for key, (stored, given) in differences(earlier, settings).items():
            if key not in ("out", *WorkerSettings.model_fields):
                raise UserError(f"{path} says {key}: {stored}, not {given}: go on with that, or choose another --out")
        return
    if EpisodeStore(settings.out).files:
        raise UserError(f"{settings.out} holds episodes of something else: choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def _make_agent(name: str, random_fraction: float, task: LanguageTask) -> AnyAgent:
    agent = RandomAgent() if name == "random" else ExpertAgent(task)
    return NoisyAgent(agent, random_fraction) if random_fraction else agent

"""Rollouts into a store, from several processes, in an order that does not depend on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field
from rich.table import Table

from envs.data_card import count, write_data_card
from envs.episodes import Episode, EpisodeStore
from envs.goals import Split
from envs.language import LanguageEnv, LanguageTask
from llm_agents.agents import ExpertAgent, NoisyAgent, RandomAgent
from llm_agents.config import Settings, differences, parse_config, read_yaml
from llm_agents.environments import make_environment
from llm_agents.errors import UserError
from llm_agents.evaluation.panel import draw_goals
from llm_agents.parallel import in_processes
from llm_agents.rollout import Agent, Case, numbered_rollout
from llm_agents.run import write_atomically
from llm_agents.training import progress_bar

EPISODES_PER_FILE = 256
MAX_EPISODES = 10**6  # panels are seeded from there upwards
_SEEDS_PER_COLLECTION = 10**7


class CollectSettings(Settings):
    """What ``llm-agents collect`` plays, and where it puts it."""

    environment: str
    """Gymnasium id, such as ``envs:ClevrRobot-v0``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the environment, such as ``{level: BabyAI-GoToLocal-v0}``."""
    agent: Literal["expert", "random"] = "expert"
    """Who acts."""
    random_share: float = Field(0.0, ge=0, lt=1)
    """The share of an expert's actions that are replaced by random ones."""
    split: Split = "train"
    """Whose goals are played, and in whose words."""
    num_episodes: int = Field(ge=1, le=MAX_EPISODES)
    """Families of goals get equally many."""
    seed: int = Field(0, ge=0)
    """Of goals, words and starts; no start is one of an evaluation panel's."""
    out: str
    """The store's folder."""
    episodes_per_file: int = Field(EPISODES_PER_FILE, ge=1)
    """Also the work that one process does at a time."""
    num_workers: int = Field(2, ge=1)
    """Processes. No number depends on it."""


def collect(
    make_env: Callable[[], LanguageEnv],
    make_agent: Callable[[LanguageTask], Agent],
    cases: Sequence[Case],
    store: EpisodeStore,
    name: str,
    num_workers: int,
    episodes_per_file: int = EPISODES_PER_FILE,
) -> list[Episode]:
    """The episodes of the cases, in their order; what the store already holds is not played again.

    Args:
        make_env: makes an environment; a function of a module, since it is sent to other processes.
        make_agent: makes the agent that acts in it, from its task; likewise.
        store: the file of number n holds the n-th ``episodes_per_file`` cases. Each episode is in the journal of its
            file as soon as it has ended, so that a kill loses no more than the episodes that were running.
        name: for the progress bar.
        num_workers: processes; the result does not depend on it.

    Raises:
        UserError: the store holds episodes of other cases.
    """
    chunks = [cases[i : i + episodes_per_file] for i in range(0, len(cases), episodes_per_file)]
    done = _finished(store, chunks)
    jobs = [
        (make_env, make_agent, chunk, store.folder, number) for number, chunk in enumerate(chunks) if number not in done
    ]
    if jobs:
        with progress_bar(f"collecting {name}", len(cases), sum(len(chunks[number]) for number in done)) as advance:
            for num_episodes in in_processes(play_file, jobs, num_workers):
                advance(num_episodes)
    return store.read()


def play_file(
    make_env: Callable[[], LanguageEnv],
    make_agent: Callable[[LanguageTask], Agent],
    cases: Sequence[Case],
    folder: Path,
    number: int,
) -> int:
    """Play the cases of one file that its journal does not hold yet, and write the file; how many cases there are."""
    store = EpisodeStore(folder)
    env = make_env()
    agent = make_agent(env.task)
    env.close()
    with store.journal(number) as journal:
        kept = {index: (e.goal_id, e.split, e.seed) for index, e in journal.episodes.items()}
        _check_cases(folder, list(kept.values()), [cases[index] for index in kept if index < len(cases)])
        waiting = [index for index in range(len(cases)) if index not in journal.episodes]
        for position, episode in numbered_rollout(agent, make_env, [cases[index] for index in waiting]):
            journal.add(waiting[position], episode)
    store.write(number, [journal.episodes[index] for index in range(len(cases))])
    return len(cases)


def run_collection(settings: CollectSettings, command: str) -> EpisodeStore:
    """Play what the settings say, or what is left of it; then the data card.

    Args:
        settings: kept beside the store as ``collect.yaml``.
        command: for the data card.

    Raises:
        UserError: the folder holds a collection by other settings.
    """
    make_env = partial(make_environment, settings.environment, **settings.options)
    cases = draw_cases(make_env().task, settings.split, settings.num_episodes, settings.seed)
    _keep_settings(settings)
    store, name = EpisodeStore(settings.out), Path(settings.out).name
    make_agent = partial(_make_agent, settings.agent, settings.random_share)
    collect(make_env, make_agent, cases, store, name, settings.num_workers, settings.episodes_per_file)
    write_data_card(store, name, command, settings.model_dump(mode="json"))
    return store


def counts_table(store: EpisodeStore) -> Table:
    """What a store holds."""
    table = Table("split", "family", "episodes", "goals", "steps", "success")
    for (_, split, family), row in count(store).items():
        table.add_row(split, family, *map(str, (row.episodes, len(row.goals), row.steps)), f"{row.success:.3f}")
    return table


def draw_cases(task: LanguageTask, split: Split, count: int, seed: int) -> list[Case]:
    """Cases to learn from; the first ones do not depend on how many follow. No seed is one of an evaluation panel's."""
    goals = draw_goals(task, split, np.random.default_rng(seed))
    first = seed * _SEEDS_PER_COLLECTION
    return [Case(goal.id, words, first + index, split) for index, (goal, words) in enumerate(islice(goals, count))]


def _keep_settings(settings: CollectSettings) -> None:
    path = Path(settings.out) / "collect.yaml"
    if path.exists():
        earlier = parse_config(CollectSettings, read_yaml(path), str(path))
        for key, (stored, given) in differences(earlier, settings).items():
            if key not in ("num_workers", "out"):
                raise UserError(f"{path} says {key}: {stored}, not {given}: go on with that, or choose another --out")
        return
    if EpisodeStore(settings.out).files:
        raise UserError(f"{settings.out} holds episodes of something else: choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def _make_agent(name: str, random_share: float, task: LanguageTask) -> Agent:
    agent = RandomAgent() if name == "random" else ExpertAgent(task)
    return NoisyAgent(agent, random_share) if random_share else agent


def _finished(store: EpisodeStore, chunks: Sequence[Sequence[Case]]) -> list[int]:
    """The numbers of the files that the store holds already."""
    for number in store.numbers:
        _check_cases(store.folder, store.identities(number), chunks[number] if number < len(chunks) else ())
    return store.numbers


def _check_cases(folder: Path, found: Sequence[tuple[str, str, int]], cases: Sequence[Case]) -> None:
    if found != [(case.goal_id, case.split, case.seed) for case in cases]:
        raise UserError(f"{folder} holds episodes of other cases: delete it, or choose another folder")

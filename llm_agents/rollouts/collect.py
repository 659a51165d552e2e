"""Rollouts into a store, from several processes, in an order that does not depend on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from envs.episodes import Episode, EpisodeStore
from envs.language import LanguageEnv, LanguageTask
from llm_agents.rollouts.rollout import AnyAgent, iter_rollouts
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import parallel_map
from llm_agents.runtime.progress import progress_bar

EPISODES_PER_FILE = 256


def collect(
    make_env: Callable[[], LanguageEnv],
    make_agent: Callable[[LanguageTask], AnyAgent],
    specs: Sequence[EpisodeSpec],
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
    chunks = [specs[i : i + episodes_per_file] for i in range(0, len(specs), episodes_per_file)]
    done = _finished(store, chunks)
    jobs = [
        (make_env, make_agent, chunk, store.folder, number) for number, chunk in enumerate(chunks) if number not in done
    ]
    if jobs:
        with progress_bar(f"collecting {name}", len(specs), sum(len(chunks[number]) for number in done)) as advance:
            for num_episodes in parallel_map(play_file, jobs, num_workers):
                advance(num_episodes)
    return store.read()


def play_file(
    make_env: Callable[[], LanguageEnv],
    make_agent: Callable[[LanguageTask], AnyAgent],
    specs: Sequence[EpisodeSpec],
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
        _check_specs(folder, list(kept.values()), [specs[index] for index in kept if index < len(specs)])
        waiting = [index for index in range(len(specs)) if index not in journal.episodes]
        for position, episode in iter_rollouts(agent, make_env, [specs[index] for index in waiting]):
            journal.add(waiting[position], episode)
    store.write(number, [journal.episodes[index] for index in range(len(specs))])
    return len(specs)


def _finished(store: EpisodeStore, chunks: Sequence[Sequence[EpisodeSpec]]) -> list[int]:
    """The numbers of the files that the store holds already."""
    for number in store.numbers:
        _check_specs(store.folder, store.identities(number), chunks[number] if number < len(chunks) else ())
    return store.numbers


def _check_specs(folder: Path, found: Sequence[tuple[str, str, int]], specs: Sequence[EpisodeSpec]) -> None:
    if found != [(spec.goal_id, spec.split, spec.seed) for spec in specs]:
        raise UserError(f"{folder} holds episodes of other cases: delete it, or choose another folder")

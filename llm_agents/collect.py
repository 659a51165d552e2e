"""Rollouts into a store, from several processes, in an order that does not depend on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from envs.episodes import Episode, EpisodeStore
from envs.language import LanguageEnv, LanguageTask
from llm_agents.parallel import in_processes
from llm_agents.rollout import Agent, Case, numbered_rollout
from llm_agents.training import progress_bar

CHUNK = 256


def collect(
    make_env: Callable[[], LanguageEnv],
    make_agent: Callable[[LanguageTask], Agent],
    cases: Sequence[Case],
    store: EpisodeStore,
    name: str,
    num_workers: int,
) -> list[Episode]:
    """The episodes of the cases, in their order; what the store already holds is not played again.

    Args:
        make_env: makes an environment; a function of a module, since it is sent to other processes.
        make_agent: makes the agent that acts in it, from its task; likewise.
        store: each chunk of 256 cases is appended as it ends, so that a kill loses little.
        name: for the progress bar.
        num_workers: processes; the result does not depend on it.
    """
    chunks = [cases[i : i + CHUNK] for i in range(0, len(cases), CHUNK)]
    done = len(store.files)
    if done < len(chunks):
        jobs = [(make_env, make_agent, chunk) for chunk in chunks[done:]]
        with progress_bar(f"collecting {name}", len(cases), done * CHUNK) as advance:
            for episodes in in_processes(play, jobs, num_workers):
                store.append(episodes)
                advance(len(episodes))
    return store.read()


def play(
    make_env: Callable[[], LanguageEnv], make_agent: Callable[[LanguageTask], Agent], cases: Sequence[Case]
) -> list[Episode]:
    """The episodes of the cases, in their order."""
    env = make_env()
    agent = make_agent(env.task)
    env.close()
    numbered = sorted(numbered_rollout(agent, make_env, cases), key=lambda pair: pair[0])
    return [episode for _, episode in numbered]

"""Rollouts into a store, from several processes, in an order that does not depend on them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from envs.episodes import Episode, EpisodeStore
from envs.language import LanguageEnv
from llm_agents.rollout import Agent, Case, numbered_rollout
from llm_agents.training import progress_bar

CHUNK = 512


def collect(
    make_env: Callable[[], LanguageEnv],
    make_agent: Callable[[LanguageEnv], Agent],
    cases: Sequence[Case],
    store: EpisodeStore,
    name: str,
    num_workers: int | None = None,
) -> list[Episode]:
    """The episodes of the cases, in their order; what the store already holds is not played again.

    Args:
        make_env: makes an environment; sent to other processes, so a function of a module.
        make_agent: makes the agent that acts in it; likewise.
        store: each chunk of 512 cases is appended as it ends, so that a kill loses a chunk at most.
        name: for the progress bar.
        num_workers: processes; by default one a core. The result does not depend on it.
    """
    chunks = [cases[i : i + CHUNK] for i in range(0, len(cases), CHUNK)]
    done = len(store.files)
    if done == len(chunks):
        return store.read()
    num_workers = num_workers or os.cpu_count() or 1
    with progress_bar(name, len(cases), min(done * CHUNK, len(cases))) as advance:
        for episodes in _played(make_env, make_agent, chunks[done:], num_workers):
            store.append(episodes)
            advance(len(episodes))
    return store.read()


def _played(make_env, make_agent, chunks, num_workers):
    if num_workers == 1 or len(chunks) == 1:
        yield from (play(make_env, make_agent, chunk) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(play, make_env, make_agent, chunk) for chunk in chunks]
        try:
            yield from (future.result() for future in futures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def play(
    make_env: Callable[[], LanguageEnv], make_agent: Callable[[LanguageEnv], Agent], cases: Sequence[Case]
) -> list[Episode]:
    """The episodes of the cases, in their order."""
    probe = make_env()
    agent = make_agent(probe)
    probe.close()
    numbered = sorted(numbered_rollout(agent, make_env, cases), key=lambda pair: pair[0])
    return [episode for _, episode in numbered]

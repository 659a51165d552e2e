"""Run jobs in several processes, of this machine or of many, with results in the order of the jobs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings


class WorkerSettings(Settings):
    """Say where work is spread. A recipe's config inherits these fields, and is then what `parallel_map` takes."""

    num_workers: int = Field(2, ge=1)
    """Among how many processes work is divided, each on one thread; with 1 everything happens in this one. No number
    depends on it."""
    executor: Literal["processes", "ray"] = "processes"
    """Who runs them: this machine, or Ray (``pip install 'llm-agents[ray]'``). No number depends on it."""
    ray_address: str | None = None
    """The Ray cluster to join: ``auto`` for the one that this machine is part of, or such as ``10.0.0.1:6379``; null
    to start Ray on this machine alone."""

    @model_validator(mode="after")
    def _agree(self) -> WorkerSettings:
        if self.executor != "ray" and self.ray_address is not None:
            raise ValueError(f"ray_address {self.ray_address} needs executor ray, not {self.executor}")
        if self.executor == "ray" and self.num_workers == 1:
            raise ValueError("executor ray needs 2 workers or more: with 1 everything happens in this process")
        return self


def parallel_map(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: WorkerSettings | int, folder: Path | None = None
) -> Iterator[Any]:
    """Run ``function(*job)`` for every job, each on one thread.

    Results depend neither on how many workers there are nor on where they are.

    Args:
        function: a function of a module, so that it can be sent to another process. With Ray, a job whose worker dies
            is run again: what it leaves must be the same then.
        jobs: its arguments.
        workers: with 1, or one job, everything happens in this process. A number alone is one of processes.
        folder: what jobs read and write, if anything; with Ray all machines must see it.

    Yields:
        The results, in the order of the jobs.

    Raises:
        UserError: a worker died; with Ray, again and again. Or there is no Ray, or a machine does not see the folder.
    """
    settings = WorkerSettings(num_workers=workers) if isinstance(workers, int) else workers
    num_workers = min(settings.num_workers, len(jobs))
    if num_workers <= 1:
        for job in jobs:
            with one_thread():
                result = function(*job)
            yield result
    elif settings.executor == "ray":
        yield from _find_ray_map()(function, jobs, num_workers, settings.ray_address, folder)
    else:
        yield from _process_map(function, jobs, num_workers)


def _process_map(function: Callable[..., Any], jobs: Sequence[tuple], num_workers: int) -> Iterator[Any]:
    executor = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker)
    try:
        futures: list[Future] = [executor.submit(function, *job) for job in jobs]
        for future in futures:
            yield future.result()
    except BrokenProcessPool:
        raise UserError("a worker process died, perhaps for want of memory: try fewer workers") from None
    finally:
        executor.shutdown(cancel_futures=True)


def _find_ray_map() -> Callable[..., Iterator[Any]]:
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # read at import; else a death prints pages of Ray's log
    try:
        from llm_agents.runtime.ray import ray_map
    except ModuleNotFoundError as error:
        raise UserError(f"executor ray needs {error.name}: pip install 'llm-agents[ray]'") from None
    return ray_map


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a worker: the order of floating-point sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback of its own
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Jobs in several processes, with results in the order of the jobs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from llm_agents.runtime.errors import UserError


def parallel_map(function: Callable[..., Any], jobs: Sequence[tuple], num_workers: int) -> Iterator[Any]:
    """``function(*job)`` for every job, each on one thread, so that results do not depend on the number of workers.

    Args:
        function: a function of a module, so that it can be sent to another process.
        jobs: its arguments.
        num_workers: with 1, or one job, everything happens in this process.

    Yields:
        The results, in the order of the jobs.

    Raises:
        UserError: a worker died.
    """
    num_workers = min(num_workers, len(jobs))
    if num_workers <= 1:
        for job in jobs:
            with one_thread():
                result = function(*job)
            yield result
        return
    executor = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker)
    try:
        futures: list[Future] = [executor.submit(function, *job) for job in jobs]
        for future in futures:
            yield future.result()
    except BrokenProcessPool:
        raise UserError("a worker process died, perhaps for want of memory: try fewer workers") from None
    finally:
        executor.shutdown(cancel_futures=True)


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

"""Run jobs on the workers of Ray, on this machine or on a cluster; imported only where that is asked for.

Results of jobs come back to the process that asked. All else that jobs read and write, such as a run's folder, must be
on a file system that every machine sees under the same path: each job looks for it first, and says so where it is
missing. Every machine must have the same packages, and be of one kind if numbers are to be equal to the last digit.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import sys
import sysconfig
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray import exceptions
from ray._private.services import canonicalize_bootstrap_address_or_die  # nothing public finds what "auto" stands for

from llm_agents.runtime.errors import UserError

MAX_DEATHS = 3
CONNECT_SECONDS = 5.0  # Ray itself tries for seven minutes
DEATHS = (
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,  # it ended, and its machine died before the result was here
)


def ray_map(
    function: Callable[..., Any], jobs: Sequence[tuple], num_workers: int, address: str | None, folder: Path | None
) -> Iterator[Any]:
    """Run ``function(*job)`` for every job, as Ray tasks of one processor core, at most ``num_workers`` at a time.

    A job whose worker is killed is run again on another. Whatever ends this early, such as Ctrl-C, ends the tasks.
    Where the program is connected to a Ray already, that is used; else one is started or joined for these jobs alone.

    Args:
        function: a function of a module.
        jobs: its arguments.
        num_workers: where Ray is started here, also the number of processor cores that it is told of.
        address: of the cluster to join; None to start Ray on this machine.
        folder: what jobs read and write; None if there is nothing.

    Yields:
        The results, in the order of the jobs.

    Raises:
        UserError: no Ray answers at the address, a machine does not see the folder, or the workers of one job died
            ``MAX_DEATHS`` times.
    """
    with connection(num_workers, address), _mark(folder) as mark:
        tasks = _Tasks(function, jobs, num_workers, mark)
        try:
            yield from tasks.results()
        finally:
            tasks.cancel()


class _Tasks:
    """Keep track of jobs: of those that wait, those that run, and what came of the others."""

    def __init__(
        self, function: Callable[..., Any], jobs: Sequence[tuple], num_workers: int, mark: Path | None
    ) -> None:
        self._function, self._jobs, self._num_workers, self._mark = function, jobs, num_workers, mark
        # Ray's own retries are not used, as they have no bound where memory is short.
        self._task = ray.remote(num_cpus=1, max_retries=0)(work_as_here)
        self._waiting = deque(range(len(jobs)))
        self._running: dict[Any, int] = {}
        self._ended: dict[int, Future] = {}
        self._deaths: Counter[int] = Counter()

    def results(self) -> Iterator[Any]:
        """Yield results in the order of the jobs; an error comes in the place of its job."""
        for number in range(len(self._jobs)):
            while number not in self._ended:
                self._wait()
            yield self._ended.pop(number).result()

    def cancel(self) -> None:
        """Kill the workers of what runs."""
        for task in self._running:
            ray.cancel(task, force=True)

    def _wait(self) -> None:
        """Keep all workers busy until one more job ends."""
        while self._waiting and len(self._running) < self._num_workers:
            number = self._waiting.popleft()
            self._running[self._task.remote(os.getcwd(), self._mark, self._function, self._jobs[number])] = number
        (task,), _ = ray.wait(list(self._running))
        number, outcome = self._running.pop(task), Future()  # type: ignore[var-annotated]
        try:
            outcome.set_result(ray.get(task))
        except exceptions.RayTaskError as error:
            outcome.set_exception(_cause(error))
        except DEATHS as error:
            self._run_again(number, error)
            return
        self._ended[number] = outcome

    def _run_again(self, number: int, error: Exception) -> None:
        self._deaths[number] += 1
        job, reason = f"job {number + 1} of {len(self._jobs)}", str(error).splitlines()[0]
        if self._deaths[number] == MAX_DEATHS:
            raise UserError(
                f"{MAX_DEATHS} workers died of {job}, perhaps for want of memory: try fewer workers ({reason})"
            ) from None
        print(f"a worker died of {job}, which is run again ({reason})", file=sys.stderr)
        self._waiting.appendleft(number)


def _cause(error: exceptions.RayTaskError) -> Exception:
    """Find what a job raised; it keeps ``error`` as its cause, which says where in the worker that was."""
    missing = re.search(r"No module named \S+", str(error.cause))
    if missing and isinstance(error.cause, exceptions.RaySystemError | RuntimeError):  # before the job could begin
        return UserError(f"a worker cannot read its job ({missing[0]}): install the same packages on every machine")
    error.cause.__cause__ = error
    return error.cause


def work_as_here(folder: str, mark: Path | None, function: Callable[..., Any], job: tuple) -> Any:
    """Run one job in a worker, as if it were in the process that asked.

    Raises:
        UserError: this machine does not see that process's folder, or the mark.
    """
    advice = "it must be on a file system that all machines share"
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(f"{platform.node()} cannot use folder {folder} ({error.strerror}): {advice}") from None
    if mark is not None and not mark.exists():
        raise UserError(f"{platform.node()} does not see folder {mark.parent}: {advice}")
    torch.set_num_threads(1)
    return function(*job)


@contextmanager
def connection(num_workers: int, address: str | None) -> Iterator[None]:
    """Join the Ray of that address, or start one; it says nothing of itself, neither here nor to its makers.

    Raises:
        UserError: no Ray answers there, or the program is connected to another.
    """
    found = None if address is None else _find(address)
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if found not in (None, joined):
            raise UserError(f"ray_address is {address}, but this program has joined the Ray at {joined}: leave it out")
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    installed = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
    paths = [os.path.abspath(path) for path in sys.path if not path.startswith(installed)]
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    }
    if found is None:
        ray.init("local", num_cpus=num_workers, include_dashboard=False, **options)
    else:
        with _one_line(address):
            ray.init(found, **options)
    try:
        yield
    finally:
        ray.shutdown()


def _find(address: str) -> str:
    """Find HOST:PORT of the Ray of that address, where something answers."""
    with _one_line(address):
        found = canonicalize_bootstrap_address_or_die(address)
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    return found


@contextmanager
def _one_line(address: str | None) -> Iterator[None]:
    """Turn what goes wrong on the way to a Ray into the user's mistake."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no Ray can be joined at ray_address {address} ({reason}): give auto or HOST:PORT of what 'ray start' "
            "started, on a machine that is part of it"
        ) from None


@contextmanager
def _mark(folder: Path | None) -> Iterator[Path | None]:
    """Keep a file in the folder while jobs run, by which machines know that it is the same folder."""
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder.absolute() / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)

"""Jobs in several processes: what comes back does not depend on how many there are."""

import os
import time

import pytest
import torch

from llm_agents.registry.recipes import find_recipe, list_recipes
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import WorkerSettings, one_thread, parallel_map


def work(seed: int) -> tuple[int, int, float]:
    """Slow where jobs come first, and a sum whose last digits depend on the number of threads."""
    if seed < 0:
        raise UserError(f"there is no seed {seed}")
    time.sleep(max(0, 2 - seed) * 0.2)
    values = torch.randn(300_000, generator=torch.Generator().manual_seed(seed))
    return seed, torch.get_num_threads(), values.sum().item()


@pytest.fixture
def many_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_neither_results_nor_errors_depend_on_the_number_of_workers(many_threads):
    jobs = [(0,), (1,), (2,), (3,), (-1,), (4,)]
    found = []
    for num_workers in (1, 2):
        results = parallel_map(work, jobs, num_workers)
        found.append([next(results) for _ in range(4)])
        with pytest.raises(UserError, match="there is no seed -1"):
            next(results)
    assert found[0] == found[1]
    assert [seed for seed, *_ in found[0]] == [0, 1, 2, 3]
    assert {threads for _, threads, _ in found[0]} == {1}
    assert torch.get_num_threads() == 3


def test_one_job_needs_no_process_and_no_job_none():
    assert list(parallel_map(os.getpid, [()], 8)) == [os.getpid()]
    assert list(parallel_map(os.getpid, [], 8)) == []


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_says_where_its_work_is_spread(name: str):
    assert issubclass(find_recipe(name).Config, WorkerSettings)


def test_a_dead_worker_is_reported_in_a_line():
    with pytest.raises(UserError, match=r"a worker process died, .*: try fewer workers"):
        list(parallel_map(os._exit, [(1,), (1,)], 2))


def test_threads_are_restored_after_an_error(many_threads):
    def fail() -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == 3

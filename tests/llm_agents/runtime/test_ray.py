"""Jobs on Ray: the same results as from processes, whoever is killed."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.toy_recipe import ToyRecipe, ToySettings

from envs.clevr_robot import make
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import EpisodeStore
from envs.language import LanguageEnv
from llm_agents.agents.scripted import ExpertAgent, NoisyAgent
from llm_agents.cli import main as cli
from llm_agents.evaluation.evaluate import evaluate_run, make_panels
from llm_agents.rollouts.collect import collect
from llm_agents.rollouts.panels import make_panel
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import WorkerSettings, parallel_map
from llm_agents.runtime.run import Run

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'llm-agents[ray]'")

TASK = ClevrRobotTask()
SPECS = make_panel(TASK, "train", 12).specs


STEPS = itertools.count()


def make_noisy(task: ClevrRobotTask) -> NoisyAgent:
    return NoisyAgent(ExpertAgent(task), 0.5)


def make_deadly(folder: Path) -> LanguageEnv:
    """The environment; the first process in which it is stepped for the tenth time is killed."""
    env = make()
    step = env.step

    def step_or_die(action):
        if next(STEPS) == 9 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(action)

    env.step = step_or_die
    return env


def work(number: int, folder: Path) -> tuple[int, str, int]:
    (folder / f"job-{number}").touch()
    if number < 0:
        raise UserError(f"there is no {number}")
    if number > 10:
        os._exit(1)
    time.sleep(0.2 * (number == 0))
    return number, os.getcwd(), os.getpid()


def wait_and_tell(number: int) -> tuple[int, str]:
    import ray

    time.sleep(1)
    return number, ray.get_runtime_context().get_node_id()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """What Ray takes for two machines with one processor core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def two_machines(cluster: Any) -> Iterator[WorkerSettings]:
    """Those, joined once, which is quicker than to join for each test."""
    from llm_agents.runtime.ray import connection

    with connection(2, cluster.address):
        yield WorkerSettings(num_workers=2, executor="ray", ray_address=cluster.address)


def collected(folder: Path, make_env, workers: WorkerSettings | int) -> list[bytes]:
    store = EpisodeStore(folder / "store")
    collect(make_env, make_noisy, SPECS, store, "some", workers, episodes_per_file=3)
    assert not store.journals
    assert not list(store.folder.glob(".seen-*"))
    return [path.read_bytes() for path in store.files]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The files that this process writes, and so would others of this machine: see test_collect.py."""
    return collected(tmp_path_factory.mktemp("expected"), make, 1)


@needs_ray
def test_collecting_and_judging_give_the_same_numbers(
    expected: list[bytes], two_machines: WorkerSettings, tmp_path: Path
):
    assert collected(tmp_path, make, two_machines) == expected
    panels, agents = make_panels(TASK, ToyRecipe().columns(ToySettings()), size=6), ["half random", "random"]
    results = []
    for name, workers in (("here", 1), ("ray", two_machines)):
        run = Run.create(tmp_path / name, "toy", ToySettings().model_dump())
        results.append(evaluate_run(run, ToyRecipe(), panels, agents, workers))
    assert results[0] == results[1]


@needs_ray
def test_a_worker_that_is_killed_changes_nothing(expected: list[bytes], two_machines: WorkerSettings, tmp_path: Path):
    assert collected(tmp_path, partial(make_deadly, tmp_path), two_machines) == expected
    assert (tmp_path / "died").exists()


@needs_ray
@pytest.mark.slow
def test_a_machine_that_is_lost_changes_nothing(cluster: Any, two_machines: WorkerSettings):
    second = cluster.add_node(num_cpus=1)
    results = parallel_map(
        wait_and_tell, [(number,) for number in range(7)], two_machines.model_copy(update={"num_workers": 3})
    )
    found = [next(results)]
    cluster.remove_node(second, allow_graceful=False)
    found += results
    assert [number for number, _ in found] == list(range(7))
    assert len({machine for _, machine in found}) > 1


@needs_ray
def test_results_come_in_order_and_an_error_in_the_place_of_its_job(two_machines: WorkerSettings, tmp_path: Path):
    results = parallel_map(work, [(number, tmp_path) for number in (0, 1, 2, -1, 3)], two_machines)
    found = [next(results) for _ in range(3)]
    assert [number for number, *_ in found] == [0, 1, 2]
    assert {folder for _, folder, _ in found} == {os.getcwd()}
    assert os.getpid() not in {process for *_, process in found}
    with pytest.raises(UserError, match="there is no -1"):
        next(results)


@needs_ray
def test_what_a_worker_cannot_import_is_told_in_a_line(two_machines: WorkerSettings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "__module__", "only_here")
    monkeypatch.setitem(sys.modules, "only_here", sys.modules[__name__])
    with pytest.raises(UserError, match=r"No module named 'only_here'\): install the same packages on every machine"):
        list(parallel_map(work, [(1, Path()), (2, Path())], two_machines))


@needs_ray
def test_a_job_that_kills_every_worker_is_given_up(two_machines: WorkerSettings, tmp_path: Path):
    with pytest.raises(UserError, match=r"3 workers died of job 2 of 2, .*: try fewer workers"):
        list(parallel_map(work, [(0, tmp_path), (11, tmp_path)], two_machines, tmp_path))
    assert not list(tmp_path.glob(".seen-*"))


@needs_ray
def test_ctrl_c_leaves_no_worker_and_the_command_goes_on(tmp_path: Path):
    store = EpisodeStore(tmp_path / "store")
    config = tmp_path / "config.yaml"
    config.write_text(f"environment: envs:ClevrRobot-v0\nagent: random\nnum_episodes: 4000\nout: {store.folder}\n")
    command = [sys.executable, "-m", "llm_agents.cli", "collect", str(config), "--executor", "ray"]
    # A background job of a shell ignores Ctrl-C, and so would the command that is started from it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(store) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=180)[1]  # not how fast, but that it ends
    assert process.returncode == 130
    assert "stopped; the same command goes on where it was" in told
    assert "Traceback" not in told
    assert not psutil.wait_procs(children, timeout=60)[1], "a process outlived the command"
    assert 3 <= len(store) < 4000
    assert not list(store.folder.glob(".seen-*"))


@needs_ray
def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path):
    from llm_agents.runtime.ray import work_as_here

    for here, mark in ((tmp_path / "nowhere", None), (tmp_path, tmp_path / "run" / ".seen-1")):
        with pytest.raises(UserError, match="must be on a file system that all machines share"):
            work_as_here(str(here), mark, work, (0, tmp_path))
    assert not (tmp_path / "job-0").exists()


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "nowhere.invalid:6379", "here"])
def test_an_address_where_no_ray_answers_is_told_in_a_line(
    address: str, run_folder: Path, capsys: pytest.CaptureFixture
):
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        address = address.format(port=bound.getsockname()[1])
        ray = ["--workers", "2", "--executor", "ray", "--ray-address", address]
        assert cli.main(["evaluate", str(run_folder), "--episodes", "2", *ray]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llm-agents:")]
    assert f"no Ray can be joined at ray_address {address}" in line


@pytest.fixture
def run_folder(toy_config: Path) -> Path:
    folder = toy_config.parent / "run"
    Run.create(folder, "toy", ToySettings().model_dump())
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--executor ray", "executor ray needs ray: pip install 'llm-agents[ray]'"),
        ("--ray-address auto", "ray_address auto needs executor ray, not processes"),
        ("--executor ray --workers 1", "executor ray needs 2 workers or more"),
        ("--executor rya", "invalid choice: 'rya'"),
        ("--workers 0", "num_workers is 0, expected"),
    ],
)
def test_what_cannot_be_spread_so_is_told_in_a_line(
    arguments: str, message: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.delitem(sys.modules, "llm_agents.runtime.ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["evaluate", str(run_folder), "--episodes", "2", "--workers", "2", *arguments.split()]
    assert cli.main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llm-agents:")]
    assert message in line

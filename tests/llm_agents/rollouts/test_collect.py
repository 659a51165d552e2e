"""Rollouts into a store: the same whatever stops it and however many processes play."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from envs.clevr_robot import make
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode, EpisodeStore
from llm_agents.agents.scripted import ExpertAgent, NoisyAgent
from llm_agents.cli import main as cli
from llm_agents.cli.collect import CollectSettings
from llm_agents.rollouts.collect import collect
from llm_agents.rollouts.panels import make_panel
from llm_agents.rollouts.rollout import ActionOutput, RunningEpisode, rollout
from llm_agents.rollouts.specs import draw_specs
from llm_agents.runtime.config import parse_config, read_yaml
from llm_agents.runtime.errors import UserError

TASK = ClevrRobotTask()
CASES = (*make_panel(TASK, "train", 8).specs, *make_panel(TASK, "easy", 6, seed=1).specs)
CHUNK = 4
CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "collect").glob("*.yaml"))


def make_noisy(task: ClevrRobotTask) -> NoisyAgent:
    return NoisyAgent(ExpertAgent(task), 0.5)


class Dying:
    """Pushes at random, until it comes upon a certain case, or has pushed so often."""

    def __init__(self, error: type[BaseException], seed: int, task: ClevrRobotTask, num_acts: int = 10**9) -> None:
        self._error, self._seed, self._left = error, seed, num_acts

    def act_in(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        self._left -= 1
        if self._left < 0 or any(episode.spec.seed == self._seed for episode in episodes):
            raise self._error
        return make_noisy(TASK).act_in(episodes)


@pytest.fixture(scope="module")
def expected() -> list[dict]:
    """What each case leads to, played in one go."""
    episodes = {episode.seed: episode for episode in rollout(make_noisy(TASK), make, CASES)}
    return metadata([episodes[spec.seed] for spec in CASES])


def metadata(episodes: Sequence[Episode]) -> list[dict]:
    arrays = ("states", "actions", "rewards")
    return [vars(e) | {name: getattr(e, name).tolist() for name in arrays} for e in episodes]


def collect_cases(store: EpisodeStore, make_agent=make_noisy, num_workers: int = 1) -> list[Episode]:
    return collect(make, make_agent, CASES, store, "cases", num_workers, CHUNK)


def test_episodes_come_in_the_order_of_their_cases(expected, tmp_path):
    asked = [(spec.goal_id, spec.instruction, spec.seed, spec.split) for spec in CASES]
    played = collect_cases(EpisodeStore(tmp_path))
    assert [(e.goal_id, e.instruction, e.seed, e.split) for e in played] == asked
    assert metadata(played) == expected


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_result_does_not_depend_on_the_workers(expected, num_workers, tmp_path):
    store = EpisodeStore(tmp_path)
    assert metadata(collect_cases(store, num_workers=num_workers)) == expected
    assert metadata(store.read()) == expected
    assert len(store.files) == -(-len(CASES) // CHUNK)
    assert not store.journals


@pytest.mark.parametrize("stop", [0, CHUNK, CHUNK + 1, len(CASES) - 1])
def test_a_collection_that_was_stopped_is_continued_to_the_same_result(expected, stop, tmp_path):
    store = EpisodeStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        collect_cases(store, partial(Dying, KeyboardInterrupt, CASES[stop].seed))
    assert len(store) == stop // CHUNK * CHUNK
    kept = [path.read_bytes() for path in store.files]
    assert metadata(collect_cases(store)) == expected
    assert [path.read_bytes() for path in store.files][: len(kept)] == kept


def test_what_has_ended_is_kept_when_the_rest_of_its_file_is_not_played(expected, tmp_path):
    store = EpisodeStore(tmp_path)
    lengths = sorted(len(e["actions"]) for e in expected[:CHUNK])
    with pytest.raises(KeyboardInterrupt):
        collect_cases(store, partial(Dying, KeyboardInterrupt, -1, num_acts=lengths[-1] - 1))
    ended = [e for e in expected[:CHUNK] if len(e["actions"]) < lengths[-1]]
    assert ended
    assert sorted(e["seed"] for e in metadata(store.read())) == sorted(e["seed"] for e in ended)
    journal = store.journals[0].read_bytes()
    with pytest.raises(KeyboardInterrupt):
        collect_cases(store, partial(Dying, KeyboardInterrupt, ended[0]["seed"], num_acts=0))
    assert len(store.journals[0].read_bytes()) >= len(journal)
    assert metadata(collect_cases(store)) == expected


def test_a_deleted_file_is_played_again_and_no_other(expected, tmp_path):
    store = EpisodeStore(tmp_path)
    collect_cases(store)
    store.files[1].unlink()
    others = {path.name: path.stat().st_mtime_ns for path in store.files}
    assert metadata(collect_cases(store)) == expected
    assert {path.name: path.stat().st_mtime_ns for path in store.files}.items() >= others.items()


def test_a_store_of_other_cases_is_refused(tmp_path):
    store = EpisodeStore(tmp_path)
    collect_cases(store)
    for specs in (CASES[:-1], CASES[:CHUNK], (*CASES[1:], CASES[0])):
        with pytest.raises(UserError, match="holds episodes of other cases"):
            collect(make, make_noisy, specs, store, "cases", 1, CHUNK)


def test_a_journal_of_other_cases_is_refused(expected, tmp_path):
    store = EpisodeStore(tmp_path)
    with store.journal(1) as journal:
        journal.add(0, collect(make, make_noisy, CASES[:1], EpisodeStore(tmp_path / "other"), "one", 1)[0])
    with pytest.raises(UserError, match="holds episodes of other cases"):
        collect_cases(store)


def test_a_whole_collection_is_only_read(expected, tmp_path):
    collect_cases(EpisodeStore(tmp_path))
    assert metadata(collect(None, None, CASES, EpisodeStore(tmp_path), "cases", 1, CHUNK)) == expected


def test_no_cases_are_no_episodes(tmp_path):
    assert collect(make, make_noisy, (), EpisodeStore(tmp_path), "cases", 1) == []


def test_the_users_mistake_in_a_worker_stays_one(tmp_path):
    with pytest.raises(UserError):
        collect(make, partial(Dying, UserError, CASES[0].seed), CASES[:CHUNK], EpisodeStore(tmp_path), "cases", 1)


# Cases


def test_cases_are_balanced_their_own_and_do_not_depend_on_how_many_follow():
    specs = draw_specs(TASK, "hard", 40, seed=2)
    assert specs[:11] == draw_specs(TASK, "hard", 11, seed=2)
    assert specs != draw_specs(TASK, "hard", 40, seed=3)
    families = [TASK.goal_set.find(spec.goal_id).family for spec in specs]
    assert len({families.count(name) for name in families}) == 1
    assert all(spec.instruction in TASK.goal_set.find(spec.goal_id, "hard").phrasings for spec in specs)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_case_starts_as_one_of_a_panel(seed):
    collected = {spec.seed for spec in draw_specs(TASK, "train", 500, seed)}
    panels = {spec.seed for s in range(3) for spec in make_panel(TASK, "train", 500, s).specs}
    assert len(collected) == 500
    assert not collected & panels


# The command


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = {
        "environment": "envs:ClevrRobot-v0",
        "agent": "random",
        "num_episodes": 10,
        "out": str(tmp_path / "store"),
        "episodes_per_file": 4,
        "num_workers": 1,
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_collect_leaves_a_store_with_a_card(config: Path, capsys: pytest.CaptureFixture):
    assert cli.main(["collect", str(config), "--split", "easy", "--agent", "expert", "--random_fraction", "0.2"]) == 0
    store = EpisodeStore(config.parent / "store")
    assert len(store.read(source="env", split="easy")) == len(store) == 10
    card = (store.folder / "README.md").read_text()
    successes = np.mean([episode.success for episode in store])
    steps = sum(len(episode) for episode in store)
    assert f"| env | easy | move | 10 | 10 | {steps} | {successes:.3f} |" in card
    assert f"llm-agents collect {config} --split easy" in card
    assert "random_fraction: 0.2" in card
    assert str(store.folder) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num_episodes 0", "--num_episodes is 0, expected"),
        ("--environment envs:Nowhere-v0", "envs:Nowhere-v0 cannot be made"),
        ("--agent exprt", "--agent is 'exprt', expected 'expert' or 'random'"),
        ("--nm_episodes 3", "did you mean --num_episodes"),
        ("--seed 1", "says seed: 0, not 1"),
        ("--num_episodes 20", "says num_episodes: 10, not 20"),
    ],
)
def test_what_cannot_be_collected_is_told(config: Path, arguments: str, message: str, capsys: pytest.CaptureFixture):
    folder = config.parent / "store"
    folder.mkdir()
    (folder / "collect.yaml").write_text(config.read_text())
    assert cli.main(["collect", str(config), *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_collecting_into_a_store_of_something_else_is_refused(config: Path, capsys: pytest.CaptureFixture):
    collect(make, make_noisy, CASES[:2], EpisodeStore(config.parent / "store"), "cases", 1)
    assert cli.main(["collect", str(config)]) == 2
    assert "holds episodes of something else" in capsys.readouterr().err


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, "the collector ended before it could be killed"
        time.sleep(0.02)


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_collector_loses_only_what_was_running_and_goes_on(config: Path, num_workers: int):
    arguments = ["collect", str(config), "--num_episodes", "40", "--episodes_per_file", "25"]
    killed = EpisodeStore(config.parent / "killed")
    command = [sys.executable, "-m", "llm_agents.cli", *arguments, "--num_workers", str(num_workers)]
    process = subprocess.Popen([*command, "--out", str(killed.folder)], stderr=subprocess.DEVNULL)
    wait_for(lambda: len(killed) >= 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(children, timeout=30)[1], "a worker outlived its parent"
    kept = {episode.seed: episode for episode in killed}
    assert 3 <= len(kept) < 40
    assert len(killed.dataset()) == len(kept)
    assert cli.main([*arguments, "--out", str(killed.folder)]) == 0
    assert cli.main(arguments) == 0
    whole = metadata(EpisodeStore(config.parent / "store").read())
    assert metadata(killed.read()) == whole
    by_seed = {e["seed"]: e for e in whole}
    assert metadata(kept.values()) == [by_seed[seed] for seed in kept]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_that_we_ship_can_be_read(path: Path):
    settings = parse_config(CollectSettings, read_yaml(path), str(path))
    assert settings.out == f"runs/episodes/{path.stem}"

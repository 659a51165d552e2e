"""The example of a plug-in, installed as a user would do it, and then seen from the command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "taxi"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of a Python that has the example installed."""
    folder = tmp_path_factory.mktemp("plug_in")
    source, target = folder / "taxi", folder / "site-packages"
    shutil.copytree(EXAMPLE, source)  # the build leaves files beside the source
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", target, source], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(target), str(Path(__file__).parents[2])])}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from llm_agents_taxi import make

    return make()


def llm_agents(arguments: str, variables: dict[str, str], folder: Path) -> str:
    command = [sys.executable, "-m", "llm_agents.cli", *arguments.split()]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_keeps_the_contract_and_can_be_collected(installed: dict[str, str], tmp_path: Path):
    (row,) = [line for line in llm_agents("envs", installed, tmp_path).splitlines() if "LanguageTaxi-v0" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == ["6 discrete", "12 to 35", "8", "8", "1", "16"]
    assert llm_agents("envs check LanguageTaxi-v0", installed, tmp_path).startswith("LanguageTaxi-v0: ok\n")
    config = EXAMPLE / "collect.yaml"
    shown = llm_agents(f"collect {config} --num_episodes 16 --num_workers 1 --out taxi", installed, tmp_path)
    assert "episodes: taxi" in shown


def play(env, act, goal: str, split: str, seed: int) -> tuple[bool, int]:
    env.reset(seed=seed, options={"goal": goal, "split": split})
    while True:
        *_, terminated, truncated, info = env.step(act())
        if terminated or truncated:
            return info["is_success"], env.num_steps


def test_the_expert_reaches_every_goal_and_chance_reaches_few(env):
    expert = env.task.expert()
    env.action_space.seed(0)
    chance = []
    for split in ("train", "easy", "hard"):
        for goal in env.task.goals(split):
            for seed in range(3):
                success, steps = play(env, lambda: expert.act([env])[0], goal.id, split, seed)
                assert success, f"{goal.id} from {seed}"
                assert steps < env.task.horizon(goal)
                chance.append(play(env, lambda: int(env.action_space.sample()), goal.id, split, seed)[0])
    assert np.mean(chance) < 0.2


def test_a_parked_taxi_needs_both_halves(env):
    goal = env.task.goal_set.find("park/red/green")
    red, green, blue = 0, 1, 3
    states = np.array([(0, 4, red, blue), (0, 4, green, blue), (0, 0, red, blue), (0, 4, 4, blue)], np.float32)
    assert env.task.achieved(goal, states).tolist() == [True, False, False, False]
    assert env.task.is_valid_start(
        goal, np.array([(2, 2, red, blue), (2, 2, blue, red), (2, 2, blue, green)])
    ).tolist() == [
        False,
        False,
        True,
    ]


def test_the_walls_that_are_told_are_those_that_stop_the_taxi(env):
    east = env.task.parse_action("go east")
    taxi = env.env.unwrapped
    for row in range(5):
        for column in range(4):
            before = taxi.encode(row, column, 0, 1)
            stopped = taxi.P[before][east][0][1] == before
            text = env.task.describe(np.array([row, column, 0, 1]))
            assert stopped == ("to the east" in text or "and the east" in text)

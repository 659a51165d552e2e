"""In a whole run of each recipe, what is learnt from and what is judged on never begin alike."""

import json
from pathlib import Path

import pytest
from helpers.recipe_runs import CONFIGS, FinishedRun, GetRun, finish

from envs.episodes import EpisodeStore
from llm_agents.runtime.streams import PANEL, range_of

KALM = {"real", "random_rollouts", "gate", "rephrase", "easy", "hard"}
LEARNT_FROM = {
    "bc": {"corpus", "demonstrations", "dagger"},
    "ppo": {"corpus", "demonstrations", "online"},
    "grpo": {"corpus", "demonstrations", "online"},
    "symbolic_ppo": {"symbolic_ppo"},
    "kalm": KALM,
    "kalm_finetune": {"symbolic_ppo"},
}
CHOSEN_BY = {"kalm": {"validation"}}
JUDGED = {"played"}  # the store of what is kept of the episodes that were judged


@pytest.mark.parametrize("name", CONFIGS)
def test_every_start_is_from_the_range_of_what_it_is_for(name: str, finished: GetRun):
    done = finished(name)
    ranges = {range_name for range_name, _ in done.starts}
    assert ranges == {PANEL, *LEARNT_FROM[name], *CHOSEN_BY.get(name, ())}
    assert judged(done) == {seed for range_name, seed in done.starts if range_name == PANEL}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_stored_to_learn_from_begins_where_nothing_is_judged_or_chosen(name: str, finished: GetRun):
    folder = finished(name).folder / "episodes"
    stores = [path for path in folder.iterdir() if path.name not in JUDGED] if folder.exists() else []
    assert stores or name in ("symbolic_ppo", "kalm_finetune")
    for store in stores:
        assert {range_of(episode.seed) for episode in EpisodeStore(store).read()} <= LEARNT_FROM[name]


@pytest.mark.parametrize("panel_seed", [0, 1])
def test_so_it_is_for_any_seed_of_the_panels(panel_seed: int, tmp_path: Path):
    done = finish("symbolic_ppo", tmp_path / "run", evaluation={"num_episodes": 2, "panel_seed": panel_seed})
    assert {range_name for range_name, _ in done.starts} == {PANEL, *LEARNT_FROM["symbolic_ppo"]}
    assert judged(done) == {seed for range_name, seed in done.starts if range_name == PANEL}


def test_a_policy_that_is_fine_tuned_learnt_from_nothing_that_it_is_judged_on(finished: GetRun):
    """Neither when it was trained offline nor online; both runs have the same panels."""
    start, tuned = finished("kalm"), finished("kalm_finetune")
    learnt = {seed for run in (start, tuned) for range_name, seed in run.starts if range_name != PANEL}
    assert judged(start) == judged(tuned)
    assert not learnt & judged(tuned)


def test_every_recipe_is_looked_at():
    assert set(CONFIGS) == set(LEARNT_FROM)
    assert not CHOSEN_BY["kalm"] & LEARNT_FROM["kalm"]


def judged(done: FinishedRun) -> set[int]:
    return {
        spec["seed"]
        for path in (done.folder / "evaluation").glob("*.json")
        for spec in json.loads(path.read_text(encoding="utf-8"))["specs"]
    }

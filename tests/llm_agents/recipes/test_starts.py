"""In a whole run of each recipe, what is learnt from and what is judged on never begin alike."""

import json
from collections import Counter

import pytest
from helpers.recipe_runs import CONFIGS, make

from envs.language import LanguageEnv
from llm_agents.runtime.streams import PANEL, range_of

LEARNT_FROM = {
    "bc": {"corpus", "demonstrations", "dagger"},
    "ppo": {"corpus", "demonstrations", "online"},
    "grpo": {"corpus", "demonstrations", "online"},
    "symbolic_ppo": {"symbolic_ppo"},
}


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count the starts of every range that any environment of this process is reset to."""
    seen: Counter = Counter()
    reset = LanguageEnv.reset

    def counted(self, *, seed=None, options=None):
        if seed is not None:
            seen[range_of(seed), seed] += 1
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(LanguageEnv, "reset", counted)
    return seen


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("panel_seed", [0, 1, 90])
def test_every_start_is_from_the_range_of_what_it_is_for(name, panel_seed, tmp_path, starts):
    recipe, config, run = make(name, tmp_path / "run", evaluation={"num_episodes": 2, "panel_seed": panel_seed})
    recipe.run(config, run)
    assert {range_name for range_name, _ in starts} == {PANEL, *LEARNT_FROM[name]}
    judged = {
        case["seed"]
        for path in (run.folder / "evaluation").glob("*.json")
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]
    }
    assert judged == {seed for range_name, seed in starts if range_name == PANEL}


def test_every_recipe_is_looked_at():
    assert set(CONFIGS) == set(LEARNT_FROM)

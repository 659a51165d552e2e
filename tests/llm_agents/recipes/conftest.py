from functools import cache

import pytest
from helpers.recipe_runs import CONFIGS, FinishedRun, GetRun, finish

PANEL_SEED = 90  # whose panels were once where training began


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> GetRun:
    """A finished run of each recipe, made when it is first asked for. Tests that change one work on a copy."""

    @cache
    def get(name: str) -> FinishedRun:
        changes = {"start_from": {"run": str(get("kalm").folder), "agent": "real"}} if name == "kalm_finetune" else {}
        folder = tmp_path_factory.mktemp("finished") / name
        return finish(name, folder, evaluation=CONFIGS[name]["evaluation"] | {"panel_seed": PANEL_SEED}, **changes)

    return get

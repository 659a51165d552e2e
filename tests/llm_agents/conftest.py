from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from llm_agents.registry import recipes


@pytest.fixture
def toy_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A config of the toy recipe, which counts as installed."""
    entry = EntryPoint("toy", "helpers.toy_recipe:ToyRecipe", recipes.GROUP)
    monkeypatch.setattr(recipes, "entry_points", lambda group: [entry])
    path = tmp_path / "tiny.yaml"
    path.write_text("recipe: toy\nnote: as in the file\n")
    return path

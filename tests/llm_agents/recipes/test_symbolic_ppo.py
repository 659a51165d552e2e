"""The symbolic baseline: what it sees of states and goals, and what its library leaves behind."""

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from gymnasium import spaces
from helpers.recipe_runs import CONFIGS, make

from envs.language import StateGrid
from llm_agents.models.grid_features import GridFeatures
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.registry.recipes import load_agent
from llm_agents.runtime.errors import UserError
from llm_agents.training.sb3 import SentenceEmbeddings


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_the_library_leaves_nothing_behind(network, tmp_path, monkeypatch):
    """Its default logger makes a folder in the system's temporary one at each training."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    recipe, config, run = make(
        "symbolic_ppo", tmp_path / "run", ppo=CONFIGS["symbolic_ppo"]["ppo"] | {"network": network}
    )
    recipe.run(config, run)
    assert not list((tmp_path / "temporary").glob("SB3*"))
    assert load_agent(recipe, run, "symbolic_ppo (greedy)")


def test_convolutions_need_a_grid_in_the_state(tmp_path):
    settings = CONFIGS["symbolic_ppo"]["ppo"] | {"network": "cnn"}
    changes = {"environment": "envs:ClevrRobot-v0", "options": {}, "ppo": settings}
    recipe, config, run = make("symbolic_ppo", tmp_path / "run", **changes)
    with pytest.raises(UserError, match="cnn needs a grid in the state, and envs:ClevrRobot-v0 says of none") as error:
        recipe.run(config, run)
    assert "\n" not in str(error.value)


def test_convolutions_see_the_grid_cell_by_cell_and_pass_the_rest_on():
    """A change of one cell is seen in the cells up to two steps from it and nowhere else."""
    width, height, depth, before, behind = 7, 5, 3, 2, 4
    grid = StateGrid(before, (width, height, depth))
    network = GridFeatures(spaces.Box(-1, 1, (before + grid.size + behind,)), grid)
    state = torch.rand(1, before + grid.size + behind)
    changed = state.clone()
    changed[0, before : before + grid.size].view(grid.shape)[5, 1] += 1
    features, others = (network(x)[:, : -before - behind].view(-1, width, height) for x in (state, changed))
    columns, rows = (features != others).any(0).nonzero(as_tuple=True)
    assert 3 <= columns.min() <= columns.max() <= 6
    assert 0 <= rows.min() <= rows.max() <= 3
    assert torch.equal(network(state)[:, -before - behind :], torch.cat([state[:, :before], state[:, -behind:]], 1))
    assert network(state).shape[1] == network.features_dim


def test_an_instruction_is_encoded_once_and_alone():
    """So that its numbers are the same whatever was met before: beside longer texts the last bits differ."""
    asked = []

    class Spy(TextEncoder):
        def encode(self, texts):
            asked.append(list(texts))
            return super().encode(texts)

    encoder = Spy.load()
    embeddings = SentenceEmbeddings(encoder)
    texts = ["go to the red ball", "pick up a key", "go to the red ball"]
    found = [embeddings(text) for text in texts]
    assert asked == [["go to the red ball"], ["pick up a key"]]
    assert np.array_equal(found[0], found[2])
    for text, embedding in zip(texts, found, strict=True):
        assert np.array_equal(embedding, TextEncoder.load().encode([text]).sentence_embedding()[0].numpy())

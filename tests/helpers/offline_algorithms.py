"""The algorithms of offline RL with the worlds whose actions they can do, their settings, and cases to decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.worlds import WORLDS, World
from kalm.offline import ALGORITHMS, BCSettings, PolicySettings
from llm_agents.rollouts.specs import EpisodeSpec

# What is right to do depends on the goal alone. In CLEVR-Robot the goals differ in who stands where.
RIGHT: dict[str, Any] = {
    "pair/left/red/blue": 3,
    "pair/left/blue/red": 17,
    "pair/behind/red/blue": 25,
    "pair/right/cyan/green": 38,
    "left": [-1.0, 0.0],
    "right": [1.0, 0.0],
    "front": [0.0, -1.0],
    "back": [0.0, 1.0],
}
KINDS = [("bc", "clevr"), ("cql", "clevr"), ("iql", "clevr"), ("bc", "point"), ("iql", "point")]
EVERY = pytest.mark.parametrize(("name", "world"), KINDS, indirect=["world"], scope="session")
LEARNS_VALUES = pytest.mark.parametrize(
    ("name", "world"), [k for k in KINDS if k[0] != "bc"], indirect=["world"], scope="session"
)
SETTINGS = BCSettings(
    num_steps=200, batch_size=64, learning_rate=5e-3, hidden_size=128, num_layers=2, token_dropout=0.1
)


def settings_of(name: str, **changes) -> PolicySettings:
    """The same for every algorithm; targets follow fast."""
    own = {} if name == "bc" else {"target_rate": 0.05}
    return ALGORITHMS[name].Settings(**SETTINGS.model_dump(exclude={"algorithm"}), **own).model_copy(update=changes)


def names_in(world: World) -> list[str]:
    """The algorithms that can do its actions."""
    return [name for name, place in KINDS if WORLDS[place] is world]


def specs(count: int, first_seed: int, world: World = WORLDS["clevr"]) -> list[EpisodeSpec]:
    """Cases for the four goals in turn, in any of their training phrasings."""
    goals = [goal for goal in world.task.goals("train") if goal.id in RIGHT]
    rng = np.random.default_rng(first_seed)
    return [
        EpisodeSpec(goal.id, goal.phrasings[rng.integers(len(goal.phrasings))], first_seed + index, "train")
        for index, goal in enumerate(goals * (count // 4))
    ]

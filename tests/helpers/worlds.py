"""Where the tests play: CLEVR-Robot with discrete actions, a point mass with continuous ones, and BabyAI's room, where
most vectors are no states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from envs import babyai, clevr_robot
from envs.episodes import Episode
from envs.language import LanguageEnv, LanguageTask
from helpers import point_mass
from helpers.extras import NEEDS_MINIGRID
from kalm.action_space import ActionSpace, action_space
from llm_agents.rollouts.rollout import AnyAgent, rollout
from llm_agents.rollouts.specs import EpisodeSpec

NUM_BINS = 11


@dataclass(frozen=True)
class World:
    """An environment and what a model must know about its actions."""

    make: Callable[[], LanguageEnv]

    @property
    def task(self) -> LanguageTask:
        return self.make().task

    @property
    def actions(self) -> ActionSpace:
        return action_space(self.make().action_space, NUM_BINS)

    def play(self, agent: AnyAgent, specs: Sequence[EpisodeSpec]) -> list[Episode]:
        """The episodes of the cases, in their order."""
        return rollout(agent, self.make, specs)

    def random_actions(self, *shape: int, seed: int = 0) -> Tensor:
        """Any actions, as many as there are places in the shape."""
        space = self.make().action_space
        space.seed(seed)
        drawn = [torch.as_tensor(space.sample()) for _ in range(torch.Size(shape).numel())]
        return torch.stack(drawn).view(*shape, *drawn[0].shape)


WORLDS = {"clevr": World(clevr_robot.make), "point": World(point_mass.make), "room": World(babyai.make_room)}
BOTH = pytest.mark.parametrize("world", ["clevr", "point"], indirect=True)
CONTINUOUS = pytest.mark.parametrize("world", ["point"], indirect=True)
ROOM = pytest.mark.parametrize("world", [pytest.param("room", marks=NEEDS_MINIGRID)], indirect=True)

"""Convolutions over a state that holds a small grid of cells."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from envs.language import StateGrid

NUM_CHANNELS = 32


class GridFeatures(BaseFeaturesExtractor):
    """Two convolutions over the grid in an observation (N, D); the numbers before and after it stay as they are.

    They look at 3x3 cells and keep the grid's size, since most goals are about how far away a cell is.

    Args:
        grid: where the grid lies in the observation.
    """

    def __init__(self, observation_space: spaces.Box, grid: StateGrid) -> None:
        width, height, depth = grid.shape
        num_others = observation_space.shape[0] - grid.size
        super().__init__(observation_space, width * height * NUM_CHANNELS + num_others)
        self._grid = grid
        self.convolutions = nn.Sequential(
            nn.Conv2d(depth, NUM_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(NUM_CHANNELS, NUM_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Map observations (N, D) to features (N, F)."""
        start, end = self._grid.start, self._grid.start + self._grid.size
        cells = observations[:, start:end].unflatten(1, self._grid.shape).movedim(-1, 1)
        return torch.cat([self.convolutions(cells), observations[:, :start], observations[:, end:]], 1)

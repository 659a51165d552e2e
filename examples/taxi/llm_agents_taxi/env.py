"""Gymnasium's Taxi with its state as four numbers instead of one."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.toy_text.taxi import TaxiEnv
from numpy.typing import NDArray


class TaxiInNumbers(gymnasium.ObservationWrapper):
    """Taxi whose state is (row, column, passenger, destination).

    Row and column are the taxi's; then come the stop where the passenger is (4: aboard) and the one they want to go to.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(TaxiEnv(render_mode))
        self.observation_space = spaces.Box(0, np.array([4, 4, 4, 3], np.float32), dtype=np.float32)

    def observation(self, observation: int) -> NDArray[np.float32]:
        return np.array(list(self.unwrapped.decode(observation)), np.float32)

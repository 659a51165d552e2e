"""Transitions of random actions in the BabyAI room."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def played() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, actions and next states."""
    from helpers.babyai_rooms import random_states  # which needs minigrid

    return random_states(40, 100)

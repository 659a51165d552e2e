import numpy as np
import pytest

from envs.goals import Goal
from llm_agents.cli.encoder import confusion


def test_confusion_by_hand():
    """Two goals with two phrasings each, on the unit circle at these angles in degrees."""
    goals = [Goal("a", "f", "train", ("a1", "a2")), Goal("b", "f", "train", ("b1", "b2"))]
    angles = np.radians([0, 60, 70, 180])
    found = confusion(goals, 3 * np.stack([np.cos(angles), np.sin(angles)], 1))
    assert found.same == pytest.approx(np.cos(np.radians([60, 60, 110, 110])))
    assert found.nearest_other == pytest.approx(np.cos(np.radians([70, 10, 10, 120])))
    assert found.confused.tolist() == [False, True, True, False]
    assert [pair[:2] for pair in found.pairs] == [("a2", "b1")]

"""Episodes as padded tensors: nothing reaches beyond an episode."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.episodes import Episode
from kalm.trajectories import Trajectories, Transitions


def episode(number: int, length: int, terminated: bool = True) -> Episode:
    """One in which every number says where it belongs: state (number, step), action 10 * number + step."""
    steps = np.arange(length + 1, dtype=np.float32)
    return Episode(
        goal_id="line",
        family="line",
        split="hard",
        instruction=f"{number}",
        states=np.stack([np.full_like(steps, number), steps], 1),
        actions=100 * number + np.arange(length) + 1,
        rewards=(number + steps[1:] / 100).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        source="env",
        seed=number,
    )


@st.composite
def windows(draw) -> tuple[list[int], list[int], list[int], int]:
    """Lengths of episodes, and rows, beginnings and the maximal length of windows."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    rows = draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    begins = [draw(st.integers(0, lengths[row] - 1)) for row in rows]
    return lengths, rows, begins, draw(st.integers(1, 12))


@given(windows())
def test_a_window_is_a_piece_of_its_episode_and_nothing_else(spec):
    lengths, rows, begins, max_steps = spec
    trajectories = Trajectories.of([episode(number, length) for number, length in enumerate(lengths)])
    states, actions, sizes = trajectories.window(torch.tensor(rows), torch.tensor(begins), max_steps)
    assert states.shape == (len(rows), sizes.max() + 1, 2)
    assert actions.shape == (len(rows), sizes.max())
    for row, begin, size, window, taken in zip(rows, begins, sizes.tolist(), states, actions, strict=True):
        end = begin + size
        assert size == min(max_steps, lengths[row] - begin)
        assert taken[:size].tolist() == [100 * row + step + 1 for step in range(begin, end)]
        expected = [*range(begin, end + 1), *[end] * (len(window) - size - 1)]  # the last state is repeated
        assert window.tolist() == [[row, step] for step in expected]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_every_transition_is_there_once_and_in_order(lengths):
    trajectories = Trajectories.of([episode(number, length) for number, length in enumerate(lengths)])
    expected = [(row, step) for row, length in enumerate(lengths) for step in range(length)]
    rows, steps = trajectories.transitions()
    assert list(zip(rows.tolist(), steps.tolist(), strict=True)) == expected
    flat = Transitions.of(trajectories, trajectories)
    assert flat.states.tolist() == [[row, step] for row, step in expected] * 2
    assert flat.next_states.tolist() == [[row, step + 1] for row, step in expected] * 2
    assert flat.actions.tolist() == [100 * row + step + 1 for row, step in expected] * 2
    last = len(expected) - 1
    assert [column.tolist() for column in flat.take(torch.tensor([last]))] == [
        [column[last].tolist()] for column in flat
    ]


def test_rewards_and_endings_are_the_episodes():
    trajectories = Trajectories.of([episode(0, 2), episode(1, 4, terminated=False)])
    torch.testing.assert_close(trajectories.rewards, torch.tensor([[0.01, 0.02, 0.0, 0.0], [1.01, 1.02, 1.03, 1.04]]))
    assert trajectories.terminated.tolist() == [True, False]
    assert trajectories.lengths.tolist() == [2, 4]
    assert len(trajectories) == 2


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="no episodes"):
        Trajectories.of([])

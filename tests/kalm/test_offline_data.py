"""Offline RL: the batches that the algorithms see."""

from collections import Counter

import numpy as np
import pytest
import torch

from envs.clevr_robot.env import NUM_ACTIONS
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode
from kalm.offline import OfflineData
from kalm.trajectories import Trajectories

TASK = ClevrRobotTask()


def episode(number: int, length: int, goal: str = "pair/left/red/blue", split="train", terminated=True) -> Episode:
    """One whose numbers say where they belong: state (number, step, ...)."""
    states = np.zeros((length + 1, 10), np.float32)
    states[:, 0], states[:, 1] = number, np.arange(length + 1)
    family = goal.split("/")[0]
    goal_object = TASK.goal_set.find(goal, split)
    return Episode(
        goal_id=goal,
        family=family,
        split=split,
        instruction=goal_object.phrasings[number % len(goal_object.phrasings)],
        states=states,
        actions=(number + np.arange(length)) % NUM_ACTIONS,
        rewards=(number + np.arange(length) / 100).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        source="env",
        seed=number,
    )


REAL = [episode(0, 5), episode(1, 3, terminated=False), episode(2, 1)]
IMAGINED = [
    *(episode(100 + n, 1, "move/left/red", "easy") for n in range(4)),
    *(episode(200 + n, 4, "pair/left/red/blue", "rephrase") for n in range(4)),
    *(episode(300 + n, 16, "gather/red", "hard") for n in range(4)),
]


def offline_data(encoder, fraction: float, batch_size: int = 64, imagined=IMAGINED, seed: int = 0) -> OfflineData:
    extra = Trajectories.of(imagined) if imagined else None
    return OfflineData(encoder, Trajectories.of(REAL), extra, fraction, batch_size, seed)


@pytest.mark.parametrize("batch_size", [2, 33, 64])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_of_imagined_rows_is_exact(encoder, fraction, batch_size):
    data = offline_data(encoder, fraction, batch_size)
    for step in range(5):
        states = data.batch(step)["states"]
        assert len(states) == batch_size
        assert (states[:, 0] >= 100).sum() == round(fraction * batch_size)


def test_without_imagined_data_every_row_is_real(encoder):
    batch = offline_data(encoder, 0.5, imagined=None).batch(0)
    assert len(batch["states"]) == 64
    assert (batch["states"][:, 0] < 100).all()


def test_a_row_is_one_transition_with_all_that_belongs_to_it(encoder):
    data = offline_data(encoder, 0.5)
    by_number = {int(e.states[0, 0]): e for e in REAL + IMAGINED}
    ended = Counter()
    for step in range(10):
        batch = data.batch(step)
        numbers, steps = batch["states"][:, 0].int().tolist(), batch["states"][:, 1].int().tolist()
        expected_text = encoder.packed(encoder.rows([by_number[number].instruction for number in numbers]))
        assert torch.equal(batch["text"].features, expected_text.features)
        assert torch.equal(batch["text"].lengths, expected_text.lengths)
        for row, (number, t) in enumerate(zip(numbers, steps, strict=True)):
            e = by_number[number]
            assert batch["states"][row].tolist() == e.states[t].tolist()
            assert batch["next_states"][row].tolist() == e.states[t + 1].tolist()
            assert batch["actions"][row] == e.actions[t]
            assert batch["rewards"][row] == e.rewards[t]
            assert batch["terminated"][row] == (e.terminated and t + 1 == len(e))
            ended[bool(batch["terminated"][row]), e.terminated, t + 1 == len(e)] += 1
    # All kinds were seen: going on, terminated, and truncated, which counts as going on.
    assert set(ended) == {(False, True, False), (True, True, True), (False, False, False), (False, False, True)}


def test_real_rows_are_drawn_evenly(encoder):
    data = offline_data(encoder, 0.0, batch_size=90)
    count = 40
    seen = Counter(tuple(row) for step in range(count) for row in data.batch(step)["states"][:, :2].tolist())
    assert set(seen) == {(float(e.states[0, 0]), float(t)) for e in REAL for t in range(len(e))}
    expected = 90 * count / 9
    assert max(abs(n - expected) for n in seen.values()) < 5 * np.sqrt(expected)


def test_groups_of_imagined_rows_are_balanced_by_the_root_of_their_size(encoder):
    """Of 4, 16 and 64 transitions: as 2 to 4 to 8, and evenly within each."""
    data = offline_data(encoder, 1.0, batch_size=140)
    count = 40
    rows = [tuple(row) for step in range(count) for row in data.batch(step)["states"][:, :2].int().tolist()]
    groups = Counter(number // 100 for number, _ in rows)
    for group, parts in ((1, 2), (2, 4), (3, 8)):
        expected = 140 * count * parts / 14
        assert abs(groups[group] - expected) < 5 * np.sqrt(expected)
        within = Counter(row for row in rows if row[0] // 100 == group)
        size = 4**group
        assert len(within) == size
        assert max(abs(n - expected / size) for n in within.values()) < 5 * np.sqrt(expected / size)


def test_a_batch_is_a_function_of_seed_and_step(encoder):
    data, again, other = (offline_data(encoder, 0.5, seed=seed) for seed in (0, 0, 1))
    expected = {step: data.batch(step)["states"] for step in (4, 0, 9)}
    assert all(torch.equal(again.batch(step)["states"], expected[step]) for step in (0, 4, 9))
    assert not torch.equal(expected[0], expected[4])
    assert not torch.equal(other.batch(0)["states"], expected[0])

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from envs.episodes import CorruptStore, Episode, EpisodeStore, Turn
from envs.goals import SPLITS

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=4)


@st.composite
def turns(draw) -> Turn:
    token_ids = draw(TOKENS)
    log_probs = draw(st.lists(st.floats(-50, 0, width=32), min_size=len(token_ids), max_size=len(token_ids)))
    return Turn(draw(TOKENS), token_ids, log_probs)


@st.composite
def episodes(draw) -> Episode:
    steps = draw(st.integers(0, 5))
    state_dim = draw(st.integers(1, 4))
    continuous = draw(st.booleans())
    shape = (steps, draw(st.integers(1, 3))) if continuous else (steps,)
    dtype = draw(st.sampled_from((np.float32, np.float64) if continuous else (np.int64, np.int32)))
    return Episode(
        goal_id=draw(st.text()),
        family=draw(st.text()),
        split=draw(st.sampled_from(SPLITS)),
        instruction=draw(st.text()),
        states=draw(hnp.arrays(np.float32, (steps + 1, state_dim), elements=FLOATS)),
        actions=draw(hnp.arrays(dtype, shape)),
        rewards=draw(hnp.arrays(np.float32, steps, elements=FLOATS)),
        terminated=draw(st.booleans()),
        truncated=draw(st.booleans()),
        success=draw(st.booleans()),
        source=draw(st.sampled_from(("env", "imagined"))),
        seed=draw(st.integers(0, 2**62)),
        turns=tuple(draw(st.lists(turns(), min_size=steps, max_size=steps))) if draw(st.booleans()) else (),
    )


def make_episode(**changes) -> Episode:
    sound = {
        "goal_id": "pair/left/red/blue",
        "family": "pair",
        "split": "train",
        "instruction": "push the red ball left of the blue one",
        "states": np.arange(8, dtype=np.float32).reshape(4, 2),
        "actions": np.arange(3),
        "rewards": np.ones(3, np.float32),
        "terminated": True,
        "truncated": False,
        "success": True,
        "source": "env",
        "seed": 0,
    }
    return Episode(**(sound | changes))


def assert_same(episode: Episode, other: Episode) -> None:
    for field in dataclasses.fields(Episode):
        ours, theirs = getattr(episode, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(episodes(), max_size=4))
def test_what_is_stored_comes_back(tmp_path_factory: pytest.TempPathFactory, written: list[Episode]):
    store = EpisodeStore(tmp_path_factory.mktemp("store") / "real")
    store.append(written)
    read = store.read()
    assert len(store) == len(read) == len(written)
    for episode, other in zip(written, read, strict=True):
        assert_same(episode, other)


def test_files_are_read_in_the_order_written(tmp_path: Path):
    store = EpisodeStore(tmp_path / "real")
    for first in (0, 3, 6):
        store.append(make_episode(seed=seed) for seed in range(first, first + 3))
    assert [episode.seed for episode in EpisodeStore(tmp_path / "real")] == list(range(9))
    assert [episode.seed for episode in store.read(keep=lambda row: row["seed"] % 4 == 0)] == [0, 4, 8]
    assert store.dataset()["seed"][:] == list(range(9))


def test_an_empty_store_is_empty(tmp_path: Path):
    store = EpisodeStore(tmp_path / "real")
    store.append([])
    assert (len(store), store.read(), len(store.dataset())) == (0, [], 0)
    assert not store.folder.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named_and_refused(tmp_path: Path, share: float):
    store = EpisodeStore(tmp_path)
    store.append([make_episode()])
    store.append([make_episode()])
    path = store.files[1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for read in (store.read, store.dataset, lambda: len(store), lambda: list(store)):
        with pytest.raises(CorruptStore, match=r"part-00001\.parquet cannot be read"):
            read()


def test_a_deleted_file_makes_no_other_be_overwritten(tmp_path: Path):
    store = EpisodeStore(tmp_path)
    for seed in range(3):
        store.append([make_episode(seed=seed)])
    store.files[1].unlink()
    store.append([make_episode(seed=3)])
    assert [episode.seed for episode in store] == [0, 2, 3]


def test_a_writer_that_dies_leaves_what_was_written(tmp_path: Path):
    def dying():
        yield make_episode()
        raise KeyboardInterrupt

    store = EpisodeStore(tmp_path)
    store.append([make_episode(seed=1)])
    with pytest.raises(KeyboardInterrupt):
        store.append(dying())
    (tmp_path / "part-00001.tmp").write_bytes(b"half")
    assert [episode.seed for episode in store.read()] == [1]


def test_episodes_cannot_be_changed(tmp_path: Path):
    store = EpisodeStore(tmp_path)
    store.append([make_episode()])
    for episode in (make_episode(), store.read()[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            episode.success = False
        for array in (episode.states, episode.actions, episode.rewards):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": np.zeros((3, 2), np.float32)}, "3 actions need 4 states and 3 rewards, got 3 and 3"),
        ({"rewards": np.zeros(4, np.float32)}, "3 actions need 4 states and 3 rewards, got 4 and 4"),
        ({"actions": np.zeros(2, int)}, "2 actions need 3 states and 2 rewards, got 4 and 3"),
        ({"turns": (Turn([1], [2], [0.0]),)}, "3 actions but 1 turns"),
    ],
)
def test_wrong_lengths_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_episode(**changes)

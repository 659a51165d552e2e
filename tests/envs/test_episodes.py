import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


def test_a_damaged_file_is_refused_or_harmless(tmp_path: Path):
    store = EpisodeStore(tmp_path)
    noise = np.random.default_rng(0)
    written = [make_episode(states=noise.normal(size=(4, 50)).astype(np.float32), seed=seed) for seed in range(20)]
    store.append(written)
    whole = store.files[0].read_bytes()
    refused = 0
    for place in range(4, len(whole), len(whole) // 60):
        store.files[0].write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            for episode, other in zip(written, store.read(), strict=True):
                assert_same(episode, other)
        except CorruptStore:
            refused += 1
    assert refused > 30


def test_a_parquet_file_of_something_else_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"prices": [1, 2]}), tmp_path / "part-00000.parquet")
    with pytest.raises(CorruptStore, match=r"part-00000\.parquet cannot be read \(it holds no episodes\)"):
        EpisodeStore(tmp_path).read()


def mixed_store(folder: Path) -> EpisodeStore:
    store = EpisodeStore(folder)
    for first in (0, 4):
        kinds = [("env", "train"), ("imagined", "train"), ("env", "hard"), ("imagined", "hard")]
        store.append(make_episode(seed=first + i, source=kind[0], split=kind[1]) for i, kind in enumerate(kinds))
    return store


@pytest.mark.parametrize(
    ("wanted", "seeds"),
    [
        ({}, list(range(8))),
        ({"source": "imagined"}, [1, 3, 5, 7]),
        ({"split": "hard"}, [2, 3, 6, 7]),
        ({"source": "env", "split": "hard"}, [2, 6]),
        ({"split": "easy"}, []),
    ],
)
def test_episodes_are_filtered_by_source_and_split(tmp_path: Path, wanted: dict, seeds: list[int]):
    store = mixed_store(tmp_path)
    with store.journal(2) as journal:
        journal.add(0, make_episode(seed=8, split="rephrase"))
    seeds = seeds if wanted else [*seeds, 8]
    assert [episode.seed for episode in store.read(**wanted)] == seeds
    assert store.dataset(**wanted)["seed"][:] == seeds


def test_a_dataset_is_mapped_from_a_file_that_follows_the_store(tmp_path: Path):
    store = mixed_store(tmp_path)
    before = store.dataset()
    (mapped,) = {file["filename"] for file in before.cache_files}
    assert [file["filename"] for file in store.dataset().cache_files] == [mapped]
    store.append([make_episode(seed=99)])
    after = store.dataset()
    assert [file["filename"] for file in after.cache_files] != [mapped]
    assert after["seed"][-1] == 99
    assert before["seed"][:] == list(range(8))  # what is open stays whole
    assert len(list((tmp_path / ".cache").iterdir())) == 1


def test_what_is_in_a_journal_is_in_the_store(tmp_path: Path):
    store = EpisodeStore(tmp_path)
    with store.journal(1) as journal:
        for spec in (2, 0):
            journal.add(spec, make_episode(seed=10 + spec))
            assert EpisodeStore(tmp_path).read()[-1].seed == 10 + spec  # at once, not when it is closed
    store.write(0, [make_episode(seed=1)])
    assert [episode.seed for episode in store] == [1, 12, 10]
    assert len(store) == len(store.dataset()) == 3
    assert [episode.seed for episode in store.journal(1).episodes.values()] == [12, 10]
    store.write(1, [make_episode(seed=2)])
    assert [episode.seed for episode in store] == [1, 2]
    assert not store.journals


def test_a_journal_that_was_cut_anywhere_keeps_its_whole_records(tmp_path: Path):
    store = EpisodeStore(tmp_path)
    ends = []
    with store.journal(0) as journal:
        (path,) = tmp_path.glob("*.journal")
        for spec in range(3):
            ends.append(path.stat().st_size)
            journal.add(spec, make_episode(seed=spec))
    whole = path.read_bytes()
    ends.append(len(whole) - 8)  # less the end mark
    for size in [*range(0, len(whole), 37), *ends]:
        path.write_bytes(whole[:size])
        expected = list(range(sum(end <= size for end in ends[1:])))
        assert [episode.seed for episode in store.read()] == expected
        assert len(store) == len(expected)
        with store.journal(0) as again:
            assert list(again.episodes) == expected
            again.add(7, make_episode(seed=7))
        assert [episode.seed for episode in store.read()] == [*expected, 7]


def test_a_writer_that_outlived_its_parent_does_no_harm(tmp_path: Path):
    store = EpisodeStore(tmp_path)
    left_behind = store.journal(0)
    left_behind.add(0, make_episode(seed=0))
    with store.journal(0) as journal:
        left_behind.add(1, make_episode(seed=1))
        journal.add(2, make_episode(seed=2))
    assert [episode.seed for episode in store] == [0, 2]


def test_episodes_of_text_actions_are_stored(tmp_path: Path):
    actions = np.array(["look", "go north — now", ""])
    EpisodeStore(tmp_path).append([make_episode(actions=actions)])
    (read,) = EpisodeStore(tmp_path).read()
    assert read.actions.tolist() == actions.tolist()


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

"""A store that is shared: its card, and its way to a hub and back."""

import fnmatch
import shutil
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest

from envs.data_card import count, write_data_card
from envs.episodes import Episode, EpisodeStore


def make_episode(goal: str, split: str, steps: int, success: bool, source: str = "env") -> Episode:
    return Episode(
        goal_id=goal,
        family=goal.split("/")[0],
        split=split,
        instruction=f"do {goal}",
        states=np.zeros((steps + 1, 2), np.float32),
        actions=np.zeros((steps, 3), np.float32),
        rewards=np.zeros(steps, np.float32),
        terminated=success,
        truncated=not success,
        success=success,
        source=source,
        seed=0,
    )


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    store = EpisodeStore(tmp_path / "store")
    store.append([make_episode("a/1", "train", 3, True), make_episode("a/1", "train", 4, False)])
    store.append([make_episode("a/2", "train", 1, True), make_episode("b/1", "hard", 2, False, "imagined")])
    write_data_card(store, "Some episodes", "llm-agents collect some.yaml", {"environment": "envs:Some-v0", "seed": 3})
    return store


def test_counts_are_by_source_split_and_family(store: EpisodeStore):
    counts = count(store)
    assert list(counts) == [("env", "train", "a"), ("imagined", "hard", "b")]
    first = counts["env", "train", "a"]
    assert (first.episodes, first.steps, len(first.goals), first.success) == (3, 8, 2, 2 / 3)


def test_the_card_says_what_there_is_and_how_it_was_made(store: EpisodeStore):
    card = (store.folder / "README.md").read_text()
    assert "| env | train | a | 3 | 2 | 8 | 0.667 |" in card
    assert "| imagined | hard | b | 1 | 1 | 2 | 0.000 |" in card
    for words in ("# Some episodes", "llm-agents collect some.yaml", "environment: envs:Some-v0", "seed: 3"):
        assert words in card
    assert huggingface_hub.DatasetCard(card).data.tags == ["reinforcement-learning", "language-goals", "episodes"]


def test_datasets_reads_the_folder_by_its_card(store: EpisodeStore, tmp_path: Path):
    (tmp_path / "store" / "collect.yaml").write_text("seed: 3\n")
    loaded = datasets.load_dataset(str(store.folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["goal_id"][:] == ["a/1", "a/1", "a/2", "b/1"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for the Hugging Face hub."""
    folder = tmp_path / "hub"

    def copy(source: Path, target: Path, patterns: list[str]) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
                shutil.copy(path, target)

    def create_repo(repo_id, repo_type, private, exist_ok):
        assert (repo_type, private, exist_ok) == ("dataset", True, True)

    def upload_folder(repo_id, repo_type, folder_path, allow_patterns):
        copy(Path(folder_path), folder / repo_type / repo_id, allow_patterns)

    def snapshot_download(repo_id, repo_type, revision, local_dir, allow_patterns):
        copy(folder / repo_type / repo_id, Path(local_dir), allow_patterns)

    for function in (create_repo, upload_folder, snapshot_download):
        monkeypatch.setattr(huggingface_hub, function.__name__, function)
    return folder


def test_a_store_goes_to_the_hub_and_comes_back(store: EpisodeStore, hub: Path, tmp_path: Path):
    store.dataset()  # leaves a cache, which stays at home
    store.push_to_hub("someone/episodes")
    there = sorted(path.name for path in (hub / "dataset" / "someone" / "episodes").iterdir())
    assert there == ["README.md", "part-00000.parquet", "part-00001.parquet"]
    back = EpisodeStore.load_from_hub("someone/episodes", tmp_path / "back")
    assert [path.read_bytes() for path in back.files] == [path.read_bytes() for path in store.files]
    assert [len(episode) for episode in back] == [3, 4, 1, 2]


def test_a_store_that_is_being_collected_is_not_pushed(store: EpisodeStore, hub: Path):
    store.journal(2).add(0, make_episode("a/1", "train", 1, True))
    with pytest.raises(ValueError, match="still being collected"):
        store.push_to_hub("someone/episodes")
    assert not hub.exists()

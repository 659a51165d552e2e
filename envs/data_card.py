"""The data card of an `EpisodeStore`: what it holds and how it was made, as the README.md shown on the hub."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from envs.episodes import Episode, EpisodeStore

_METADATA = {
    "tags": ["reinforcement-learning", "language-goals", "episodes"],
    "configs": [{"config_name": "default", "data_files": "part-*.parquet"}],
}
_COLUMNS = ("source", "split", "family", "episodes", "goals", "steps", "success")


@dataclass
class Counts:
    """Counts over a group of episodes."""

    episodes: int = 0
    steps: int = 0
    successes: int = 0
    goals: set[str] = field(default_factory=set)

    def add(self, episode: Episode) -> None:
        self.episodes += 1
        self.steps += len(episode)
        self.successes += episode.success
        self.goals.add(episode.goal_id)

    @property
    def success(self) -> float:
        """The share of episodes that succeeded."""
        return self.successes / self.episodes


def count(episodes: Iterable[Episode]) -> dict[tuple[str, str, str], Counts]:
    """Count episodes by source, split and family."""
    counts: defaultdict[tuple[str, str, str], Counts] = defaultdict(Counts)
    for episode in episodes:
        counts[episode.source, episode.split, episode.family].add(episode)
    return dict(sorted(counts.items()))


def write_data_card(store: EpisodeStore, title: str, made_by: str, settings: Mapping[str, Any]) -> None:
    """Write the card into the store's folder.

    Args:
        store: the store to describe, which is read in full.
        title: the card's heading.
        made_by: the command that made the episodes.
        settings: the settings of that command, such as the environment, the agent and the seed.
    """
    rows = [
        (*group, str(counts.episodes), str(len(counts.goals)), str(counts.steps), f"{counts.success:.3f}")
        for group, counts in count(store).items()
    ]
    table = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    text = "\n".join(
        [
            f"---\n{yaml.safe_dump(_METADATA, sort_keys=False)}---\n",
            f"# {title}\n",
            "Episodes of goals given in natural language, one row an episode: `envs.episodes.Episode` says what the",
            "columns are, and `envs.episodes.EpisodeStore` reads them. Arrays are little-endian bytes: `states` is",
            "float32 of shape (T + 1, `state_dim`), `rewards` float32 (T,), `actions` of `action_dtype`, (T,) where",
            "`action_dim` is -1, else (T, `action_dim`).\n",
            *["| " + " | ".join(row) + " |" for row in table],
            f"\nSuccess is the share of episodes at whose end the goal held. Made by\n\n    {made_by}\n\nwith\n",
            *[f"    {line}" for line in yaml.safe_dump(dict(settings), sort_keys=False).splitlines()],
        ]
    )
    path = store.folder / "README.md"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)

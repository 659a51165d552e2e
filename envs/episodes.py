"""Episodes, real and imagined, and their storage: one row an episode, Parquet, read through `datasets`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import NDArray

from envs.goals import Split

Source = Literal["env", "imagined"]


class CorruptStore(ValueError):
    """A store with a file that cannot be read."""


@dataclass(frozen=True)
class Turn:
    """What an LLM agent was shown and what it sampled at one step: token in, token out.

    Attributes:
        prompt_ids: what the model was given, (P,).
        token_ids: what it sampled, as sampled, (K,).
        log_probs: the log-probability of each sampled token under the behaviour policy, (K,).
    """

    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    log_probs: Sequence[float]


@dataclass(frozen=True, eq=False)
class Episode:
    """One rollout, real or imagined. Immutable.

    Attributes:
        goal_id, family, split, instruction: what was asked, and in which words.
        states: (T + 1, D) float32, the start included.
        actions: (T,) integers or (T, A) floats.
        rewards: (T,) float32.
        terminated, truncated: how it ended.
        success: whether the goal held at the end, by ``task.achieved``.
        source: whether the environment or a model made the states.
        seed: what ``env.reset`` was given (for an imagined episode, where its start state came from).
        turns: for LLM agents, one a step.
    """

    goal_id: str
    family: str
    split: Split
    instruction: str
    states: NDArray[np.float32]
    actions: NDArray
    rewards: NDArray[np.float32]
    terminated: bool
    truncated: bool
    success: bool
    source: Source
    seed: int
    turns: tuple[Turn, ...] = field(default=())

    def __post_init__(self) -> None:
        steps = len(self.actions)
        if len(self.states) != steps + 1 or len(self.rewards) != steps:
            raise ValueError(
                f"episode for {self.goal_id!r}: {steps} actions need {steps + 1} states and {steps} rewards, "
                f"got {len(self.states)} and {len(self.rewards)}"
            )
        if self.turns and len(self.turns) != steps:
            raise ValueError(f"episode for {self.goal_id!r}: {steps} actions but {len(self.turns)} turns")
        for array in (self.states, self.actions, self.rewards):
            array.setflags(write=False)

    def __len__(self) -> int:
        """The number of steps T."""
        return len(self.actions)


class EpisodeStore:
    """A folder of Parquet files, each written whole and then renamed: a killed writer loses nothing it had written.

    Raises:
        CorruptStore: on reading, when a file is cut short or is not Parquet; the message names it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def append(self, episodes: Iterable[Episode]) -> None:
        """Add episodes as one more file."""
        rows = [_to_row(episode) for episode in episodes]
        if not rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"part-{self._next_number():05d}.parquet"
        temporary = path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), temporary)
        os.replace(temporary, path)

    def dataset(self) -> Dataset:
        """All episodes as a memory-mapped `datasets.Dataset`."""
        return Dataset(pa.concat_tables([_read(path, _read_table) for path in self.files] or [_SCHEMA.empty_table()]))

    def read(self, keep: Callable[[dict[str, Any]], bool] | None = None) -> list[Episode]:
        """The episodes in the order written; with ``keep``, only the rows for which it is true."""
        return [_from_row(row) for row in self._rows() if keep is None or keep(row)]

    def __iter__(self) -> Iterator[Episode]:
        return (_from_row(row) for row in self._rows())

    def __len__(self) -> int:
        return sum(_read(path, pq.read_metadata).num_rows for path in self.files)

    def _next_number(self) -> int:
        """One more than the last file's number, so that a deleted file never makes a later one be overwritten."""
        return max((int(path.stem.removeprefix("part-")) for path in self.files), default=-1) + 1

    def _rows(self) -> Iterator[dict[str, Any]]:
        for path in self.files:
            yield from _read(path, _read_table).to_pylist()


_TURN = pa.struct(
    [("prompt_ids", pa.list_(pa.int32())), ("token_ids", pa.list_(pa.int32())), ("log_probs", pa.list_(pa.float32()))]
)
_SCHEMA = pa.schema(
    [
        ("goal_id", pa.string()),
        ("family", pa.string()),
        ("split", pa.string()),
        ("instruction", pa.string()),
        ("states", pa.binary()),
        ("actions", pa.binary()),
        ("rewards", pa.binary()),
        ("action_dtype", pa.string()),
        ("state_dim", pa.int32()),
        ("action_dim", pa.int32()),  # -1 for a discrete action
        ("terminated", pa.bool_()),
        ("truncated", pa.bool_()),
        ("success", pa.bool_()),
        ("source", pa.string()),
        ("seed", pa.int64()),
        ("turns", pa.list_(_TURN)),
    ]
)
_PLAIN = [f.name for f in fields(Episode) if f.name not in ("states", "actions", "rewards", "turns")]


def _to_row(episode: Episode) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(episode, name) for name in _PLAIN}
    row["states"] = np.ascontiguousarray(episode.states, "<f4").tobytes()
    row["rewards"] = np.ascontiguousarray(episode.rewards, "<f4").tobytes()
    row["actions"] = np.ascontiguousarray(episode.actions).tobytes()
    row["action_dtype"] = episode.actions.dtype.str
    row["state_dim"] = episode.states.shape[1]
    row["action_dim"] = -1 if episode.actions.ndim == 1 else episode.actions.shape[1]
    row["turns"] = [asdict(turn) for turn in episode.turns]
    return row


def _from_row(row: dict[str, Any]) -> Episode:
    actions = np.frombuffer(row["actions"], np.dtype(row["action_dtype"]))
    return Episode(
        **{name: row[name] for name in _PLAIN},
        states=np.frombuffer(row["states"], "<f4").reshape(-1, row["state_dim"]),
        actions=actions if row["action_dim"] < 0 else actions.reshape(-1, row["action_dim"]),
        rewards=np.frombuffer(row["rewards"], "<f4"),
        turns=tuple(Turn(**turn) for turn in row["turns"]),
    )


def _read_table(path: Path) -> pa.Table:
    return pq.read_table(path, schema=_SCHEMA, memory_map=True)


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """What ``read`` makes of the file, which is named if that fails."""
    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        raise CorruptStore(
            f"{path} cannot be read ({str(error).splitlines()[0]}); delete it to go on without"
        ) from error

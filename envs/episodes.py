"""Episodes, real and imagined, and their storage: Parquet with one row per episode, read through `datasets`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import NDArray

from envs.goals import Split

Source = Literal["env", "imagined"]


class CorruptStore(ValueError):
    """A store has a file that cannot be read."""


@dataclass(frozen=True)
class Turn:
    """What an LLM agent was shown and what it sampled at one step: token in, token out.

    Attributes:
        prompt_ids: the tokens given to the model, (P,).
        token_ids: the tokens it sampled, unchanged, (K,); if it chose among candidates, those of the chosen text.
        log_probs: the log-probability of each sampled token under the behaviour policy, (K,); if it chose among
            candidates, that of the choice, (1,).
        candidates: the texts it chose among; empty if it wrote freely.
        choice: the index of the chosen candidate.
        value: the return that it expected.
        continues: whether ``prompt_ids`` continue everything that the previous turn was given and sampled, rather than
            being a whole prompt.
        invalid: whether the text it wrote named no action.
    """

    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    log_probs: Sequence[float]
    candidates: Sequence[str] = ()
    choice: int | None = None
    value: float | None = None
    continues: bool = False
    invalid: bool = False


@dataclass(frozen=True, eq=False)
class Episode:
    """One rollout, real or imagined. Immutable.

    Attributes:
        goal_id, family, split, instruction: what was asked for, and in which words.
        states: (T + 1, D) float32, the start included.
        actions: (T,) integers or (T, A) floats.
        rewards: (T,) float32.
        terminated, truncated: how it ended.
        success: whether the goal held at the end, by ``task.achieved``.
        source: whether the environment or a model made the states.
        seed: the seed given to ``env.reset`` (for an imagined episode, in the reset that gave its start state).
        turns: for LLM agents, one per step.
        last_value: the return that an agent expected from the last state, where the episode was truncated and the
            agent knows values.
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
    last_value: float | None = None

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
        """Return the number of steps T."""
        return len(self.actions)


class EpisodeStore:
    """A folder of Parquet files, each written in full and then renamed: a killed writer loses nothing it wrote.

    While a file is being collected, its episodes go one by one into a `Journal`. Episodes in journals are read like
    any others, in the order of the file numbers. The pages of the files carry checksums.

    Raises:
        CorruptStore: on reading, when a file is truncated, damaged or holds no episodes; the message names it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    @property
    def numbers(self) -> list[int]:
        """The numbers of the files."""
        return [_number(path) for path in self.files]

    @property
    def journals(self) -> list[Path]:
        """The journals of files that are not yet written."""
        done = set(self.numbers)
        return [path for path in sorted(self.folder.glob("part-*.journal")) if _number(path) not in done]

    def append(self, episodes: Iterable[Episode]) -> None:
        """Add episodes as one more file."""
        # One more than the last number, not the number of files: after a deletion, that would overwrite a later file.
        self.write(max(self.numbers, default=-1) + 1, episodes)

    def write(self, number: int, episodes: Iterable[Episode]) -> None:
        """Write the file with this number, replacing its journal."""
        rows = [_to_row(episode) for episode in episodes]
        if not rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(number)
        temporary = path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), temporary, write_page_checksum=True)
        os.replace(temporary, path)
        path.with_suffix(".journal").unlink(missing_ok=True)

    def journal(self, number: int) -> Journal:
        """Open the journal of the file with this number, keeping what it already holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Journal(self._path(number).with_suffix(".journal"))

    def identities(self, number: int) -> list[tuple[str, str, int]]:
        """Return the goal id, split and seed of each episode in the file with this number."""
        columns = ["goal_id", "split", "seed"]
        table = _read(self._path(number), functools.partial(pq.read_table, columns=columns))
        return list(zip(*(table[name].to_pylist() for name in columns), strict=True))

    def dataset(self, source: Source | None = None, split: Split | None = None) -> Dataset:
        """Return the episodes as a memory-mapped `datasets.Dataset`: all of them, or those of one source or split.

        The mapped Arrow file stays in the store's ``.cache`` folder until the store changes.
        """
        if not self.files and not self.journals:
            return Dataset(_SCHEMA.empty_table())
        path = self._cache(source, split)
        if not path.exists():
            self._write_cache(path, source, split)
        return Dataset.from_file(str(path))

    def read(
        self,
        keep: Callable[[dict[str, Any]], bool] | None = None,
        source: Source | None = None,
        split: Split | None = None,
    ) -> list[Episode]:
        """Return episodes in the order written: all, or those of one source or split whose row ``keep`` accepts."""
        return [_from_row(row) for row in self._rows(source, split) if keep is None or keep(row)]

    def __iter__(self) -> Iterator[Episode]:
        return (_from_row(row) for row in self._rows())

    def __len__(self) -> int:
        rows = sum(_read(path, pq.read_metadata).num_rows for path in self.files)
        return rows + sum(len(_read_journal(path)) for path in self.journals)

    def push_to_hub(self, repo_id: str, private: bool = True) -> None:
        """Upload the files and the data card, unchanged, as a dataset on the Hugging Face hub.

        Raises:
            ValueError: a collection into the store is not finished.
        """
        if self.journals:
            raise ValueError(f"{self.folder} is still being collected: finish that before pushing it")
        huggingface_hub.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=repo_id, repo_type="dataset", folder_path=self.folder, allow_patterns=_PUBLISHED
        )

    @classmethod
    def load_from_hub(cls, repo_id: str, folder: str | Path, revision: str | None = None) -> EpisodeStore:
        """Download into a folder what `push_to_hub` uploaded."""
        huggingface_hub.snapshot_download(
            repo_id, repo_type="dataset", revision=revision, local_dir=folder, allow_patterns=_PUBLISHED
        )
        return cls(folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    def _cache(self, source: Source | None, split: Split | None) -> Path:
        """Return the path of the Arrow file to map; its name changes with the store."""
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (*self.files, *self.journals)]
        state = hashlib.sha256(repr(stats).encode()).hexdigest()[:12]
        return self.folder / ".cache" / f"{state}-{source or 'any'}-{split or 'any'}.arrow"

    def _write_cache(self, path: Path, source: Source | None, split: Split | None) -> None:
        path.parent.mkdir(exist_ok=True)
        state = path.name.split("-")[0]
        for outdated in (other for other in path.parent.glob("*.arrow") if not other.name.startswith(state)):
            outdated.unlink(missing_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
            for table in self._tables(source, split):
                writer.write_table(table)
        os.replace(temporary, path)

    def _tables(self, source: Source | None = None, split: Split | None = None) -> Iterator[pa.Table]:
        """Yield the rows file by file, in the order of the file numbers."""
        wanted = {"source": source, "split": split}
        conditions = [pc.field(name) == value for name, value in wanted.items() if value is not None]
        condition = functools.reduce(operator.and_, conditions) if conditions else None
        for path in sorted([*self.files, *self.journals]):
            if path.suffix == ".journal":
                table = _read_journal(path).drop_columns("case")
                yield table if condition is None else table.filter(condition)
            else:
                yield _read(path, functools.partial(_read_table, condition=condition))

    def _rows(self, source: Source | None = None, split: Split | None = None) -> Iterator[dict[str, Any]]:
        for table in self._tables(source, split):
            yield from table.to_pylist()


class Journal:
    """The episodes of a file not yet written, each on disk as soon as it ends.

    An Arrow stream with one record batch per episode. If a killed writer left the last record incomplete, it is
    skipped. Opening copies the contents into a new file, so a writer that outlived its parent does no harm.

    Attributes:
        episodes: by the index of their episode spec.
    """

    def __init__(self, path: Path) -> None:
        kept = _read_journal(path)
        self.episodes = {row["case"]: _from_row(row) for row in kept.to_pylist()}
        temporary = path.with_suffix(f".{os.getpid()}")
        self._file = pa.OSFile(str(temporary), "wb")
        self._writer = pa.ipc.new_stream(self._file, _JOURNAL_SCHEMA)
        self._writer.write_table(kept)
        os.replace(temporary, path)

    def add(self, case: int, episode: Episode) -> None:
        """Write an episode to disk."""
        row = {"case": case, **_to_row(episode)}
        self._writer.write_batch(pa.RecordBatch.from_pylist([row], _JOURNAL_SCHEMA))
        self.episodes[case] = episode

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
        self._file.close()


_TURN = pa.struct(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("log_probs", pa.list_(pa.float32())),
        ("candidates", pa.list_(pa.string())),
        ("choice", pa.int32()),
        ("value", pa.float32()),
        ("continues", pa.bool_()),
        ("invalid", pa.bool_()),
    ]
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
        ("last_value", pa.float32()),
        ("turns", pa.list_(_TURN)),
    ]
)
_JOURNAL_SCHEMA = pa.schema([("case", pa.int64()), *_SCHEMA])
_PUBLISHED = ["part-*.parquet", "README.md"]
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
        turns=tuple(_turn(turn) for turn in row["turns"]),
    )


def _turn(row: dict[str, Any]) -> Turn:
    """Build a turn. A field that is unset, or did not exist when the file was written, takes its default."""
    known = {name: value for name, value in row.items() if value is not None}
    return Turn(**{**known, "candidates": tuple(known.get("candidates", ()))})


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))


def _read_table(path: Path, condition: pc.Expression | None = None) -> pa.Table:
    if "goal_id" not in pq.read_schema(path).names:
        raise pa.ArrowInvalid("it holds no episodes")
    return pq.read_table(path, schema=_SCHEMA, memory_map=True, filters=condition, page_checksum_verification=True)


def _read_journal(path: Path) -> pa.Table:
    """Read the complete records of a journal; no rows if there is no journal."""
    batches = []
    if path.exists() and path.stat().st_size:
        with pa.OSFile(str(path)) as file, contextlib.suppress(pa.ArrowException, OSError, StopIteration):
            reader = pa.ipc.open_stream(file)
            while True:
                batches.append(reader.read_next_batch())
    return pa.Table.from_batches(batches, _JOURNAL_SCHEMA)


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """Return ``read(path)``; if that fails, the error names the file."""
    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        raise CorruptStore(
            f"{path} cannot be read ({str(error).splitlines()[0]}); delete it to go on without"
        ) from error

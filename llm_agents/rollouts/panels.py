"""Fixed panels: the same goals, words and starts for every agent, named by a hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from envs.goals import Split, UnknownGoal
from envs.language import LanguageTask
from llm_agents.rollouts.specs import EpisodeSpec, PhrasingSubset, draw_goals
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.streams import PANEL, start_seed, stream


@dataclass(frozen=True)
class Column:
    """What one column of the table of results shows: a split, or its phrasings of one kind."""

    name: str
    split: Split
    subset: PhrasingSubset = "all"
    kind: str | None = None


@dataclass(frozen=True)
class Panel:
    """A list of cases. Its hash is printed beside every number."""

    specs: tuple[EpisodeSpec, ...]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that depend on every case and on their order."""
        text = json.dumps([asdict(spec) for spec in self.specs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.specs)


def make_panel(
    task: LanguageTask,
    split: Split,
    size: int,
    seed: int = 0,
    subset: PhrasingSubset = "all",
    kind: str | None = None,
    start_range: str = PANEL,
) -> Panel:
    """A panel that depends on nothing but its arguments.

    Families come in turn, so that each has the same weight; within a family goals come in a shuffled order that
    repeats only when all have been used. Starts are from a range of their own: nothing is learnt from them.

    Args:
        subset: which phrasings of a goal to use, see `select_phrasings`.
        kind: only phrasings of this kind, see `LanguageTask.phrasing_kind`.
        start_range: ``validation`` for a panel from which a setting is chosen.

    Raises:
        UserError: no episode was asked for, or the task has no goal or no such phrasing for one.
        UnknownGoal: an unknown split.
    """
    if size < 1 or seed < 0:
        raise UserError(f"a panel has at least 1 episode and a seed of at least 0, got {size} and {seed}")
    published = np.random.default_rng([seed, size])  # as when the published results were measured
    rng = published if start_range == PANEL else stream(seed, f"{start_range}/goals", size)
    goals = draw_goals(task, split, rng, subset, kind)
    return Panel(
        tuple(
            EpisodeSpec(goal.id, phrasing, start_seed(start_range, seed, index), split)
            for index, (goal, phrasing) in enumerate(islice(goals, size))
        )
    )


def read_panel(path: str | Path, task: LanguageTask, split: Split, seed: int = 0) -> Panel:
    """A user's panel: a JSON list (or lines) of ``{"goal": id, "instruction": text}``, optionally with a "seed".

    Raises:
        UserError: the file cannot be read, or a row lacks a field or names an unknown goal; the row is named.
    """
    specs = []
    for number, row in enumerate(_read_rows(Path(path)), start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f'{where}: expected {{"goal": id, "instruction": text}}, got {row!r}')
        for name in ("goal", "instruction"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise UserError(f"{where}: the field {name!r} is missing or not a text")
        start = row.get("seed", start_seed(PANEL, seed, number - 1))
        if not isinstance(start, int) or start < 0:
            raise UserError(f"{where}: the seed is {start!r}, expected a whole number of at least 0")
        try:
            goal = task.goal_set.find(row["goal"], split)
        except UnknownGoal as error:
            raise UserError(f"{where}: {error}") from None
        specs.append(EpisodeSpec(goal.id, row["instruction"], start, goal.split))
    if not specs:
        raise UserError(f"panel {path} holds no rows")
    return Panel(tuple(specs))


def _read_rows(path: Path) -> list:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"panel {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"panel {path} is not a text file") from None
    try:
        return json.loads(text) if text.lstrip().startswith("[") else _read_lines(text)
    except json.JSONDecodeError as error:
        raise UserError(f"panel {path} is not JSON, nor one JSON object a line: {error}") from None


def _read_lines(text: str) -> list:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def phrasing_columns(task: LanguageTask) -> list[Column]:
    """A column for each split; of ``rephrase``, one for each kind of phrasing if there are several."""
    kinds = sorted({task.phrasing_kind(phrasing) for goal in task.goals("rephrase") for phrasing in goal.phrasings})
    rephrased = [Column(f"rephrase: {kind}", "rephrase", kind=kind) for kind in kinds] if len(kinds) > 1 else []
    return [
        Column("train", "train"),
        *(rephrased or [Column("rephrase", "rephrase")]),
        Column("easy", "easy"),
        Column("hard", "hard"),
    ]

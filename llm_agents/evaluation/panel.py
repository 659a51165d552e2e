"""Fixed panels: the same goals, words and starts for every agent, named by a hash."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import numpy as np

from envs.goals import Goal, Split, UnknownGoal, unknown
from envs.language import LanguageTask
from llm_agents.errors import UserError
from llm_agents.rollout import Case

Wordings = Literal["all", "given", "new"]


@dataclass(frozen=True)
class Column:
    """What one column of the table of results shows: a split, or its wordings of one kind."""

    name: str
    split: Split
    wordings: Wordings = "all"
    kind: str | None = None


@dataclass(frozen=True)
class Panel:
    """A list of cases. Its hash is printed beside every number."""

    cases: tuple[Case, ...]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that depend on every case and on their order."""
        text = json.dumps([asdict(case) for case in self.cases], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.cases)


def make_panel(
    task: LanguageTask,
    split: Split,
    size: int,
    seed: int = 0,
    wordings: Wordings = "all",
    kind: str | None = None,
) -> Panel:
    """A panel that depends on nothing but its arguments.

    Families come in turn, so that each has the same weight; within a family goals come in a shuffled order that
    repeats only when all have been used. Starts are seeded from 10**6 upwards, training data from 0.

    Args:
        wordings: which phrasings of a goal to use, see `phrasings`.
        kind: only wordings of this kind, see `LanguageTask.wording_kind`.

    Raises:
        UserError: no case was asked for, or the task has no goal or no such wording for one.
        UnknownGoal: an unknown split.
    """
    if size < 1 or seed < 0:
        raise UserError(f"a panel has at least 1 episode and a seed of at least 0, got {size} and {seed}")
    goals = draw_goals(task, split, np.random.default_rng([seed, size]), wordings, kind)
    return Panel(
        tuple(
            Case(goal.id, words, _first_start(seed) + index, split)
            for index, (goal, words) in enumerate(islice(goals, size))
        )
    )


def draw_goals(
    task: LanguageTask,
    split: Split,
    rng: np.random.Generator,
    wordings: Wordings = "all",
    kind: str | None = None,
) -> Iterator[tuple[Goal, str]]:
    """Goals of a split, each in one of its wordings, without end: families in turn, see `make_panel`.

    Raises:
        UserError: the task has no goal in the split, or no such wording for one.
        UnknownGoal: an unknown split.
    """
    families: dict[str, list[tuple[Goal, list[str]]]] = defaultdict(list)
    for goal in task.goals(split):
        said = [words for words in phrasings(goal, wordings) if kind is None or task.wording_kind(words) == kind]
        if said:
            families[goal.family].append((goal, said))
    if not families:
        of_kind = "" if kind is None else f" with a wording of the kind {kind!r}"
        raise UserError(f"{type(task).__name__} has no goal in split {split!r}{of_kind}")
    orders: dict[str, list[tuple[Goal, list[str]]]] = {name: [] for name in families}
    for name in cycle(sorted(families)):
        if not orders[name]:
            orders[name] = [families[name][i] for i in rng.permutation(len(families[name]))]
        goal, said = orders[name].pop()
        yield goal, said[rng.integers(len(said))]


def phrasings(goal: Goal, wordings: Wordings) -> tuple[str, ...]:
    """A goal's phrasings: all; the ``given`` half, which imagination may use; or the ``new`` half, which nothing sees.

    The halves are every other phrasing, so the same wordings are new for every goal of a kind.

    Raises:
        UserError: unknown wordings, or a goal with a single phrasing was asked for a new one.
    """
    halves = {"all": goal.phrasings, "given": goal.phrasings[::2], "new": goal.phrasings[1::2]}
    if wordings not in halves:
        raise UserError(unknown("wordings", wordings, list(halves)))
    if not halves[wordings]:
        raise UserError(f"goal {goal.id!r} has one phrasing in split {goal.split!r}, so none of its wordings is new")
    return halves[wordings]


def read_panel(path: str | Path, task: LanguageTask, split: Split, seed: int = 0) -> Panel:
    """A user's panel: a JSON list (or lines) of ``{"goal": id, "instruction": text}``, optionally with a "seed".

    Raises:
        UserError: the file cannot be read, or a row lacks a field or names an unknown goal; the row is named.
    """
    cases = []
    for number, row in enumerate(_read_rows(Path(path)), start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f'{where}: expected {{"goal": id, "instruction": text}}, got {row!r}')
        for name in ("goal", "instruction"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise UserError(f"{where}: the field {name!r} is missing or not a text")
        start = row.get("seed", _first_start(seed) + number - 1)
        if not isinstance(start, int) or start < 0:
            raise UserError(f"{where}: the seed is {start!r}, expected a whole number of at least 0")
        try:
            goal = task.goal_set.find(row["goal"], split)
        except UnknownGoal as error:
            raise UserError(f"{where}: {error}") from None
        cases.append(Case(goal.id, row["instruction"], start, goal.split))
    if not cases:
        raise UserError(f"panel {path} holds no rows")
    return Panel(tuple(cases))


def _first_start(seed: int) -> int:
    return 10**6 + seed * 10**5


def _read_rows(path: Path) -> list:
    try:
        text = path.read_text()
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

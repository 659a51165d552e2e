"""Goals in words: what to reach, independent of how it is phrased, and the four splits agents are judged on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Split = Literal["train", "rephrase", "easy", "hard"]
SPLITS: tuple[Split, ...] = get_args(Split)


class UnknownGoal(ValueError):
    """A goal id or split that the task does not have."""


class InvalidAction(ValueError):
    """An action that the environment does not have, or a text that names none."""


@dataclass(frozen=True)
class Goal:
    """What to reach. The same ``id`` appears in ``train`` and in ``rephrase``, each time with its own phrasings.

    Attributes:
        id: stable name, such as ``pair/left/red/blue``.
        family: the kind of goal, such as ``pair``; panels are balanced over families.
        split: the split it belongs to.
        phrasings: the phrasings of this split, never empty and never shared with another split.
    """

    id: str
    family: str
    split: Split
    phrasings: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UnknownGoal(f"goal {self.id!r}: {unknown('split', self.split, SPLITS)}")
        if not self.phrasings:
            raise ValueError(f"goal {self.id!r} has no phrasing in split {self.split!r}")


class GoalSet(Mapping[Split, Sequence[Goal]]):
    """The goals of a task by split, with lookup by id.

    >>> goals = GoalSet(
    ...     [
    ...         Goal("red", "reach", "train", ("go to the red ball",)),
    ...         Goal("red", "reach", "rephrase", ("find the crimson sphere",)),
    ...         Goal("blue", "reach", "easy", ("go to the blue ball",)),
    ...     ]
    ... )
    >>> goals.find("red").phrasings
    ('go to the red ball',)
    >>> goals.find("red", "rephrase").phrasings
    ('find the crimson sphere',)
    >>> goals.find("blew")
    Traceback (most recent call last):
    envs.goals.UnknownGoal: unknown goal 'blew': did you mean blue?

    Raises:
        ValueError: a goal id appears twice in one split, or in two splits other than train and rephrase.
    """

    def __init__(self, goals: Iterable[Goal]) -> None:
        self._by_split: dict[Split, dict[str, Goal]] = {split: {} for split in SPLITS}
        for goal in goals:
            others = [s for s in SPLITS if goal.id in self._by_split[s]]
            if goal.split in others or (others and {goal.split, *others} != {"train", "rephrase"}):
                raise ValueError(f"goal {goal.id!r} stands in split {others[0]!r} and again in {goal.split!r}")
            self._by_split[goal.split][goal.id] = goal

    def __getitem__(self, split: Split) -> Sequence[Goal]:
        if split not in self._by_split:
            raise UnknownGoal(unknown("split", split, SPLITS))
        return tuple(self._by_split[split].values())

    def __iter__(self):
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)

    def find(self, goal_id: str, split: Split | None = None) -> Goal:
        """Return the goal with this id: from ``split`` if it is there, otherwise from the first split that has it.

        Raises:
            UnknownGoal: no split has it; the message names the nearest id.
        """
        order = SPLITS if split is None else (split, *SPLITS)
        for name in order:
            if name not in self._by_split:
                raise UnknownGoal(unknown("split", name, SPLITS))
            if goal_id in self._by_split[name]:
                return self._by_split[name][goal_id]
        ids = {goal_id for goals in self._by_split.values() for goal_id in goals}
        raise UnknownGoal(unknown("goal", goal_id, sorted(ids)))


def by_family(goals: Iterable[Goal]) -> dict[str, list[Goal]]:
    """Group goals by family, keeping families and goals in the order given."""
    families: dict[str, list[Goal]] = {}
    for goal in goals:
        families.setdefault(goal.family, []).append(goal)
    return families


def unknown(what: str, given: object, known: Sequence[str]) -> str:
    """Return a message for a name that does not exist, suggesting the nearest ones that do."""
    near = difflib.get_close_matches(str(given), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(list(known)[:8])}"
    return f"unknown {what} {str(given)!r}: {hint}"

"""How well a text encoder's sentence embedding tells goals apart: is another phrasing nearer than another goal?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from envs.goals import Goal
from envs.language import LanguageTask
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.streams import stream

NUM_GOALS = 60


NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Confusion:
    """Cosines between sentence embeddings of the phrasings of some goals.

    Attributes:
        same: each phrasing and another of its own goal, the mean over those, (N,).
        nearest_other: each phrasing and the most similar one of a different goal, (N,).
        confused: whether the nearest neighbour of each phrasing belongs to a different goal, (N,).
        pairs: the most similar phrasings of two different goals, with their cosine, most similar first.
    """

    same: NDArray[np.floating]
    nearest_other: NDArray[np.floating]
    confused: NDArray[np.bool_]
    pairs: list[tuple[str, str, float]]


def confusion(goals: Sequence[Goal], embeddings: NDArray) -> Confusion:
    """Compare every phrasing with every other.

    Args:
        goals: at least two, each with at least two phrasings.
        embeddings: of all phrasings of the first goal, then of the second, and so on, (N, E).
    """
    texts = [text for goal in goals for text in goal.phrasings]
    owners = np.repeat(np.arange(len(goals)), [len(goal.phrasings) for goal in goals])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    own = owners[:, None] == owners
    siblings = own & ~np.eye(len(texts), dtype=bool)
    others = np.where(own, -np.inf, cosines)
    nearest_sibling = np.where(siblings, cosines, -np.inf).max(1)
    return Confusion(
        same=np.where(siblings, cosines, 0).sum(1) / siblings.sum(1),
        nearest_other=others.max(1),
        confused=others.max(1) > nearest_sibling,
        pairs=_most_similar(texts, others),
    )


def check_encoder(name: str, task: LanguageTask, console: Console) -> None:
    """Encode a sample of the task's training goals and print how well they are told apart.

    Raises:
        UserError: the encoder cannot be found, or there are too few phrasings to compare.
    """
    from llm_agents.models.text_encoder import TextEncoder

    goals = [goal for goal in task.goals("train") if len(goal.phrasings) > 1]
    if len(goals) < 2:
        raise UserError(f"{type(task).__name__} has fewer than two training goals with several phrasings")
    chosen = stream(0, "encoder/goals").permutation(len(goals))[:NUM_GOALS]
    goals = [goals[index] for index in sorted(chosen)]
    features = TextEncoder.load(name).encode([text for goal in goals for text in goal.phrasings])
    _show(name, len(goals), confusion(goals, features.sentence_embedding().numpy()), console)


def _most_similar(texts: Sequence[str], others: NDArray) -> list[tuple[str, str, float]]:
    """The most similar pairs of different goals, no phrasing twice."""
    pairs: list[tuple[str, str, float]] = []
    used: set[int] = set()
    for index in np.argsort(-others.max(1)):
        other = int(others[index].argmax())
        if not {int(index), other} & used:
            used |= {int(index), other}
            pairs.append((texts[index], texts[other], float(others[index, other])))
        if len(pairs) == NUM_EXAMPLES:
            break
    return pairs


def _show(name: str, num_goals: int, found: Confusion, console: Console) -> None:
    table = Table(
        "cosine of a phrasing with", "mean", "max", title=f"{name}: {len(found.same)} phrasings of {num_goals} goals"
    )
    table.add_row("other phrasings of its goal", f"{found.same.mean():.3f}", f"{found.same.max():.3f}")
    table.add_row(
        "the nearest phrasing of another goal", f"{found.nearest_other.mean():.3f}", f"{found.nearest_other.max():.3f}"
    )
    console.print(table)
    console.print(f"{found.confused.mean():.0%} of the phrasings have a nearest neighbour that means another goal.")
    for text, other, cosine in found.pairs:
        console.print(Text(f"  {cosine:.3f}  {text!r} and {other!r}"))
    if found.nearest_other.mean() > found.same.mean():
        console.print("Another goal can be nearer than another phrasing of the same goal: a policy that is given only")
        console.print("the sentence embedding can hardly tell them apart. Give it token features instead.")

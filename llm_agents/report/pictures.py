"""A few rollouts as strips of pictures: real beside imagined for the same goal."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from envs.episodes import Episode
from envs.language import LanguageTask
from llm_agents.rollouts.observation import observations_of
from llm_agents.runtime.run import Run

NUM_GOALS = 4
NUM_FRAMES = 6
MAX_PIXELS = 160  # of a frame's longer side
PALETTE = 64  # colours of a frame, which quarters its size


@dataclass(frozen=True)
class Frame:
    """One state: its step and a PNG as a data URI."""

    step: int
    uri: str


@dataclass(frozen=True)
class Step:
    """One step in words: what was seen, and what was done then."""

    seen: str
    done: str


@dataclass(frozen=True)
class Strip:
    """One rollout: which store it is from, some of its states in pictures, and its steps in words if it has any."""

    store: str
    caption: str
    episode: Episode
    frames: list[Frame]
    steps: list[Step]


def rollout_strips(run: Run, task: LanguageTask, captions: dict[str, str]) -> dict[str, list[Strip]]:
    """By goal id, the first rollout that each store has for it; the goals that most stores have, families in turn.

    Args:
        run: whose episode stores are read.
        task: draws the states.
        captions: the stores to look at, with what they are.
    """
    goals = {name: _goals(run, name) for name in captions}
    episodes = {name: _first_episodes(run, name, _choose(goals)) for name in captions}
    return {
        goal: [
            _strip(task, name, caption, episodes[name][goal])
            for name, caption in captions.items()
            if goal in episodes[name]
        ]
        for goal in _choose(goals)
    }


def _strip(task: LanguageTask, store: str, caption: str, episode: Episode) -> Strip:
    return Strip(store, caption, episode, _frames(task, episode), _steps(task, episode))


def _goals(run: Run, store: str) -> dict[str, str]:
    """The goals of a store, each with its family."""
    rows = run.episodes(store).dataset()
    return dict(zip(rows["goal_id"], rows["family"], strict=True))


def _choose(goals: dict[str, dict[str, str]]) -> list[str]:
    """The goals to show: those in most stores first, and among them the families in turn."""
    families = {goal: family for by_goal in goals.values() for goal, family in by_goal.items()}
    counts = Counter(goal for by_goal in goals.values() for goal in by_goal)
    seen: Counter[tuple[int, str]] = Counter()
    ranks = {}
    for goal, family in families.items():
        ranks[goal] = (-counts[goal], seen[counts[goal], family])
        seen[counts[goal], family] += 1
    return sorted(families, key=lambda goal: ranks[goal])[:NUM_GOALS]


def _first_episodes(run: Run, store: str, goals: list[str]) -> dict[str, Episode]:
    """The first episode that a store has for each goal: not the best one."""
    wanted = set(goals)

    def is_first(row: dict) -> bool:
        found = row["goal_id"] in wanted
        wanted.discard(row["goal_id"])
        return found

    return {episode.goal_id: episode for episode in run.episodes(store).read(keep=is_first)}


def _frames(task: LanguageTask, episode: Episode) -> list[Frame]:
    """Pictures of some states; none where the task cannot draw."""
    steps = np.unique(np.linspace(0, len(episode), NUM_FRAMES).round().astype(int))
    try:
        return [Frame(int(step), _png(task.render_state(episode.states[step]))) for step in steps]
    except NotImplementedError:
        return []


def _steps(task: LanguageTask, episode: Episode) -> list[Step]:
    """The steps in words; none where actions have no words."""
    observations = observations_of(task, episode)
    if not observations[-1].actions:
        return []
    return [
        Step(step.text, f"{step.action}{' (wrote none)' if after.invalid else ''}")
        for step, after in zip(observations[-1].past, observations[1:], strict=True)
    ]


def _png(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_PIXELS, MAX_PIXELS))
    buffer = io.BytesIO()
    image.quantize(PALETTE).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

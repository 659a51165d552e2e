"""BabyAI: grid worlds of rooms, doors and coloured objects, with missions in words."""

from __future__ import annotations

from envs.goals import Split
from envs.language import LanguageEnv


def make_text(
    level: str = "mixed",
    partial: bool = True,
    split: Split = "train",
    render_mode: str | None = None,
    horizon: int | None = None,
) -> LanguageEnv:
    """Create the environment of ``gymnasium.make("envs:BabyAIText-v0")``: a level of BabyAI as text.

    Args:
        level: ``mixed``, the suite of GLAM; one of its families ``goto``, ``pickup``, ``putnext``, ``open`` and
            ``sequence``; or any registered level, such as ``BabyAI-GoToLocal-v0``.
        partial: whether the agent sees only what is in front of it, seven by seven cells up to walls and closed doors,
            as in published results; otherwise it sees the whole grid.
        split: the split that goals are drawn from when ``reset`` names none.
        render_mode: ``rgb_array`` or None.
        horizon: the number of steps after which an episode is truncated; by default the goal's own.

    Raises:
        ValueError: an unknown level, split or render mode, or a horizon below 1.
    """
    if horizon is not None and horizon < 1:
        raise ValueError(f"the horizon is {horizon}: an episode has at least 1 step")
    from envs.babyai.suite import FAMILIES, MIXED, SuiteEnv, SuiteTask
    from envs.babyai.text_env import LevelEnv
    from envs.babyai.text_task import LevelTask

    is_suite = level in (MIXED, *FAMILIES)
    env = SuiteEnv(render_mode) if is_suite else LevelEnv(level, render_mode)
    if partial:
        return LanguageEnv(env, SuiteTask(level, horizon) if is_suite else LevelTask(level, horizon), split)
    from envs.babyai.whole_grid import WholeGridEnv, WholeLevelTask, WholeSuiteTask

    task = WholeSuiteTask(level, horizon) if is_suite else WholeLevelTask(level, horizon)
    return LanguageEnv(WholeGridEnv(env, task.size), task, split)


def make_room(split: Split = "train", render_mode: str | None = None) -> LanguageEnv:
    """Create the environment of ``gymnasium.make("envs:BabyAIRoom-v0")``: one room, fully observed."""
    from envs.babyai.room_env import RoomEnv
    from envs.babyai.room_task import BabyAIRoomTask

    return LanguageEnv(RoomEnv(render_mode), BabyAIRoomTask(), split)

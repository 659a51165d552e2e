"""BabyAI: grid worlds of rooms, doors and coloured objects, with missions in words."""

from __future__ import annotations

from envs.goals import Split
from envs.language import LanguageEnv


def make_text(
    level: str = "mixed", split: Split = "train", render_mode: str | None = None, horizon: int | None = None
) -> LanguageEnv:
    """The environment behind ``gymnasium.make("envs:BabyAIText-v0")``: the agent's egocentric partial view as text.

    Args:
        level: ``mixed``, the suite of GLAM; one of its families ``goto``, ``pickup``, ``putnext``, ``open`` and
            ``sequence``; or any registered level, such as ``BabyAI-GoToLocal-v0``.
        split: where goals are drawn from when ``reset`` names none.
        render_mode: ``rgb_array`` or None.
        horizon: steps after which an episode is truncated; by default the goal's own.

    Raises:
        ValueError: an unknown level, split or render mode, or a horizon below 1.
    """
    if horizon is not None and horizon < 1:
        raise ValueError(f"the horizon is {horizon}: an episode has at least 1 step")
    from envs.babyai.suite import FAMILIES, MIXED, SuiteEnv, SuiteTask
    from envs.babyai.text_env import LevelEnv
    from envs.babyai.text_task import LevelTask

    if level in (MIXED, *FAMILIES):
        return LanguageEnv(SuiteEnv(render_mode), SuiteTask(level, horizon), split)
    return LanguageEnv(LevelEnv(level, render_mode), LevelTask(level, horizon), split)


def make_room(split: Split = "train", render_mode: str | None = None) -> LanguageEnv:
    """The environment behind ``gymnasium.make("envs:BabyAIRoom-v0")``: one room, seen whole."""
    from envs.babyai.room_env import RoomEnv
    from envs.babyai.room_task import BabyAIRoomTask

    return LanguageEnv(RoomEnv(render_mode), BabyAIRoomTask(), split)

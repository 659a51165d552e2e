"""CLEVR-Robot: five coloured balls to be pushed into relations that are named in words."""

from __future__ import annotations

from envs.goals import Split
from envs.language import LanguageEnv


def make(split: Split = "train", render_mode: str | None = None) -> LanguageEnv:
    """Create the environment of ``gymnasium.make("envs:ClevrRobot-v0")``."""
    from envs.clevr_robot.env import ClevrRobotEnv
    from envs.clevr_robot.task import ClevrRobotTask

    return LanguageEnv(ClevrRobotEnv(render_mode), ClevrRobotTask(), split)

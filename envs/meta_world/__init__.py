"""Meta-World: a robot arm that reaches, pushes, opens and presses, as told in words."""

from __future__ import annotations

from importlib.util import find_spec

from envs.goals import Split
from envs.language import LanguageEnv


class MissingMetaWorld(ImportError):
    """The library is not installed."""


def make(split: Split = "train", horizon: int = 100, render_mode: str | None = None) -> LanguageEnv:
    """Create the environment of ``gymnasium.make("envs:MetaWorld-v0")``.

    Args:
        split: the split that goals are drawn from when ``reset`` names none.
        horizon: the number of steps after which an episode is truncated, at most 500; the two composed tasks have twice
            as many.
        render_mode: ``"rgb_array"`` or None. Rendering needs EGL.

    Raises:
        MissingMetaWorld: the library is not installed.
        CannotRender: there is no graphics driver.
    """
    if find_spec("metaworld") is None:
        raise MissingMetaWorld("Meta-World is not installed: pip install 'llm-agents[meta-world]'")
    from envs.meta_world.env import MetaWorldEnv
    from envs.meta_world.task import MetaWorldTask

    return LanguageEnv(MetaWorldEnv(render_mode), MetaWorldTask(horizon), split)

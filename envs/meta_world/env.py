"""A robot arm at a table: the physics of Meta-World's tasks, without goals."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.goals import unknown
from envs.meta_world.scene import CONTENTS, Play
from envs.meta_world.state import STATE_SIZE

BOUND = 10.0  # no number of a state ever exceeds this
MAX_STEPS = 500  # the library's own limit
PICTURE_SIZE = 480
CAMERA = "corner"


class CannotRender(RuntimeError):
    """There is no graphics driver to render with."""


class MetaWorldEnv(gymnasium.Env):
    """The scenes of Meta-World 3 (Yu et al., 2019; McLean et al., 2025) and two composed ones.

    State: float32 (59,), see `envs.meta_world.state`. Action: float32 (4,) in [-1, 1]: three steps of the hand, of up
    to 1 cm, and the gripper (-1 opens, 1 shuts).

    ``reset(seed=..., options={"task": name})`` decides everything, including the object and target, which the library
    leaves to the constructor. Without a task it draws one. The library itself is left unchanged.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render mode {render_mode!r}: Meta-World renders to 'rgb_array'")
        if render_mode is not None:
            _require_graphics()
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-BOUND, BOUND, (STATE_SIZE,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.play: Play | None = None
        self._renderers: dict[str, mujoco.Renderer] = {}
        self._task = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode of ``options["task"]``.

        Raises:
            ValueError: an unknown task or option.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        task = options.pop("task", None) or str(self.np_random.choice(list(CONTENTS)))
        if options:
            raise ValueError(unknown("reset option", next(iter(options)), ("task",)))
        if task not in CONTENTS:
            raise ValueError(unknown("task", task, list(CONTENTS)))
        self._task = task
        self.play = None  # otherwise that episode would be set aside
        self.play = Play(task, self.np_random)
        return self._state(), {"task": task}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move the hand. Reward is 0 and the episode never ends: goals are the task's business."""
        self._playing().step(action)
        return self._state(), 0.0, False, False, {}

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the scene from a corner as (480, 480, 3), or return None without a render mode."""
        if self.render_mode is None:
            return None
        scene = self._playing().refresh()
        if self._task not in self._renderers:
            self._renderers[self._task] = mujoco.Renderer(scene.model, PICTURE_SIZE, PICTURE_SIZE)
        renderer = self._renderers[self._task]
        renderer.update_scene(scene.data, CAMERA)
        return renderer.render()[::-1, ::-1].copy()  # the library's corner camera hangs upside down

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _playing(self) -> Play:
        if self.play is None:
            raise gymnasium.error.ResetNeeded("call reset before step or render")
        return self.play

    def _state(self) -> NDArray[np.float32]:
        return np.clip(self._playing().state, -BOUND, BOUND)


def _require_graphics() -> None:
    try:
        context = mujoco.GLContext(8, 8)
        context.make_current()
        mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
        context.free()
    except Exception as error:  # each driver has errors of its own
        raise CannotRender(
            "Meta-World cannot render here: install EGL (on Debian libegl1) and set MUJOCO_GL=egl before Python starts "
            f"({' '.join(str(error).split())[:80] or type(error).__name__})"
        ) from None

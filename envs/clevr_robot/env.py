"""Five balls on a table and a pusher: the physics of CLEVR-Robot, without goals."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.clevr_robot.picture import draw
from envs.clevr_robot.scene import BALL_RADIUS, HIGH, LOW, NUM_BALLS, TABLE_Z, compile_model

# Right, behind, left, front, then the diagonals; the norm of a diagonal is 1.13, as in the original.
DIRECTIONS = np.array(
    [(1, 0), (0, 1), (-1, 0), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8)], np.float64
)
NUM_ACTIONS = NUM_BALLS * len(DIRECTIONS)
PUSHER_DISTANCE = 0.15  # from the ball's centre back to where the pusher is placed, metres
SUBSTEPS = 40  # physics steps of 0.01 s in one push
MIN_GAP = 0.1  # between the surfaces of two balls at the start, metres
MIN_AXIS_GAP = 0.01  # between two centres along each axis at the start, metres
BOUND = 0.7  # no ball's coordinate ever exceeds this, metres

_FULL = mujoco.mjtState.mjSTATE_INTEGRATION
_POSITIONS = np.arange(NUM_BALLS)[:, None] * 7 + np.arange(2)


class ClevrRobotEnv(gymnasium.Env):
    """The table top of CLEVR-Robot (Jiang et al., 2019) as KALM uses it (Pang et al., 2024).

    State: float32 (10,), x and y in metres of the red, blue, green, purple and cyan ball. Velocities are hidden, so
    the state is not quite Markov: a pushed ball still rolls some 3 cm during the next push.

    Action: Discrete(40), ``ball * 8 + direction``. The pusher is placed 0.15 m behind the ball and driven for 40
    physics steps, which moves an unobstructed ball by about 0.25 m.

    Balls spawn clear of the walls. The original lets a third of them spawn inside a wall, which ejects them during
    the first push; everything else is unchanged. All resets share one compiled model.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render mode {render_mode!r}: CLEVR-Robot renders to 'rgb_array'")
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-BOUND, BOUND, (2 * NUM_BALLS,), np.float32)
        self.action_space = spaces.Discrete(NUM_ACTIONS)
        self._model = compile_model()
        self._data = mujoco.MjData(self._model)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Scatter the balls: at least 0.1 m between two surfaces and 0.01 m between centres along each axis."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[_POSITIONS] = scatter(self.np_random)
        self._data.qpos[2 : 7 * NUM_BALLS : 7] = TABLE_Z + BALL_RADIUS
        mujoco.mj_forward(self._model, self._data)
        return self._state(), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Push one ball in one direction. Reward is 0 and the episode never ends: goals are the task's business."""
        ball, direction = divmod(int(action), len(DIRECTIONS))
        data = self._data
        data.qpos[-2:] = data.qpos[_POSITIONS[ball]] - PUSHER_DISTANCE * DIRECTIONS[direction]
        data.qvel[-2:] = 0.0
        data.ctrl[:] = DIRECTIONS[direction]
        mujoco.mj_step(self._model, data, SUBSTEPS)
        return self._state(), 0.0, False, False, {}

    def try_push(self, action: int) -> NDArray[np.float32]:
        """Return the state (10,) this push would lead to, leaving the environment unchanged."""
        saved = np.empty(mujoco.mj_stateSize(self._model, _FULL))
        mujoco.mj_getState(self._model, self._data, saved, _FULL)
        state, *_ = self.step(action)
        mujoco.mj_setState(self._model, self._data, saved, _FULL)
        return state

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the table from above as (H, W, 3), without a graphics driver."""
        return draw(self._state()) if self.render_mode == "rgb_array" else None

    def _state(self) -> NDArray[np.float32]:
        return self._data.qpos[_POSITIONS].astype(np.float32).ravel()


def scatter(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Draw five start positions (x, y) in metres by rejection, as in the original but clear of the walls."""
    while True:
        positions: list[tuple[float, float]] = []
        # Plain numbers, since so few are compared: an array for each comparison would take ten times as long.
        for x, y in rng.uniform(LOW, HIGH, size=(40, 2)).tolist():
            if all(_have_room(x - other_x, y - other_y) for other_x, other_y in positions):
                positions.append((x, y))
            if len(positions) == NUM_BALLS:
                return positions


def _have_room(dx: float, dy: float) -> bool:
    return min(abs(dx), abs(dy)) >= MIN_AXIS_GAP and math.hypot(dx, dy) >= 2 * BALL_RADIUS + MIN_GAP

"""BabyAI levels as an environment whose state is a vector: minigrid's physics and verifier, without its images."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from numpy.typing import NDArray

from envs.babyai.levels import make_level
from envs.babyai.view import IMAGE_SIZE, EgocentricView

DIRECTION, CARRIED_KIND, CARRIED_COLOUR, VERIFIED = range(IMAGE_SIZE, IMAGE_SIZE + 4)
STATE_SIZE = IMAGE_SIZE + 4
ACTION_TEXTS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
TURN_LEFT, TURN_RIGHT, GO_FORWARD, PICK_UP, DROP, TOGGLE = range(len(ACTION_TEXTS))
# The colour-object pairs that GLAM holds out from training (Carta et al., 2023).
HELD_OUT = (("yellow", "box"), ("red", "key"), ("red", "door"), ("green", "ball"), ("grey", "door"))
# The highest numbers of a cell, and of what follows the cells in a state.
HIGHEST_CELL = (OBJECT_TO_IDX["box"], max(COLOR_TO_IDX.values()), 2)
HIGHEST_TAIL = (3, *HIGHEST_CELL[:2], 1)
MAX_DRAWS = 10_000  # of a mission that names, or does not name, a held-out pair

_PAIR = re.compile(rf"\b({'|'.join(COLOR_TO_IDX)}) (ball|box|key|door)\b")
_HIGH = np.concatenate([np.tile(HIGHEST_CELL, IMAGE_SIZE // 3), HIGHEST_TAIL]).astype(np.float32)
_PAST_COUNTING = 2**31  # steps: the level itself never truncates an episode


def names_held_out(mission: str) -> bool:
    """Return whether a mission names one of the colour-object pairs `HELD_OUT`."""
    return any(pair in HELD_OUT for pair in _PAIR.findall(mission))


class BabyAITextEnv(gymnasium.Env, ABC):
    """A BabyAI level whose observation is a state vector and whose info holds the mission.

    State: float32 (151,): the 7x7x3 egocentric partial view of ``gen_obs`` (column, row, channel), the direction
    (0 to 3: right, down, left, up), type and colour of the carried object (zeros for none, types from 4 up), and 1
    once the library's verifier has found the mission fulfilled.

    Action: Discrete(6), minigrid's without ``done``. An episode terminates when the verifier calls it a success, or
    a failure (strict levels); it is never truncated here. Reward is 1 for success.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render mode {render_mode!r}: BabyAI renders to 'rgb_array'")
        self.render_mode = render_mode
        self.observation_space = spaces.Box(np.zeros(STATE_SIZE, np.float32), _HIGH)
        self.action_space = spaces.Discrete(len(ACTION_TEXTS))
        self.level: Any = None
        self.last_action: int | None = None
        self._views: dict[tuple[int, int], EgocentricView] = {}

    @abstractmethod
    def _begin(self, seed: int, options: dict[str, Any]) -> Any:
        """Return a level, just reset, whose mission suits the options."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a start and a mission, which is given in ``info["mission"]``."""
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self.level = level = self._begin(seed, options or {})
        level.max_steps = _PAST_COUNTING
        self.last_action = None
        size = level.width, level.height
        self._view = self._views.setdefault(size, EgocentricView(*size))
        self._view.load(level.grid)
        return self._state(self._verified_at_start()), {"mission": level.mission}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take one step in the level."""
        level = self.level
        _, reward, terminated, _, _ = level.step(action)
        if action >= PICK_UP:
            self._view.update(level.grid, *level.front_pos)
        self.last_action = int(action)
        return self._state(reward > 0), float(reward), terminated, False, {}

    def cells(self) -> NDArray[np.float32]:
        """Return the whole grid as minigrid encodes it, (W, H, 3), without the agent."""
        return self._view.cells()

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the whole grid from above, (H, W, 3)."""
        return self.level.get_frame() if self.render_mode == "rgb_array" else None

    def _state(self, verified: bool) -> NDArray[np.float32]:
        level, state = self.level, np.zeros(STATE_SIZE, np.float32)
        x, y = level.agent_pos
        state[:IMAGE_SIZE] = self._view.image(int(x), int(y), level.agent_dir, level.carrying)
        state[DIRECTION] = level.agent_dir
        if level.carrying:
            state[CARRIED_KIND : CARRIED_COLOUR + 1] = level.carrying.encode()[:2]
        state[VERIFIED] = verified
        return state

    def _verified_at_start(self) -> bool:
        """Return whether the mission holds before any step: only where the agent happens to face an object."""
        facing = self.level.grid.get(*self.level.front_pos)
        if facing is None or facing.type == "wall":
            return False
        verified = self.level.instrs.verify(self.level.actions.done) == "success"
        self.level.instrs.reset_verifier(self.level)
        return verified


class LevelEnv(BabyAITextEnv):
    """A registered level of BabyAI.

    ``reset(options={"held_out": False})`` draws until the mission names no held-out pair, ``True`` until it names one.
    Without the option, the first mission drawn is taken, as in minigrid.

    Args:
        level_id: such as ``BabyAI-GoToLocal-v0``.

    Raises:
        UnknownLevel: no BabyAI level is registered under this id.
    """

    def __init__(self, level_id: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.level_id = level_id
        self.level = make_level(level_id)

    def _begin(self, seed: int, options: dict[str, Any]) -> Any:
        held_out = options.get("held_out")
        self.level.reset(seed=seed)
        for _ in range(MAX_DRAWS):
            if held_out is None or names_held_out(self.level.mission) == held_out:
                return self.level
            self.level.reset()
        wanted = "a mission that names" if held_out else "a mission without"
        raise ValueError(f"{self.level_id} did not draw {wanted} a held-out pair in {MAX_DRAWS} resets")

"""The library's scenes, each compiled once per process and shared by the environments that play in it.

A scene holds some 25 MB and takes 0.2 s to make, and a rollout may keep dozens of environments, each of which may get
any task. So an environment owns no scene, only a `Play`: an episode that is set aside, bit for bit, while another one
is played in the same scene. Scenes are not thread-safe.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cache
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from numpy.typing import NDArray

from envs.meta_world.composed import LockedDoorOpenEnv, MakeCoffeeEnv
from envs.meta_world.state import BASE, FLAGS, OBSERVATION, STATE_SIZE, TOOL, WALL, flags

MIN_GAP = 0.15  # between an object's start and its target on the table; closer draws are refused, as in the library
_COMPOSED = {"make-coffee": MakeCoffeeEnv, "locked-door-open": LockedDoorOpenEnv}
_FULL = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True)
class Content:
    """What is in a scene: the objects, the body of the fixture's base and the centre of a wall in the way (metres)."""

    things: tuple[str, ...]
    base: str | None = None
    wall: tuple[float, float, float] = (0.0, 0.0, 0.0)


_PUCK_WALL, _BUTTON_WALL = (0.1, 0.75, 0.06), (0.1, 0.6, 0.075)
CONTENTS = {
    "reach": Content(("puck",)),
    "push": Content(("puck",)),
    "pick-place": Content(("puck",)),
    "button-press": Content(("button",), "box"),
    "door-unlock": Content(("lock",), "door"),
    "door-open": Content(("door",), "door"),
    "window-open": Content(("window",), "window"),
    "faucet-open": Content(("faucet",), "faucetBase"),
    "coffee-push": Content(("mug",), "coffee_machine"),
    "coffee-button": Content(("coffee button",), "coffee_machine"),
    "reach-wall": Content(("puck",), wall=_PUCK_WALL),
    "push-wall": Content(("puck",), wall=_PUCK_WALL),
    "pick-place-wall": Content(("puck",), wall=_PUCK_WALL),
    "button-press-wall": Content(("button",), "box", _BUTTON_WALL),
    "door-lock": Content(("lock",), "door"),
    "door-close": Content(("door",), "door"),
    "window-close": Content(("window",), "window"),
    "faucet-close": Content(("faucet",), "faucetBase"),
    "hammer": Content(("hammer", "nail"), "box"),
    "soccer": Content(("ball",), "goal_whole"),
    "make-coffee": Content(("mug", "coffee button"), "coffee_machine"),
    "locked-door-open": Content(("lock", "door"), "door"),
}


@cache
def scene(task: str) -> Scene:
    """Return the scene of a task, which is made at the first call."""
    return Scene(task)


class Scene:
    """The simulation of one task, with fast resets.

    At each reset, the library brings the hand to rest by 250 physics steps, twice. Here they are taken once, and each
    reset goes back to their end. The hand rests within 6 mm of where the library has it: in the library, the arm may
    brush the fixture of this or the last episode on its way.
    """

    def __init__(self, task: str) -> None:
        content = CONTENTS[task]
        self.native: Any = (_COMPOSED.get(task) or ALL_V3_ENVIRONMENTS[f"{task}-v3"])()
        self.model, self.data = self.native.model, self.native.data
        self.played: weakref.ref[Play] | None = None
        self._show_target()
        self._base = None if content.base is None else self.model.body(content.base).id
        self._fingers = [self.model.site(name).id for name in ("leftEndEffector", "rightEndEffector")]
        self._constant = np.zeros(STATE_SIZE, np.float32)
        self._constant[WALL] = content.wall
        self._constant[FLAGS] = flags(content.things)
        self._rest = np.empty(mujoco.mj_stateSize(self.model, _FULL))
        self._find_rest()

    def _show_target(self) -> None:
        """Include the target in observations, as the library does when it is given one of its own tasks."""
        self.native._partially_observable = False
        vars(self.native).pop("sawyer_observation_space", None)  # cached with a target of zeros, which would clip it
        self.native._set_task_called = True
        self.native._freeze_rand_vec = True

    def _find_rest(self) -> None:
        self.native._last_rand_vec = self.draw(np.random.default_rng(0))
        self.native.reset()  # in some scenes, a reset reads what the previous one has set
        mujoco.mj_resetData(self.model, self.data)
        self.native._reset_hand()
        mujoco.mj_getState(self.model, self.data, self._rest, _FULL)
        self.native._reset_hand = self._return_to_rest

    def _return_to_rest(self) -> None:
        """Return the hand to rest; the library's reset calls this in place of its 250 steps."""
        mujoco.mj_setState(self.model, self.data, self._rest, _FULL)
        mujoco.mj_forward(self.model, self.data)
        self.native.init_tcp = self.native.tcp_center

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw where the object and the target, or the fixture, are to be: (3,) or (6,), metres.

        Given a draw that it refuses, the library would look for a better one forever, so such draws are refused here.
        """
        space = self.native._random_reset_space
        while True:
            drawn = rng.uniform(space.low, space.high)
            if len(drawn) == 3 or np.linalg.norm(drawn[:2] - drawn[3:5]) >= MIN_GAP:
                return drawn

    def reset(self, drawn: NDArray[np.float64]) -> None:
        self.native._last_rand_vec = drawn
        self.native.reset_model()
        # Without this the first observation is stale: a window's handle is seen 0.2 m from where it is.
        mujoco.mj_forward(self.model, self.data)
        self.native._get_obs()  # makes the previous frame equal to the first one

    def step(self, action: NDArray[np.float32]) -> None:
        """Step the world as the library does, without the reward, which takes most of its time."""
        self.native.set_xyz_action(action[:3])
        self.native.do_simulation([action[3], -action[3]], self.native.frame_skip)
        mujoco.mj_forward(self.model, self.data)

    def observe(self) -> NDArray[np.float32]:
        """Return the state (D,). Call it once per step, since each call replaces the library's previous frame."""
        state = self._constant.copy()
        state[OBSERVATION] = self.native._get_obs()
        state[TOOL] = self.data.site_xpos[self._fingers].mean(0)
        if self._base is not None:
            state[BASE] = self.model.body_pos[self._base]
        return state

    def save(self) -> SavedScene:
        physics = np.empty_like(self._rest)
        mujoco.mj_getState(self.model, self.data, physics, _FULL)
        return SavedScene(physics, self.model.body_pos.copy(), self.model.site_pos.copy(), vars(self.native).copy())

    def load(self, moment: SavedScene) -> None:
        mujoco.mj_setState(self.model, self.data, moment.physics, _FULL)
        self.model.body_pos[:] = moment.body_positions
        self.model.site_pos[:] = moment.site_positions
        vars(self.native).update(moment.attributes)


@dataclass(frozen=True)
class SavedScene:
    """All that a scene needs to go on: what the simulator, the model and the library's object remember."""

    physics: NDArray
    body_positions: NDArray
    site_positions: NDArray
    attributes: dict[str, Any]


class Play:
    """An episode in a scene, independent of the others that are played there.

    Args:
        task: the task whose scene is played.
        rng: the generator that draws object, fixture and target.
    """

    def __init__(self, task: str, rng: np.random.Generator) -> None:
        self.scene = scene(task)
        self._aside: SavedScene | None = None
        self._take_over()
        self.scene.reset(self.scene.draw(rng))
        self.state = self.scene.observe()

    def step(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take one step and return the next state (D,)."""
        self._resume()
        self.scene.step(action)
        self.state = self.scene.observe()
        return self.state

    def refresh(self) -> Scene:
        """Return the scene with all that follows from this episode's state computed, for inspection from outside."""
        self._resume()
        moment = self.scene.save()
        mujoco.mj_forward(self.scene.model, self.scene.data)
        self.scene.load(moment)  # otherwise the solver would start from elsewhere
        for site in self.scene.native._target_site_config:
            self.scene.native._set_pos_site(*site)
        return self.scene

    def library_success(self, action: NDArray[np.float32]) -> bool:
        """Return what the library's ``info["success"]`` would have been after this action, the last one taken."""
        native = self.refresh().native
        space = native.sawyer_observation_space
        observation = self.state[OBSERVATION].astype(np.float64)
        _, info = native.evaluate_state(np.clip(observation, space.low, space.high), action)
        return bool(info["success"])

    def _resume(self) -> None:
        if self.scene.played is not None and self.scene.played() is self:
            return
        self._take_over()
        if self._aside is not None:
            self.scene.load(self._aside)

    def _take_over(self) -> None:
        """Set aside the episode that is being played, if anyone still wants it, and play this one."""
        before = self.scene.played() if self.scene.played is not None else None
        if before is not None:
            before._aside = self.scene.save()
        self.scene.played = weakref.ref(self)

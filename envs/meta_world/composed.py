"""Two tasks of two steps each, built from the library's scenes. Their states show both objects."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from metaworld.envs.sawyer_coffee_push_v3 import SawyerCoffeePushEnvV3
from metaworld.envs.sawyer_door_v3 import SawyerDoorEnvV3
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.meta_world.predicates import BOLT

BUTTON_STIFFNESS = 20.0  # N/m: the coffee button comes back by itself, so only pressing it last counts
PRESSED = 0.01  # how far the coffee button must go in, metres; it is then 0.02 from its target, as in coffee-button
MUG_RADIUS = 0.07  # as in coffee-push
BOLT_DOWN, BOLT_UP = np.pi / 2, np.radians(28)  # angles; up to this one the bolt's end is where door-unlock wants it
DOOR_RADIUS = 0.08  # as in door-open


class MakeCoffeeEnv(SawyerCoffeePushEnvV3):
    """coffee-push in which the machine's button counts too: the mug must be in its place while the button is in.

    The first object is the mug, the second the button. The library's button stays where it was pushed; this one has a
    spring, so a state tells the order of the two steps.
    """

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model, data = super()._initialize_simulation()
        model.joint("goal_slidey").stiffness[:] = BUTTON_STIFFNESS
        return model, data

    def _get_pos_objects(self) -> NDArray:
        return np.hstack((super()._get_pos_objects(), self._get_site_pos("buttonStart")))

    def _get_quat_objects(self) -> NDArray:
        return np.hstack((super()._get_quat_objects(), (1.0, 0.0, 0.0, 0.0)))

    def evaluate_state(self, obs: NDArray, action: NDArray) -> tuple[float, dict[str, Any]]:
        """Judge success by the simulator's own coordinates; there is no reward."""
        away = np.linalg.norm(self.get_body_com("obj") - self._target_pos)
        pressed = self.data.joint("goal_slidey").qpos.item() >= PRESSED
        return 0.0, {"success": float(away <= MUG_RADIUS and pressed)}


class LockedDoorOpenEnv(SawyerDoorEnvV3):
    """door-open with the lock of door-unlock on the frame of the safe, as a bolt that holds the door shut.

    The first object is the end of the bolt, the second the handle of the door.
    """

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        _add_bolt(spec)
        model = spec.compile()
        model.vis.global_.offwidth, model.vis.global_.offheight = self.width, self.height
        return model, mujoco.MjData(model)

    def _get_pos_objects(self) -> NDArray:
        return np.hstack((self._get_site_pos("bolt_end"), super()._get_pos_objects()))

    def _get_quat_objects(self) -> NDArray:
        bolt = Rotation.from_matrix(self.data.body("bolt").xmat.reshape(3, 3)).as_quat()
        return np.hstack((bolt, super()._get_quat_objects()))

    def _set_obj_xyz(self, pos: NDArray) -> None:
        self.data.joint("bolt_hinge").qpos = BOLT_DOWN
        self.data.joint("bolt_hinge").qvel = 0.0
        super()._set_obj_xyz(pos)

    def evaluate_state(self, obs: NDArray, action: NDArray) -> tuple[float, dict[str, Any]]:
        """Judge success by the simulator's own coordinates; there is no reward."""
        unlocked = self.data.joint("bolt_hinge").qpos.item() <= BOLT_UP
        away = abs(self.data.geom("handle").xpos - self._target_pos)[0]
        return 0.0, {"success": float(unlocked and away <= DOOR_RADIUS)}


def _add_bolt(spec: mujoco.MjSpec) -> None:
    """Add the lock of the library's doorlockA, with the names and sizes it has there."""
    safe = spec.body("doorlockB")
    solid, shown = spec.find_default("dl_col"), spec.find_default("dl_base")
    box, mesh = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_MESH
    behind = BOLT + np.array([0.0, 0.009, 0.0])
    safe.add_geom(shown, type=mesh, meshname="lock_base", material="dl_metal", pos=behind)
    safe.add_geom(solid, type=box, size=(0.047, 0.013, 0.047), pos=behind)
    bolt = safe.add_body(name="bolt", pos=BOLT)
    bolt.add_joint(
        shown, name="bolt_hinge", type=mujoco.mjtJoint.mjJNT_HINGE, axis=(0, 1, 0), range=(0, 1.57), limited=True
    )
    bolt.add_geom(shown, type=mesh, meshname="lock", material="dl_metal", pos=(0.042, -0.022, 0))
    bolt.add_geom(solid, type=box, size=(0.05, 0.019, 0.01), pos=(0.042, -0.024, 0), mass=0.001)
    bolt.add_site(name="bolt_end", pos=(0.09, -0.04, -0.01))

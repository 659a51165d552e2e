"""The table: five coloured balls, four walls and a pusher, as a MuJoCo model.

The masses, frictions, dampings and sizes come from google-research/clevr_robot_env, restated here as one MJCF
document that is compiled once and reused by every reset.
"""

from __future__ import annotations

import mujoco
import numpy as np

COLOURS = ("red", "blue", "green", "purple", "cyan")
NUM_BALLS = len(COLOURS)
RGBA = {
    "red": (1.0, 0.1, 0.1),
    "blue": (0.2, 0.5, 1.0),
    "green": (0.2, 1.0, 0.0),
    "purple": (0.8, 0.2, 1.0),
    "cyan": (0.2, 1.0, 1.0),
}
BALL_RADIUS = 0.13  # metres, like every length here
PUSHER_RADIUS = 0.05
TABLE_Z = -0.325
WALLS = {"x": (-0.6, 0.6), "y": (-0.3, 0.7)}
# Where the centre of a ball can be without touching a wall.
LOW = np.array([WALLS["x"][0] + BALL_RADIUS, WALLS["y"][0] + BALL_RADIUS])
HIGH = np.array([WALLS["x"][1] - BALL_RADIUS, WALLS["y"][1] - BALL_RADIUS])


def _ball(colour: str) -> str:
    r, g, b = RGBA[colour]
    return f"""
    <body name="{colour}" pos="0 0 {TABLE_Z + BALL_RADIUS}">
      <joint type="free" damping="0.75" armature="0.04" limited="false"/>
      <geom type="sphere" size="{BALL_RADIUS}" density="1" rgba="{r} {g} {b} 1" contype="1" conaffinity="1"/>
    </body>"""


def _wall(name: str, pos: str, zaxis: str) -> str:
    return f'<geom name="{name}" type="plane" pos="{pos}" zaxis="{zaxis}" size="2 2 0.1" contype="1" rgba="0 0 0 0"/>'


def mjcf() -> str:
    """Return the scene as MJCF text."""
    (x_low, x_high), (y_low, y_high) = WALLS["x"], WALLS["y"]
    return f"""
<mujoco model="clevr_robot">
  <compiler angle="radian" inertiafromgeom="true"/>
  <option timestep="0.01" gravity="0 0 -9.81" iterations="20" integrator="Euler"/>
  <default>
    <geom friction="0.8 0.1 0.1" margin="0.002" condim="3" contype="0" conaffinity="0"/>
  </default>
  <worldbody>
    <light pos="0 0.2 2" dir="0 0 -1"/>
    <camera name="top" pos="0 0.2 1.9" xyaxes="1 0 0 0 1 0" fovy="45"/>
    <geom name="table" type="plane" pos="0 0.5 {TABLE_Z}" size="2 2 0.1" contype="1" conaffinity="1"
          rgba="0.9 0.9 0.9 1"/>
    {_wall("left", f"{x_low} 0 0", "1 0 0")}
    {_wall("right", f"{x_high} 0 0", "-1 0 0")}
    {_wall("front", f"0 {y_low} 0", "0 1 0")}
    {_wall("behind", f"0 {y_high} 0", "0 -1 0")}
    {"".join(_ball(colour) for colour in COLOURS)}
    <body name="pusher" pos="0 0 -0.2">
      <joint name="pusher_x" type="slide" axis="1 0 0" damping="0.5" armature="0.04"/>
      <joint name="pusher_y" type="slide" axis="0 1 0" damping="0.5" armature="0.04"/>
      <geom type="sphere" size="{PUSHER_RADIUS}" density="0.5" contype="1" rgba="0.3 0.3 0.3 1"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="pusher_x" ctrlrange="-2 2" ctrllimited="true"/>
    <motor joint="pusher_y" ctrlrange="-2 2" ctrllimited="true"/>
  </actuator>
</mujoco>"""


def compile_model() -> mujoco.MjModel:
    """Compile the model afresh (about 0.6 ms: compile once, reset often)."""
    return mujoco.MjModel.from_xml_string(mjcf())

"""Pictures of CLEVR-Robot states, real or imagined, drawn without a graphics driver."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.clevr_robot.scene import BALL_RADIUS, COLOURS, NUM_BALLS, RGBA, WALLS

PIXELS_PER_METRE = 100
TABLE_COLOUR = np.array([0.93, 0.92, 0.90])


def draw(state: ArrayLike, pixels_per_metre: int = PIXELS_PER_METRE) -> NDArray[np.uint8]:
    """Draw the table from above: state (10,) -> RGB (H, W, 3), +x to the right and +y (behind) up."""
    (x_low, x_high), (y_low, y_high) = WALLS["x"], WALLS["y"]
    xs = np.arange(x_low, x_high, 1 / pixels_per_metre) + 0.5 / pixels_per_metre
    ys = np.arange(y_high, y_low, -1 / pixels_per_metre) - 0.5 / pixels_per_metre
    image = np.broadcast_to(TABLE_COLOUR, (len(ys), len(xs), 3)).copy()
    for colour, (x, y) in zip(COLOURS, np.reshape(state, (NUM_BALLS, 2)), strict=True):
        distance = np.hypot(xs[None, :] - x, ys[:, None] - y)
        cover = np.clip((BALL_RADIUS - distance) * pixels_per_metre + 0.5, 0, 1)[..., None]
        light = np.clip(1.1 - np.hypot(xs[None, :] - x + 0.04, ys[:, None] - y - 0.05) * 3, 0.45, 1)[..., None]
        image = image * (1 - cover) + cover * light * np.array(RGBA[colour][:3])
    return (image * 255).round().astype(np.uint8)

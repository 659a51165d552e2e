"""Pictures of Meta-World states, real or imagined, drawn without a graphics driver."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from envs.meta_world.state import BASE, FIRST, OPENING, SECOND, TARGET, TOOL, WALL, things_in

PIXELS_PER_METRE = 300
X_RANGE, Y_RANGE, Z_RANGE = (-0.55, 0.55), (0.35, 1.05), (-0.05, 0.55)  # what is shown, metres
WALL_HALF_WIDTH, WALL_HALF_DEPTH = 0.11, 0.01
LIMIT = 10.0  # an imagined state may be anywhere, metres
GAP = 10  # between the two views, pixels
_COLOURS = {"target": "#2e9e44", "tool": "#222222", "wall": "#b08050", "base": "#a8adb5"}
_FIRST, _SECOND, _TABLE = "#c0392b", "#2c6fbb", "#eceae4"


def draw(state: ArrayLike) -> NDArray[np.uint8]:
    """Draw the table from above (right is +x, up is +y) over the view from the left (right is +y): (H, W, 3)."""
    state = np.nan_to_num(np.asarray(state, np.float64)).clip(-LIMIT, LIMIT)
    top = _view(state, (0, 1), X_RANGE, Y_RANGE, "from above")
    side = _view(state, (1, 2), Y_RANGE, Z_RANGE, "from the side")
    picture = np.full((len(top) + GAP + len(side), max(top.shape[1], side.shape[1]), 3), 255, np.uint8)
    picture[: len(top), : top.shape[1]] = top
    picture[len(top) + GAP :, : side.shape[1]] = side
    return picture


def _view(
    state: NDArray, axes: tuple[int, int], across: tuple[float, float], up: tuple[float, float], title: str
) -> NDArray[np.uint8]:
    width, height = (round((high - low) * PIXELS_PER_METRE) for low, high in (across, up))
    image = Image.new("RGB", (width, height), _TABLE)
    pen = ImageDraw.Draw(image)

    def at(place: NDArray) -> tuple[float, float]:
        a, b = place[list(axes)]
        return (a - across[0]) * PIXELS_PER_METRE, (up[1] - b) * PIXELS_PER_METRE

    def box(place: NDArray, half: NDArray, colour: str) -> None:
        (left, bottom), (right, top) = at(place - half), at(place + half)
        pen.rectangle((left, top, right, bottom), fill=colour)

    if state[WALL].any():
        box(state[WALL], np.array([WALL_HALF_WIDTH, WALL_HALF_DEPTH, abs(state[WALL][2])]), _COLOURS["wall"])
    if state[BASE].any():
        box(state[BASE], np.full(3, 0.05), _COLOURS["base"])
    for thing, place, colour in zip(things_in(state), (state[FIRST], state[SECOND]), (_FIRST, _SECOND), strict=False):
        _dot(pen, at(place), 7, fill=colour)
        pen.text((at(place)[0] + 9, at(place)[1] - 5), thing, fill=colour)
    _dot(pen, at(state[TARGET]), 9, outline=_COLOURS["target"], width=3)
    _dot(pen, at(state[TOOL]), 4 + 4 * float(np.clip(state[OPENING], 0, 1)), outline=_COLOURS["tool"], width=3)
    pen.text((5, 4), title, fill=_COLOURS["tool"])
    return np.asarray(image)


def _dot(pen: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, **style: object) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), **style)  # type: ignore[arg-type]

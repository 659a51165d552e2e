"""When a task is done and how far a state is from that: pure functions of states, without the simulator.

Each task has one step, the composed ones two. A step is done while its gap, a distance in metres, is at most its
radius. Gaps and radii match the library's ``info["success"]``; `envs.meta_world.agreement` compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.meta_world.state import BASE, FIRST, SECOND, TARGET, TOOL

Distance: TypeAlias = Callable[[NDArray, NDArray], NDArray[np.floating]]

GAP_WEIGHT = 2.0  # of a metre of gap relative to a metre of approach
STEP_COST = 1.0  # of a step that others wait for; more than any approach, so doing it always pays
AIM = 0.5  # gaps cost nothing below this share of the radius, where a step is safely done
TOUCH = 0.05  # the tool is at an object within this, metres
HAMMER_HEAD = np.array([0.16, 0.06, 0.0])  # from the hammer's origin, as in the library's reward
NAIL_TRAVEL = 0.1  # from out to in; the library asks for 0.09
COFFEE_BUTTON_IN = 0.03  # y of the coffee button when it is all the way in, from the mug's place
# Where the bolt is hinged, from the centre of the safe: above the door and in front of the frame. It hangs down in
# front of the door until it is turned up: the door stays shut by contact alone.
BOLT = np.array([-0.08, -0.107, 0.197])
BOLT_END = BOLT[0] + 0.1  # x of the target for the bolt's end from the safe's centre, as door-unlock has it


@dataclass(frozen=True)
class Step:
    """One thing to be done.

    Attributes:
        gap: the metres left: states and starts (..., D) -> (...).
        radius: the gap at which it is done.
        approach: the metres to go before the gap can shrink, likewise.
    """

    gap: Distance
    radius: float
    approach: Distance


def achieved(task: str, states: NDArray, start: NDArray) -> NDArray[np.bool_]:
    """Return whether the task is done in each state, (..., D) -> (...). Only ``hammer`` uses the start."""
    return np.logical_and.reduce([step.gap(states, start) <= step.radius for step in STEPS[task]])


def cost(task: str, states: NDArray, start: NDArray) -> NDArray[np.floating]:
    """Return how far each state is from done, (..., D) -> (...).

    The gaps of all steps, the approach to the first that is not done, and a fixed cost for each that others wait for.
    """
    steps = STEPS[task]
    gaps = [step.gap(states, start) for step in steps]
    total = sum(GAP_WEIGHT * np.maximum(0.0, gap - AIM * s.radius) for gap, s in zip(gaps, steps, strict=True))
    approach = steps[-1].approach(states, start)
    for step, gap in zip(steps[-2::-1], gaps[-2::-1], strict=True):
        done = gap <= step.radius
        approach = np.where(done, approach, STEP_COST + step.approach(states, start))
    return total + approach


def _distance(offset: NDArray) -> NDArray[np.floating]:
    return np.sqrt((offset * offset).sum(-1))


def _to_target(part: slice, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Distance:
    """Measure the distance from a part of the state, shifted, to the target."""
    return lambda states, start: _distance(states[..., part] + shift - states[..., TARGET])


def _along(axis: int, part: slice, mark: slice, shift: float = 0.0) -> Distance:
    """Measure along one axis from a part of the state to a mark in it, shifted."""
    return lambda states, start: np.abs(states[..., part][..., axis] - states[..., mark][..., axis] - shift)


def _tool_to(part: slice) -> Distance:
    return lambda states, start: np.maximum(0.0, _distance(states[..., TOOL] - states[..., part]) - TOUCH)


def _nothing(states: NDArray, start: NDArray) -> NDArray[np.floating]:
    return np.zeros(states.shape[:-1])


def _nail_left(states: NDArray, start: NDArray) -> NDArray[np.floating]:
    return NAIL_TRAVEL - (states[..., SECOND][..., 1] - start[..., SECOND][..., 1])


def _hammer_to_nail(states: NDArray, start: NDArray) -> NDArray[np.floating]:
    """Add the distances of tool to hammer and of its head to the nail, from which the head starts some 40 cm away."""
    head = states[..., FIRST] + HAMMER_HEAD
    return _tool_to(FIRST)(states, start) + _distance(head - states[..., SECOND])


def _button_out(states: NDArray, start: NDArray) -> NDArray[np.floating]:
    """Return how far the button is out, below zero where a strong hand presses it in farther than it goes."""
    return states[..., TARGET][..., 1] + COFFEE_BUTTON_IN - states[..., SECOND][..., 1]


def _move(radius: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Step:
    return Step(_to_target(FIRST, shift), radius, _tool_to(FIRST))


def _slide(axis: int, radius: float) -> Step:
    return Step(_along(axis, FIRST, TARGET), radius, _tool_to(FIRST))


_REACH = Step(_to_target(TOOL), 0.05, _nothing)
_X, _Y, _Z = range(3)

STEPS: dict[str, tuple[Step, ...]] = {
    "reach": (_REACH,),
    "push": (_move(0.05),),
    "pick-place": (_move(0.07),),
    "button-press": (_slide(_Y, 0.02),),
    "door-unlock": (_slide(_X, 0.02),),
    "door-open": (_slide(_X, 0.08),),
    "window-open": (_slide(_X, 0.05),),
    "faucet-open": (_move(0.07, (-0.04, 0.0, 0.03)),),
    "coffee-push": (_move(0.07),),
    "coffee-button": (_slide(_Y, 0.02),),
    "reach-wall": (_REACH,),
    "push-wall": (_move(0.07),),
    "pick-place-wall": (_move(0.07),),
    "button-press-wall": (_slide(_Y, 0.03),),
    "door-lock": (_slide(_Z, 0.02),),
    "door-close": (_move(0.08),),
    "window-close": (_slide(_X, 0.05),),
    "faucet-close": (_move(0.07),),
    "hammer": (Step(_nail_left, 0.01, _hammer_to_nail),),
    "soccer": (_move(0.07),),
    "make-coffee": (_move(0.07), Step(_button_out, 0.02, _tool_to(SECOND))),
    "locked-door-open": (
        Step(_along(_X, FIRST, BASE, BOLT_END), 0.02, _tool_to(FIRST)),
        Step(_along(_X, SECOND, TARGET), 0.08, _tool_to(SECOND)),
    ),
}

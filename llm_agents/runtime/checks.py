"""Check numbers before they do harm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llm_agents.runtime.errors import UserError


def require_finite(value: float, what: str) -> float:
    """The value itself.

    Raises:
        UserError: it is not finite.
    """
    if not math.isfinite(value):
        raise UserError(f"{what} is {value}")
    return value


def require_finite_tensor(what: str, tensor: Tensor) -> None:
    wrong = ~tensor.isfinite()
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise UserError(f"the {what} at {place} is {tensor[tuple(place)].item()}; it must be finite")


def require_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")

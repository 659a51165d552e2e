"""Checks of numbers, before they do harm."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from llm_agents.runtime.errors import UserError

Number = TypeVar("Number", float, Tensor)


def require_finite(value: Number, what: str, advice: str = "it must be finite") -> Number:
    """Return the value itself, a number or a tensor of any shape.

    Args:
        what: what it is, for the message.
        advice: what to do about it.

    Raises:
        UserError: it is not finite; of a tensor the first such place is named.
    """
    found = torch.as_tensor(value).detach()
    wrong = ~found.isfinite()
    if not wrong.any():
        return value
    place = wrong.nonzero()[0].tolist()
    where = f" at {place}" if place else ""
    raise UserError(f"the {what}{where} is {found[tuple(place)].item()}: {advice}")


def require_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    """Refuse a tensor that would be broadcast to something other than what was meant.

    Raises:
        ValueError: it has another shape.
    """
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")

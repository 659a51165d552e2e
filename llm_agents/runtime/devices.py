"""Where models and their batches are: the CPU, or a GPU."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from llm_agents.runtime.errors import UserError

AUTO = "auto"


def require_device_name(name: str) -> str:
    """The name itself.

    Raises:
        UserError: it is not ``auto``, ``cpu``, ``cuda``, ``cuda:<number>`` or ``mps``.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}: auto, cpu, cuda, cuda:1 and the like, and mps are known")
    return name


def find_device(name: str = AUTO) -> torch.device:
    """The device of that name; for ``auto`` the first CUDA GPU that torch sees, else the CPU.

    Raises:
        UserError: the name is none, or this machine has no such device.
    """
    require_device_name(name)
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == AUTO and not num_gpus):
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("there is no device 'mps' here: set device to auto")
        return torch.device("mps")
    index = int(name.partition(":")[2] or 0)
    if index >= num_gpus:
        raise UserError(f"there is no device {name!r} here, torch sees {num_gpus} GPUs: set device to auto")
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> str:
    """Such as ``cpu``, or ``cuda:0 (NVIDIA H100 80GB HBM3)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module all of whose parameters are on one."""
    return next(module.parameters()).device


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors, and those in dicts and named tuples, on a device; whatever else there is stays as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(entry, device) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(entry, device) for entry in value))
    return value

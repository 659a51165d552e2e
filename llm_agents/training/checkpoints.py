"""Checkpoints of trainings: weights, optimizer moments and the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llm_agents.runtime.run import CorruptCheckpoint, Run


def state_to_save(module: nn.Module) -> dict[str, Tensor]:
    """The state that training changes: all but frozen parameters; target networks, named ``target*``, included.

    Tied weights stand under the first of their names.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        frozen = isinstance(tensor, nn.Parameter) and not tensor.requires_grad and not name.startswith("target")
        if not frozen and id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach()
    return state


def load_weights(module: nn.Module, run: Run, name: str) -> None:
    """Load what `fit` trained into a module of the same make.

    Raises:
        CorruptCheckpoint: the checkpoint is missing, cut short or of another shape.
    """
    tensors, _ = run.load_checkpoint(name)
    _load_state(module, tensors, name)
    module.eval()


def save_training(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    run: Run,
    name: str,
    finished: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """One checkpoint with weights, optimizer moments, the step, and facts that JSON can hold."""
    tensors = {f"weights.{key}": value for key, value in state_to_save(module).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    run.save_checkpoint(name, tensors, {**(metadata or {}), "step": step, "finished": finished})


def load_training(module: nn.Module, optimizer: torch.optim.Optimizer, run: Run, name: str) -> int:
    """Restore what `save_training` wrote and return its step; 0 without a checkpoint."""
    if not run.has_checkpoint(name):
        return 0
    tensors, metadata = run.load_checkpoint(name)
    _load_state(module, tensors, name)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, field = key.split(".", 2)
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["step"])


def _load_state(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    expected = state_to_save(module)
    wrong = list(expected.keys() ^ weights.keys())
    wrong += [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    if wrong:
        raise CorruptCheckpoint(f"checkpoint {name!r} does not fit this model: it differs in {sorted(wrong)[0]}")
    module.load_state_dict(weights, strict=False)

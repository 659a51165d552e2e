"""Values that published implementations gave; tests/fixtures has the scripts that asked them."""

import json
from pathlib import Path

import torch

FIXTURES = Path(__file__).parents[1] / "fixtures"


def published(name: str) -> list[dict]:
    """The cases of a fixture, their lists as tensors: float64, int64 or bool."""
    specs = json.loads((FIXTURES / name).read_text())["cases"]
    return [
        {key: _tensor(value) if isinstance(value, list) else value for key, value in spec.items()} for spec in specs
    ]


def _tensor(numbers: list) -> torch.Tensor:
    tensor = torch.tensor(numbers)
    return torch.tensor(numbers, dtype=torch.float64) if tensor.is_floating_point() else tensor

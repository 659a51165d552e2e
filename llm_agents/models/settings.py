"""What the settings of every language model have in common."""

from __future__ import annotations

from pydantic import field_validator

from llm_agents.runtime.devices import AUTO, require_device_name
from llm_agents.runtime.settings import Settings


class LanguageModelSettings(Settings):
    """Which language model, and where it is."""

    name: str
    """``tiny``, or the name or path of a Hugging Face causal LM."""
    device: str = AUTO
    """``auto`` for the first CUDA GPU if there is one, else the CPU, so that a run can go on or be judged on another
    machine; or ``cpu``, ``cuda``, ``cuda:1``, ``mps``. Nothing is tested on ``mps``."""

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, name: str) -> str:
        return require_device_name(name)

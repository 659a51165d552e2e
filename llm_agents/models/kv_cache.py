"""A key-value cache that is allocated once."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """One layer of a key-value cache that is allocated once and filled in place.

    `DynamicLayer` would copy all of it at every token. Attention sees only the filled part.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.key_buffer = _room_for(key_states, self.capacity)
        self.value_buffer = _room_for(value_states, self.capacity)
        self.keys, self.values = self.key_buffer[..., :0, :], self.value_buffer[..., :0, :]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self.key_buffer[..., self.length : end, :] = key_states
        self.value_buffer[..., self.length : end, :] = value_states
        self.length = end
        self.keys, self.values = self.key_buffer[..., :end, :], self.value_buffer[..., :end, :]
        return self.keys, self.values

    def forget(self, num_positions: int) -> None:
        """Drop the last positions, whose room is reused."""
        self.length -= num_positions
        self.keys, self.values = self.key_buffer[..., : self.length, :], self.value_buffer[..., : self.length, :]


def _room_for(states: Tensor, capacity: int) -> Tensor:
    return states.new_empty(*states.shape[:-2], capacity, states.shape[-1])

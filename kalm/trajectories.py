"""Episodes as padded tensors, for models that read trajectories and for offline RL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.episodes import Episode


@dataclass(frozen=True)
class Trajectories:
    """N episodes of at most T steps.

    Attributes:
        states: (N, T + 1, D) float32; after the end of an episode its last state is repeated.
        actions: (N, T) int64, or (N, T, A) float32 where actions are continuous; zero after the end.
        rewards: (N, T) float32, zero after the end.
        lengths: (N,) the number of steps of each episode.
        terminated: (N,) bool, whether the episode ended in its goal rather than at the horizon.
        episodes: the N episodes themselves.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    lengths: Tensor
    terminated: Tensor
    episodes: Sequence[Episode]

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Trajectories:
        """Pad the episodes to the longest.

        Raises:
            ValueError: there are no episodes.
        """
        if not episodes:
            raise ValueError("no episodes to learn from")
        lengths = np.array([len(episode) for episode in episodes])
        count, steps, dim = len(episodes), int(lengths.max()), episodes[0].states.shape[1]
        states = np.empty((count, steps + 1, dim), np.float32)
        first = np.asarray(episodes[0].actions)
        actions = np.zeros((count, steps, *first.shape[1:]), np.float32 if first.dtype.kind == "f" else np.int64)
        rewards = np.zeros((count, steps), np.float32)
        for row, (episode, length) in enumerate(zip(episodes, lengths, strict=True)):
            states[row, : length + 1] = episode.states
            states[row, length + 1 :] = episode.states[-1]
            actions[row, :length] = episode.actions
            rewards[row, :length] = episode.rewards
        terminated = torch.tensor([episode.terminated for episode in episodes])
        return cls(
            states=torch.from_numpy(states),
            actions=torch.from_numpy(actions),
            rewards=torch.from_numpy(rewards),
            lengths=torch.from_numpy(lengths),
            terminated=terminated,
            episodes=episodes,
        )

    def __len__(self) -> int:
        return len(self.episodes)

    def transitions(self) -> tuple[Tensor, Tensor]:
        """Return every (episode, step) as two index tensors (M,), by episode and then by step."""
        steps = torch.arange(self.actions.shape[1])
        rows, columns = (steps < self.lengths[:, None]).nonzero(as_tuple=True)
        return rows, columns

    def window(self, rows: Tensor, begins: Tensor, max_steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cut out pieces of episodes: from step ``begins`` (M,) of episodes ``rows`` (M,), at most ``max_steps`` long.

        Returns:
            States (M, W + 1, D), actions (M, W, ...) and lengths (M,), where W is the longest piece.
        """
        lengths = (self.lengths[rows] - begins).clamp_max(max_steps)
        width = int(lengths.max())
        steps = begins[:, None] + torch.arange(width + 1)
        state_steps = torch.minimum(steps, (begins + lengths)[:, None])
        action_steps = steps[:, :-1].clamp_max(self.actions.shape[1] - 1)
        return self.states[rows[:, None], state_steps], self.actions[rows[:, None], action_steps], lengths


class Transitions(NamedTuple):
    """M single transitions: states (M, D), actions (M, ...), next states (M, D)."""

    states: Tensor
    actions: Tensor
    next_states: Tensor

    @classmethod
    def of(cls, *sources: Trajectories) -> Transitions:
        """Collect every transition of some trajectories."""
        parts = []
        for source in sources:
            rows, steps = source.transitions()
            parts.append((source.states[rows, steps], source.actions[rows, steps], source.states[rows, steps + 1]))
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def take(self, index: Tensor) -> Transitions:
        """Select the transitions at an index (K,)."""
        return Transitions(*(column[index] for column in self))

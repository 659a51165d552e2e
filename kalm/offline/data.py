"""Batches of real and imagined transitions for offline RL."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from kalm.trajectories import Trajectories
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.runtime.streams import stream
from llm_agents.training.loop import Batch


class OfflineData:
    """Transitions with the token features of their instructions, in batches that are functions of the step.

    Real transitions are drawn evenly. Imagined ones are drawn evenly within each (split, family), and each of these in
    proportion to the square root of its size: long rollouts get more of a batch, but do not crowd out short ones.

    Args:
        real: episodes from the environment.
        imagined: imagined episodes, or the oracle's, or None.
        imagined_share: their share of each batch.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        real: Trajectories,
        imagined: Trajectories | None,
        imagined_fraction: float,
        batch_size: int,
        seed: int,
    ) -> None:
        self._encoder, self._seed = encoder, seed
        self._num_imagined = 0 if imagined is None else round(imagined_fraction * batch_size)
        self._num_real = batch_size - self._num_imagined
        self._sources = [_Transitions(encoder, real)]
        if imagined is not None:
            self._sources.append(_Transitions(encoder, imagined))
            self._groups = _groups(imagined)
            roots = np.sqrt([len(group) for group in self._groups])
            self._group_weights = roots / roots.sum()

    def batch(self, step: int) -> Batch:
        """The batch of an optimizer step; see `OfflineAlgorithm` for its entries."""
        rng = stream(self._seed, "offline/batch", step)
        parts = [self._sources[0].take(rng.integers(len(self._sources[0]), size=self._num_real))]
        if self._num_imagined:
            groups = rng.choice(len(self._groups), size=self._num_imagined, p=self._group_weights)
            places = rng.random(self._num_imagined)
            index = np.array(
                [self._groups[g][int(u * len(self._groups[g]))] for g, u in zip(groups, places, strict=True)]
            )
            parts.append(self._sources[1].take(index))
        batch: Batch = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        batch["text"] = self._encoder.packed(batch.pop("text_rows"))
        return batch


class _Transitions:
    """Every transition of some episodes, flat."""

    def __init__(self, encoder: TextEncoder, source: Trajectories) -> None:
        rows, steps = source.transitions()
        last = steps + 1 == source.lengths[rows]
        texts = encoder.rows([episode.instruction for episode in source.episodes])
        self._columns: dict[str, Tensor] = {
            "states": source.states[rows, steps],
            "actions": source.actions[rows, steps],
            "rewards": source.rewards[rows, steps],
            "next_states": source.states[rows, steps + 1],
            "terminated": last & source.terminated[rows],
            "text_rows": texts[rows],
        }

    def __len__(self) -> int:
        return len(self._columns["states"])

    def take(self, index: np.ndarray) -> dict[str, Tensor]:
        rows = torch.from_numpy(index)
        return {key: column[rows] for key, column in self._columns.items()}


def _groups(source: Trajectories) -> list[np.ndarray]:
    """The transitions of each (split, family), as index arrays."""
    rows, _ = source.transitions()
    kinds = [(episode.split, episode.family) for episode in source.episodes]
    groups = defaultdict(list)
    for index, row in enumerate(rows.tolist()):
        groups[kinds[row]].append(index)
    return [np.array(groups[kind]) for kind in sorted(groups)]

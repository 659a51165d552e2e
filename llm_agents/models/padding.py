"""Batches of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Embedded(NamedTuple):
    """Input embeddings of a batch of texts, (N, L, H), and which positions are real, (N, L) bool, padded right."""

    embeds: Tensor
    mask: Tensor


def pad_left(embeds: Tensor, mask: Tensor) -> Embedded:
    """Move the padding of (N, L, H) from the right to the left, so every row ends at the last position."""
    length = mask.shape[1]
    shift = length - mask.sum(1, keepdim=True)
    index = (torch.arange(length, device=mask.device) - shift) % length
    return Embedded(embeds.gather(1, index[..., None].expand_as(embeds)), mask.gather(1, index))


def concatenate(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Join padded pieces row by row without gaps.

    Args:
        parts: (N, L_i, H) values and (N, L_i) masks, each padded on the right.

    Returns:
        The joined values (N, L, H), their mask (N, L), and for each part the index (N,) at which it begins.
    """
    lengths = torch.stack([mask.sum(1) for _, mask in parts])
    ends = lengths.cumsum(0)
    begins = ends - lengths
    size = int(ends[-1].max())
    values = parts[0][0]
    joined = values.new_zeros(len(values), size, values.shape[-1])
    for (value, mask), begin in zip(parts, begins, strict=True):
        row, column = mask.nonzero(as_tuple=True)
        joined = joined.index_put((row, begin[row] + column), value[row, column])
    mask = torch.arange(size, device=values.device) < ends[-1][:, None]
    return joined, mask, list(begins)

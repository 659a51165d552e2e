"""A short convolution over a sequence of embeddings: each token is read together with those just before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """Adds to each position, channel by channel, a weighted sum of those before it: ``x_t + sum_k w_k x_{t-k}``.

    To find "the red ball" in a list, a token must know colour and noun at once. Attention has to learn in one layer to
    look one token back before it can learn in the next to find what matches, which takes a narrow model long. A
    convolution in front of it provides this (Fu et al., "Hungry hungry hippos", ICLR 2023; Arora et al., "Zoology",
    ICLR 2024), sooner if its weights start out random than if they start at zero.

    Args:
        hidden_size: H, the number of channels.
        size: how many positions are read together, including the last one.
    """

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size - 1, hidden_size))
        nn.init.uniform_(self.weight, -(size**-0.5), size**-0.5)

    def forward(self, embeds: Tensor, before: Tensor, num_new: int) -> Tensor:
        """Return the last L positions (N, L, H), mixed with those before each.

        Args:
            embeds: all P positions, (N, P, H).
            before: the position before each of them, (N, P), -1 where there is none.
            num_new: L, at most P.
        """
        if (before == torch.arange(-1, before.shape[1] - 1, device=before.device)).all():
            return self._shifted(embeds[:, -num_new - len(self.weight) :])[:, -num_new:]
        mixed, place = embeds[:, -num_new:], before[:, -num_new:]
        for weight in self.weight:
            found, exists = place.clamp_min(0), (place >= 0)[..., None]
            mixed = mixed + weight * (embeds.gather(1, found[..., None].expand_as(mixed)) * exists)
            place = torch.where(place >= 0, before.gather(1, found), -1)
        return mixed

    def _shifted(self, embeds: Tensor) -> Tensor:
        """Do the same where each position follows its neighbour, without looking up which it is."""
        mixed = embeds
        for distance, weight in enumerate(self.weight[: embeds.shape[1] - 1], 1):
            mixed = mixed + nn.functional.pad(embeds[:, :-distance] * weight, (0, 0, distance, 0))
        return mixed


def positions_before(mask: Tensor) -> Tensor:
    """Return the position before each, (N, P), -1 where there is none.

    Args:
        mask: which positions are real, (N, P) bool: the one before a real one is the last real one. Or who attends to
            whom, (N, 1, P, P) bool, such as in trees of continuations: it is the last one attended to.
    """
    position = torch.arange(mask.shape[-1], device=mask.device)
    if mask.dim() == 4:
        attends = mask[:, 0] & (position < position[:, None])
        return torch.where(attends, position, -1).amax(-1)
    last = torch.where(mask, position, -1).cummax(1).values
    before = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)
    return torch.where(mask, before, position - 1)  # what comes before padding makes no difference

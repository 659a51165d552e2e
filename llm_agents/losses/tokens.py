"""How the losses of tokens are reduced to one number, and metrics over them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token_mean", "sequence_mean", "constant"]


def token_weights(mask: Tensor, aggregation: Aggregation, max_tokens: int | None = None) -> Tensor:
    """Return how much each token counts, in the mask's shape: a loss is ``sum_{b,t} w_{b,t} * loss_{b,t}``.

    - ``token_mean``: ``w = m / sum(m)``. Every token counts the same, long sequences more than short ones (DAPO; Yu et
      al., 2025, equation 12). The mask may have any shape; for one decision per step this is the plain mean.
    - ``sequence_mean``: ``w = m / (B * |o_b|)``. Every sequence counts the same (GRPO; Shao et al., 2024, equation 3).
    - ``constant``: ``w = m / (B * max_tokens)``. The policy gradient up to a constant, without a bias towards short
      successes and long failures (Dr. GRPO; Liu et al., 2025, section 3).

    ``B`` counts sequences with at least one token, so a sequence that is fully masked is as if it were not there. Take
    the weights of a whole optimizer batch and slice them: the losses of micro-batches then add up to its loss exactly.

    Args:
        mask: (B, T) booleans, true for tokens that the policy chose.
        max_tokens: for ``constant`` only.

    Raises:
        ValueError: the aggregation is unknown, the mask has the wrong number of axes, or ``max_tokens`` is missing or
            would be ignored.

    A sequence of one token and one of three:

    >>> mask = torch.tensor([[True, False, False], [True, True, True]])
    >>> token_weights(mask, "token_mean").sum(1)  # the long one counts three times as much
    tensor([0.2500, 0.7500])
    >>> token_weights(mask, "sequence_mean").sum(1)
    tensor([0.5000, 0.5000])
    """
    if (max_tokens is not None) != (aggregation == "constant"):
        raise ValueError(f"max_tokens belongs to the aggregation 'constant', got {max_tokens} for {aggregation!r}")
    if aggregation != "token_mean" and mask.ndim != 2:
        raise ValueError(f"{aggregation} needs a mask of shape (B, T), got {tuple(mask.shape)}")
    kept = mask.to(torch.get_default_dtype())
    if aggregation == "token_mean":
        return kept / kept.sum().clamp_min(1)
    lengths = kept.sum(1, keepdim=True)
    num_sequences = (lengths > 0).sum().clamp_min(1)
    if aggregation == "sequence_mean":
        return kept / (lengths.clamp_min(1) * num_sequences)
    if max_tokens is not None:
        return kept / (max_tokens * num_sequences)
    raise ValueError(f"aggregation must be token_mean, sequence_mean or constant, got {aggregation!r}")


def weighted_sum(losses: Tensor, weights: Tensor) -> Tensor:
    """Return ``sum w * loss``, leaving out tokens of weight zero even if their loss is infinite or NaN."""
    return torch.where(weights > 0, losses, 0.0).mul(weights).sum()


def mean_of_kept(numbers: Tensor, weights: Tensor) -> float:
    """Return the plain mean over tokens whose weight is not zero, for metrics; 0 if there are none."""
    kept = numbers.detach().expand_as(weights)[weights > 0]
    return kept.float().mean().item() if len(kept) else 0.0


def require_shapes(shape: torch.Size, **tensors: Tensor) -> None:
    """Refuse tensors that would be broadcast to something other than what was meant.

    Raises:
        ValueError: naming the first tensor that does not have the shape.
    """
    for name, tensor in tensors.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")

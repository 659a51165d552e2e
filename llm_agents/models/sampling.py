"""Drawing tokens from logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Samples(NamedTuple):
    """What a model wrote: texts, token ids (N, K), their log-probabilities (N, K) and which are real (N, K)."""

    texts: list[str]
    token_ids: Tensor
    log_probs: Tensor
    mask: Tensor


def draw(
    logits: Tensor,
    temperature: float,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one index per row of logits (N, V), with its log-probability at this temperature; 0 means the argmax.

    The generator draws it, or the row's number of ``uniforms`` (N,) in [0, 1), by the inverse of the distribution.
    """
    log_probs = (logits / temperature if temperature else logits).float().log_softmax(-1)
    if temperature == 0:
        index = log_probs.argmax(-1)
    elif uniforms is None:
        index = torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0]
    else:
        exact = log_probs.cpu() if log_probs.device.type == "mps" else log_probs  # MPS has no float64
        cumulative = exact.double().exp().cumsum(-1)
        index = (cumulative <= uniforms[:, None].to(cumulative) * cumulative[:, -1:]).sum(-1)
        index = index.clamp_max(logits.shape[-1] - 1).to(logits.device)  # where rounding takes a number to 1
    return index, log_probs.gather(1, index[:, None])[:, 0]

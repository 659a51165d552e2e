"""Random tokens and the gradients of losses with respect to them."""

from collections.abc import Callable

import torch
from torch import Tensor

from llm_agents.losses import token_weights


def sampled(seed: int, num_sequences: int, num_tokens: int) -> dict[str, Tensor]:
    """Tokens under two policies, one advantage a token, a mask with a token in each row, and its ``token_mean``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_sequences, num_tokens)
    old = -3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.6
    mask[:, 0] = True
    return {
        "old_log_probs": old,
        "log_probs": old + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64),
        "advantages": torch.randn(shape, generator=generator, dtype=torch.float64),
        "mask": mask,
        "weights": token_weights(mask, "token_mean"),
    }


def gradient_of(loss_of: Callable[[Tensor], tuple[Tensor, dict[str, float]]], at: Tensor) -> Tensor:
    """The gradient of a loss that is a function of one tensor."""
    point = at.clone().requires_grad_()
    return torch.autograd.grad(loss_of(point)[0], point)[0]

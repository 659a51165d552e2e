"""Networks shared by the offline algorithms: what a goal says, and what to do about it in a state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kalm.trajectory_lm import Scale
from llm_agents.goal_encoder import TokenFeatures


class AttentionPooling(nn.Module):
    """A text's token features (N, L, E) as one vector (N, num_queries * value_size), by learned queries.

    Trained with the policy, it can tell *which* ball is to go *where*, which the mean of the features cannot.
    """

    def __init__(self, dim: int, num_queries: int, key_size: int, value_size: int, token_dropout: float = 0.0) -> None:
        super().__init__()
        self.token_dropout = token_dropout
        self.to_key = nn.Linear(dim, key_size)
        self.to_value = nn.Linear(dim, value_size)
        self.queries = nn.Parameter(torch.randn(num_queries, key_size))
        self.output_size = num_queries * value_size

    def forward(self, text: TokenFeatures) -> Tensor:
        scores = self.to_key(text.features) @ self.queries.T  # (N, L, Q)
        if self.training and self.token_dropout:
            # Tokens that are sometimes missing cannot be relied on one by one: a word never seen does less harm.
            dropped = torch.rand(text.mask.shape, device=scores.device) < self.token_dropout
            scores = scores.masked_fill(dropped[..., None], -1e4)
        scores = scores.masked_fill(~text.mask[..., None], float("-inf"))
        return (scores.softmax(1).transpose(1, 2) @ self.to_value(text.features)).flatten(1)


class GoalConditionedMLP(nn.Module):
    """State (N, D) and goal text -> outputs (N, K), by an MLP over the state and the attention-pooled text.

    Args:
        num_inputs: further numbers it reads, such as those of an action.
    """

    state_mean: Tensor
    state_std: Tensor

    def __init__(self, text_dim: int, scale: Scale, num_outputs: int, settings, num_inputs: int = 0) -> None:
        super().__init__()
        self.register_buffer("state_mean", scale.state_mean.float())
        self.register_buffer("state_std", scale.state_std.float())
        self.pooling = AttentionPooling(
            text_dim, settings.num_queries, settings.key_size, settings.value_size, settings.token_dropout
        )
        width = settings.hidden_size
        size = len(scale.state_mean) + self.pooling.output_size + num_inputs
        layers: list[nn.Module] = [nn.Linear(size, width), nn.SiLU()]
        for _ in range(settings.num_layers - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.Linear(width, num_outputs))

    def forward(self, states: Tensor, text: TokenFeatures, *inputs: Tensor) -> Tensor:
        scaled = (states - self.state_mean) / self.state_std
        return self.trunk(torch.cat([scaled, self.pooling(text), *inputs], -1))

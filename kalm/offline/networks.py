"""Networks shared by the offline algorithms: what a goal says, and what to do about it in a state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kalm.trajectory_lm import StateNormalizer
from llm_agents.models.text_encoder import PackedFeatures


class AttentionPooling(nn.Module):
    """Pools the token features of N texts into one vector each, (N, num_queries * value_size), by learned queries.

    Trained with the policy, it can tell *which* ball is to go *where*, which the mean of the features cannot.
    """

    def __init__(self, dim: int, num_queries: int, key_size: int, value_size: int, token_dropout: float = 0.0) -> None:
        super().__init__()
        self.token_dropout = token_dropout
        self.to_key = nn.Linear(dim, key_size)
        self.to_value = nn.Linear(dim, value_size)
        self.queries = nn.Parameter(torch.randn(num_queries, key_size))
        self.output_size = num_queries * value_size

    def forward(self, text: PackedFeatures) -> Tensor:
        scores, values = self._scores_and_values(text.features)
        if self.training and self.token_dropout:
            # No single token can be relied on if it is sometimes missing: a word never seen then does less harm.
            dropped = torch.rand(len(scores), 1, device=scores.device) < self.token_dropout
            scores = scores.masked_fill(dropped, -1e4)
        weights = softmax_by_text(scores, text.lengths)
        weighted = weights[:, :, None] * values[:, None]  # (T, Q, V)
        return sum_by_text(weighted.flatten(1), text.lengths)

    def _scores_and_values(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compute each query's score of each token (T, Q) and each token's value (T, V): linear, so in one product."""
        weight = torch.cat([self.queries @ self.to_key.weight, self.to_value.weight])
        bias = torch.cat([self.queries @ self.to_key.bias, self.to_value.bias])
        return functional.linear(features, weight, bias).split([len(self.queries), self.to_value.out_features], -1)


def softmax_by_text(scores: Tensor, lengths: Tensor) -> Tensor:
    """Return the softmax of packed scores (T, Q) over the tokens of each text."""
    text_of = torch.arange(len(lengths), device=scores.device).repeat_interleave(lengths)
    constant = scores.detach()
    highest = constant.new_full((len(lengths), scores.shape[1]), float("-inf"))
    highest = highest.scatter_reduce(0, text_of[:, None].expand_as(scores), constant, "amax")
    exponentials = (scores - highest[text_of]).exp()
    return exponentials / sum_by_text(exponentials, lengths)[text_of]


def sum_by_text(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum packed values (T, K) over the tokens of each text, (N, K)."""
    text_of = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    return values.new_zeros(len(lengths), values.shape[1]).index_add(0, text_of, values)


class GoalConditionedMLP(nn.Module):
    """Maps state (N, D) and goal text to outputs (N, K), by an MLP over the state and the attention-pooled text.

    Args:
        num_inputs: how many further numbers it reads, such as those of an action.
    """

    state_mean: Tensor
    state_std: Tensor

    def __init__(
        self, text_dim: int, normalizer: StateNormalizer, num_outputs: int, settings, num_inputs: int = 0
    ) -> None:
        super().__init__()
        self.register_buffer("state_mean", normalizer.state_mean.float())
        self.register_buffer("state_std", normalizer.state_std.float())
        self.pooling = AttentionPooling(
            text_dim, settings.num_queries, settings.key_size, settings.value_size, settings.token_dropout
        )
        width = settings.hidden_size
        size = len(normalizer.state_mean) + self.pooling.output_size + num_inputs
        layers: list[nn.Module] = [nn.Linear(size, width), nn.SiLU()]
        for _ in range(settings.num_layers - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.Linear(width, num_outputs))

    def forward(self, states: Tensor, text: PackedFeatures, *inputs: Tensor) -> Tensor:
        scaled = (states - self.state_mean) / self.state_std
        return self.trunk(torch.cat([scaled, self.pooling(text), *inputs], -1))

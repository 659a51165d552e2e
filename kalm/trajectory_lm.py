"""A language model that reads and writes trajectories: adapters for states and actions around any causal LM.

A state and an action each take one position. They enter through adapters, between pieces of text, as embeddings, and
each piece of a prompt is announced by a learned marker: no ids are reserved in any vocabulary, so every tokenizer will
do (the original replaces fixed token ids of Llama-2's
tokenizer, and breaks on others).

The hidden state at ``s_t`` predicts ``a_t``; at ``a_t`` it predicts the
change ``s_{t+1} - s_t``. Text comes from the LM's own head. (Pang et al., KALM, NeurIPS 2024, section 4.)
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from llm_agents.language_model import LanguageModel, concatenate

MARKERS = ("goal", "rollout", "dynamics", "start", "end")


class Scale(NamedTuple):
    """What numbers of an environment look like: mean and deviation of states, deviation of one step's change, (D,)."""

    state_mean: Tensor
    state_std: Tensor
    step_std: Tensor

    @classmethod
    def of(cls, states: Tensor, next_states: Tensor) -> Scale:
        """Measured on transitions (N, D); a number that never changes gets the deviation 1."""
        step_std = (next_states - states).std(0)
        state_std = states.std(0)
        return cls(
            states.mean(0),
            torch.where(state_std > 1e-6, state_std, 1.0),
            torch.where(step_std > 1e-6, step_std, 1.0),
        )


class StateActionEmbedding(nn.Module):
    """An action in a state as a vector: a learned linear function of the state, one for each action.

    With one vector an action, as in the original, the network must work out by itself what the action acts on. Here
    "relative to the ball that is pushed" is linear; what that is worth is measured in docs/lab_notes.md.
    """

    def __init__(self, num_actions: int, state_dim: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(num_actions, state_dim + 1, width))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """States (..., D) and actions (...) -> (..., H)."""
        weight = self.weight[actions]
        return torch.einsum("...d,...dh->...h", states, weight[..., :-1, :]) + weight[..., -1, :]


class TrajectoryLM(nn.Module):
    """A causal LM with state and action adapters, a head for state changes and one for actions.

    Args:
        lm: any `LanguageModel`.
        num_actions: the size of the discrete action space.
        scale: of the states, measured on training data.
    """

    lm: LanguageModel
    state_mean: Tensor
    state_std: Tensor
    step_std: Tensor

    def __init__(self, lm: LanguageModel, num_actions: int, scale: Scale) -> None:
        super().__init__()
        self.lm = lm
        self.num_actions = num_actions
        for name, value in scale._asdict().items():
            self.register_buffer(name, value.float())
        width, state_dim = lm.hidden_size, len(scale.state_mean)
        self.state_adapter = nn.Sequential(nn.Linear(state_dim, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.action_adapter = StateActionEmbedding(num_actions, state_dim, width)
        self.markers = nn.Embedding(len(MARKERS), width)
        self.state_head = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, state_dim))
        self.action_head = nn.Linear(width, num_actions)
        # As large as the embeddings among which they will stand.
        std = cast(nn.Embedding, lm.model.get_input_embeddings()).weight.detach().std().item()
        nn.init.normal_(self.action_adapter.weight, std=std)
        nn.init.normal_(self.markers.weight, std=std)

    @property
    def device(self) -> torch.device:
        return self.state_mean.device

    def embed_states(self, states: Tensor) -> Tensor:
        """States (..., D) as input embeddings (..., H)."""
        return self.state_adapter((states - self.state_mean) / self.state_std)

    def embed_actions(self, states: Tensor, actions: Tensor) -> Tensor:
        """Actions (...), each taken in a state (..., D), as input embeddings (..., H)."""
        return self.action_adapter((states - self.state_mean) / self.state_std, actions)

    def embed_trajectory(self, states: Tensor, actions: Tensor) -> Tensor:
        """s_0 a_0 s_1 a_1 ...: states (N, T + 1, D) and actions (N, T) as input embeddings (N, 2T + 1, H)."""
        embeds = states.new_empty(len(states), 2 * actions.shape[1] + 1, self.lm.hidden_size)
        embeds[:, 0::2] = self.embed_states(states)
        embeds[:, 1::2] = self.embed_actions(states[:, :-1], actions)
        return embeds

    def read(self, parts: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Run pieces of text and trajectory, each (N, L_i, H) with mask (N, L_i), as one sequence a row.

        Returns:
            The hidden states of each piece, (N, L_i, H).
        """
        embeds, mask, begins = concatenate(parts)
        hidden = self.lm.hidden_states(embeds, mask)
        last = hidden.shape[1] - 1
        pieces = []
        for (_, part_mask), begin in zip(parts, begins, strict=True):
            index = (begin[:, None] + torch.arange(part_mask.shape[1], device=begin.device)).clamp_max(last)
            pieces.append(hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1])))
        return pieces

    def action_logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., A) from hidden states at state positions (..., H)."""
        return self.action_head(hidden)

    def scaled_change(self, hidden: Tensor) -> Tensor:
        """The predicted change of state (..., D) in units of ``step_std``, from hidden states (..., H)."""
        return self.state_head(hidden)

    def next_states(self, states: Tensor, hidden: Tensor) -> Tensor:
        """The predicted next states (..., D) after states (..., D), from hidden states at action positions."""
        return states + self.scaled_change(hidden) * self.step_std

    def marker(self, name: str, batch: int) -> tuple[Tensor, Tensor]:
        """The position that announces a piece of the prompt: (batch, 1, H) and its mask (batch, 1)."""
        embed = self.markers.weight[MARKERS.index(name)]
        return embed.expand(batch, 1, -1), torch.ones(batch, 1, dtype=torch.bool, device=embed.device)

"""A language model that reads and writes trajectories: adapters for states and actions around any causal LM.

A state and an action each take one position. They enter through adapters, between pieces of text, as embeddings, and
each piece of a prompt is announced by a learned marker: no ids are reserved in any vocabulary, so every tokenizer will
do (the original replaces fixed token ids of Llama-2's
tokenizer, and breaks on others).

The hidden state at ``s_t`` predicts ``a_t``; at ``a_t`` it predicts the
change ``s_{t+1} - s_t``. Text comes from the LM's own head. (Pang et al., KALM, NeurIPS 2024, section 4.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kalm.action_space import ActionSpace
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.padding import concatenate


def read_actions(model: TrajectoryLM, states: Tensor, actions: Tensor) -> Tensor:
    """Hidden states (N, K, H) at K actions, each of them taken in the state (N, D) as if it were the only one.

    One packed forward: every action attends to the prompt, the state and itself, and stands at the same position.
    """
    num_rows, num_actions = actions.shape[:2]
    prompt, _ = model.marker("dynamics", num_rows)
    repeated = states[:, None].expand(-1, num_actions, -1)
    embeds = torch.cat([prompt, model.embed_states(states)[:, None], model.embed_actions(repeated, actions)], 1)
    shared = prompt.shape[1] + 1
    length = shared + num_actions
    sees = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()
    sees[shared:, shared:] = torch.eye(num_actions, dtype=torch.bool, device=states.device)
    positions = torch.arange(length, device=states.device).clamp_max(shared)
    mask = sees.expand(num_rows, 1, length, length)
    hidden = model.lm.hidden_states(embeds, mask, positions=positions.expand(num_rows, -1))
    return hidden[:, shared:]


MARKERS = ("goal", "rollout", "dynamics", "start", "end")


class StateNormalizer(NamedTuple):
    """What numbers of an environment look like: mean and deviation of states, deviation of one step's change, (D,)."""

    state_mean: Tensor
    state_std: Tensor
    step_std: Tensor

    @classmethod
    def of(cls, states: Tensor, next_states: Tensor) -> StateNormalizer:
        """Measured on transitions (N, D).

        A number that is always the same gets the deviation 1, and one that stays the same throughout an episode a
        step as small as rounding: a prediction that is a little off must not move it.
        """
        mean, state_std, step_std = states.mean(0), states.std(0), (next_states - states).std(0)
        rounding = 1e-6 * (1 + mean.abs())
        return cls(mean, torch.where(state_std > rounding, state_std, 1.0), torch.maximum(step_std, rounding))


class TrajectoryLM(nn.Module):
    """A causal LM with state and action adapters, a head for state changes and one for actions.

    All of it is on the LM's device, and so must the tensors be that it is given.

    Args:
        lm: any `LanguageModel`.
        actions: the action space.
        scale: of the states, measured on training data.
    """

    lm: LanguageModel
    state_mean: Tensor
    state_std: Tensor
    step_std: Tensor

    def __init__(self, lm: LanguageModel, actions: ActionSpace, normalizer: StateNormalizer) -> None:
        super().__init__()
        self.lm = lm
        self.actions = actions
        for name, value in normalizer._asdict().items():
            self.register_buffer(name, value.float())
        width, state_dim = lm.hidden_size, len(normalizer.state_mean)
        self.state_adapter = nn.Sequential(nn.Linear(state_dim, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.action_adapter = actions.make_embedding(state_dim, width)
        self.markers = nn.Embedding(len(MARKERS), width)
        self.state_head = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, state_dim))
        self.action_head = nn.Linear(width, actions.num_logits)
        # As large as the embeddings among which they will stand.
        embeddings = cast(nn.Embedding, lm.model.get_input_embeddings()).weight.detach()
        std = embeddings.float().cpu().std().item()  # or the adapters would depend on how a GPU rounds
        nn.init.normal_(self.action_adapter.weight, std=std)
        nn.init.normal_(self.markers.weight, std=std)
        self.to(lm.device)

    @property
    def device(self) -> torch.device:
        return self.state_mean.device

    def embed_states(self, states: Tensor) -> Tensor:
        """States (..., D) as input embeddings (..., H)."""
        return self.state_adapter((states - self.state_mean) / self.state_std)

    def embed_actions(self, states: Tensor, actions: Tensor) -> Tensor:
        """Actions, each taken in a state (..., D), as input embeddings (..., H)."""
        return self.action_adapter((states - self.state_mean) / self.state_std, actions)

    def embed_trajectory(self, states: Tensor, actions: Tensor) -> Tensor:
        """s_0 a_0 s_1 a_1 ...: states (N, T + 1, D) and actions (N, T, ...) as input embeddings (N, 2T + 1, H)."""
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
        """Logits (..., L) from hidden states at state positions (..., H)."""
        return self.action_head(hidden)

    def first_action_logits(self, instructions: Sequence[str], states: Tensor) -> Tensor:
        """Logits (N, L) as if each state (N, D) were the first of a rollout for its instruction."""
        count = len(states)
        one = torch.ones(count, 1, dtype=torch.bool, device=states.device)
        pieces = self.read(
            [
                self.marker("goal", count),
                self.lm.embed_texts(instructions),
                self.marker("rollout", count),
                (self.embed_states(states[:, None]), one),
            ]
        )
        return self.action_logits(pieces[-1][:, 0])

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

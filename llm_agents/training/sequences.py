"""Turns of an episode as token sequences to train on: what was given and what was sampled, in its order, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.episodes import Turn
from llm_agents.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """Tokens that a model read and wrote without a break.

    Attributes:
        token_ids: (L,).
        sampled: which were sampled, and are trained on, (L,) bool.
        log_probs: their log-probabilities under the behaviour policy, 0 for the others, (L,).
        steps: the step of the episode whose turn each belongs to, (L,).
    """

    token_ids: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    log_probs: NDArray[np.float32]
    steps: NDArray[np.int64]


def join_turns(turns: Sequence[Turn]) -> list[TokenSequence]:
    """The sequences of an episode: a turn that continues the one before belongs to its sequence, any other begins one.

    With an append-only history that is one sequence of all turns; with rewritten prompts, one a turn.
    """
    groups: list[list[int]] = []
    for step, turn in enumerate(turns):
        if turn.continues and groups:
            groups[-1].append(step)
        else:
            groups.append([step])
    return [_join(turns, group) for group in groups]


def _join(turns: Sequence[Turn], group: Sequence[int]) -> TokenSequence:
    token_ids: list[int] = []
    loss_mask: list[bool] = []
    log_probs: list[float] = []
    steps: list[int] = []
    for step in group:
        turn = turns[step]
        given, written = len(turn.prompt_ids), len(turn.token_ids)
        token_ids += [*turn.prompt_ids, *turn.token_ids]
        loss_mask += [False] * given + [True] * written
        log_probs += [0.0] * given + [*turn.log_probs]
        steps += [step] * (given + written)
    return TokenSequence(
        np.array(token_ids, np.int64), np.array(loss_mask, bool), np.array(log_probs, np.float32), np.array(steps)
    )


def sampled_log_probs(lm: LanguageModel, sequences: Sequence[TokenSequence], temperature: float = 1.0) -> Tensor:
    """The log-probability that the model now gives to each sampled token, (N, L) float32, and 0 elsewhere.

    In eval mode and with the weights and the temperature that sampled them, these are the stored ones. Differentiable.
    """
    token_ids, mask = lm.pad([sequence.token_ids.tolist() for sequence in sequences])
    loss_mask = stack([sequence.loss_mask for sequence in sequences]).to(mask.device)
    hidden = lm.hidden_states(lm.embed_ids(token_ids), mask)
    row, column = loss_mask.nonzero(as_tuple=True)
    logits = lm.logits(hidden[row, column - 1]) / (temperature or 1.0)  # only where something was sampled
    log_probs = logits.float().log_softmax(-1).gather(1, token_ids[row, column][:, None])[:, 0]
    return log_probs.new_zeros(loss_mask.shape).index_put((row, column), log_probs)


def stack(rows: Iterable[NDArray]) -> Tensor:
    """Arrays of different lengths (L_i,) as one tensor (N, L), padded right with zeros."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)

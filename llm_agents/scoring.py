"""A causal LM as a policy over action texts: each is as probable as the model finds it after the prompt.

GLAM (Carta et al., ICML 2023) and TWOSOME (Tan et al., ICLR 2024). With an action ``a`` of tokens ``w_1 ... w_K``,

    score(a | prompt) = sum_k log p(w_k | prompt, w_1 ... w_{k-1}) / n(a),    policy = softmax(score)

where ``n`` is 1, the number of tokens or the number of words. The log-probabilities are those of the whole vocabulary,
so that no action gains by being short or by being padded; published code that sums raw logits prefers such.

All actions of a prompt are read in one forward, one behind the other, each attending to the prompt and to itself. The
forward is differentiable: acting and training share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from llm_agents.config import Settings
from llm_agents.errors import UserError
from llm_agents.language_model import LanguageModel

# Above this many tokens of actions for each token of prompts, packed actions look past each other so much that reading
# each against a copy of the prompt's keys and values is faster (`benchmarks/scoring.py`).
MAX_PACKED_SHARE = 8.0


class ScorerSettings(Settings):
    """How action texts are scored."""

    normalisation: Literal["sum", "token", "word"] = "token"
    """Divide the log-probability of an action by nothing (GLAM), its tokens or its words (TWOSOME)."""
    method: Literal["auto", "packed", "cached"] = "auto"
    """All actions of a prompt in one forward; or the prompt first, and its keys and values for each action."""
    value_head: bool = True
    """Whether there is a value head on the prompt's last hidden state."""
    value_size: int = Field(64, ge=1)
    """Width of the value head's hidden layer."""


class Scores(NamedTuple):
    """Scores of the actions of each prompt (B, A), -inf where there is none; and values (B,) if there is a head."""

    logits: Tensor
    values: Tensor | None


class ActionSet(NamedTuple):
    """The tokens of some actions, one action after the other, as they are laid out behind a prompt.

    All but the last token of each action are read, W of them; each of the M tokens is predicted.

    Attributes:
        read: the tokens that are read, (W,).
        segments: for each of them, one plus the index of its action, (W,).
        offsets: for each of them, its place in its action, (W,).
        targets: the tokens to be predicted, (M,).
        sources: what each is predicted from: 0 is the prompt's last token, 1 + i the i-th that is read, (M,).
        owners: the action each belongs to, (M,).
        norms: what the log-probability of each action is divided by, (A,).
    """

    read: NDArray[np.int64]
    segments: NDArray[np.int64]
    offsets: NDArray[np.int64]
    targets: NDArray[np.int64]
    sources: NDArray[np.int64]
    owners: NDArray[np.int64]
    norms: NDArray[np.float32]


class ActionScorer(nn.Module):
    """A language model and a value head, as a policy over action texts.

    Keep it in eval mode where acting and training must agree: dropout would change the probabilities.

    Raises:
        UserError: the model does not read tokens of its own vocabulary.
    """

    def __init__(self, lm: LanguageModel, settings: ScorerSettings) -> None:
        super().__init__()
        if lm.encoder is not None:
            raise UserError("actions are scored by a model that reads tokens: set text_input to 'words'")
        self.lm = lm
        self.settings = settings
        self.value_head = _value_head(lm.hidden_size, settings.value_size) if settings.value_head else None
        self._action_sets: dict[tuple[str, ...], ActionSet] = {}

    def forward(
        self, prompts: Sequence[Sequence[int]], actions: Sequence[Sequence[str]], detach_value: bool = False
    ) -> Scores:
        """Score the actions of each prompt.

        Args:
            prompts: token ids of B prompts.
            actions: the admissible action texts of each; they may differ in number.
            detach_value: let the value head learn without changing the language model.

        Raises:
            UserError: an action text that tokenises to nothing, a prompt without actions or without tokens, or one
                that does not fit into the model's window with its longest action.
        """
        sets = [self.action_set(tuple(texts)) for texts in actions]
        for prompt, texts in zip(prompts, actions, strict=True):
            self._require_room(prompt, texts)
        read = self._read_cached if self._use_cache(prompts, sets) else self._read_packed
        last, inner = read(prompts, sets)
        values = None
        if self.value_head is not None:
            values = self.value_head((last.detach() if detach_value else last).float()).squeeze(-1)
        return Scores(self._scores(last, inner, sets), values)

    def room(self, actions: Sequence[str]) -> int:
        """How many tokens behind a prompt must be free for the longest of these actions, whose last is never read."""
        return 1 + int(self.action_set(tuple(actions)).offsets.max(initial=-1))

    def action_set(self, texts: tuple[str, ...]) -> ActionSet:
        """The tokens of these actions, computed once for each set."""
        if texts not in self._action_sets:
            if not texts:
                raise UserError("there is no admissible action to choose from")
            rows = [action_ids(self.lm, text) for text in texts]
            lengths = {
                "sum": [1] * len(rows),
                "token": [len(row) for row in rows],
                "word": [len(text.split()) for text in texts],
            }
            self._action_sets[texts] = _lay_out(rows, lengths[self.settings.normalisation])
        return self._action_sets[texts]

    def _require_room(self, prompt: Sequence[int], texts: Sequence[str]) -> None:
        if not prompt:
            raise UserError("a prompt without tokens: there is nothing that an action could follow")
        if len(prompt) + self.room(texts) > self.lm.window:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and an action of {self.room(texts) + 1} do not fit into the "
                f"model's window of {self.lm.window}"
            )

    def _use_cache(self, prompts: Sequence[Sequence[int]], sets: Sequence[ActionSet]) -> bool:
        if self.settings.method != "auto":
            return self.settings.method == "cached"
        return sum(len(s.read) for s in sets) > MAX_PACKED_SHARE * sum(map(len, prompts))

    def _read_packed(self, prompts: Sequence[Sequence[int]], sets: Sequence[ActionSet]) -> tuple[Tensor, Tensor]:
        """The hidden states of the last token of each prompt (B, H), and of all tokens read of actions, (sum W, H)."""
        rows = [np.concatenate([prompt, s.read]) for prompt, s in zip(prompts, sets, strict=True)]
        token_ids, mask = self.lm.pad([row.tolist() for row in rows])
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=mask.device)
        if not any(len(s.read) for s in sets):
            hidden = self.lm.hidden_states(self.lm.embed_ids(token_ids), mask)
            return hidden[_arange(lengths), lengths - 1], hidden[:0, 0]
        segments, positions = np.zeros((2, *token_ids.shape), np.int64)
        for row, (prompt, s) in enumerate(zip(prompts, sets, strict=True)):
            begin, end = len(prompt), len(prompt) + len(s.read)
            segments[row, begin:end] = s.segments
            positions[row, :begin] = np.arange(begin)
            positions[row, begin:end] = begin + s.offsets
        segment, position = (torch.from_numpy(part).to(mask.device) for part in (segments, positions))
        attends = packed_mask(segment, mask)[:, None]
        hidden = self.lm.hidden_states(self.lm.embed_ids(token_ids), attends, positions=position)
        return hidden[_arange(lengths), lengths - 1], hidden[segment > 0]

    def _read_cached(self, prompts: Sequence[Sequence[int]], sets: Sequence[ActionSet]) -> tuple[Tensor, Tensor]:
        """As `_read_packed`, in two forwards: the prompts, then each action after a copy of its prompt's cache."""
        token_ids, mask = self.lm.pad(prompts)
        lengths = mask.sum(1)
        cache = DynamicCache(config=self.lm.model.config)
        hidden = self.lm.hidden_states(self.lm.embed_ids(token_ids), mask, cache)
        last = hidden[_arange(lengths), lengths - 1]
        rows = [(i, s.read[s.segments == n].tolist()) for i, s in enumerate(sets) for n in np.unique(s.segments)]
        if not rows:
            return last, hidden[:0, 0]
        owner = torch.tensor([i for i, _ in rows], device=mask.device)
        action_ids, action_mask = self.lm.pad([ids for _, ids in rows])
        cache.batch_select_indices(owner)
        embeds = self.lm.embed_ids(action_ids)
        hidden = self.lm.hidden_states(embeds, torch.cat([mask[owner], action_mask], 1), cache)
        return last, hidden[action_mask]

    def _scores(self, last: Tensor, inner: Tensor, sets: Sequence[ActionSet]) -> Tensor:
        """Scores (B, A) from the hidden states after which an action's tokens are predicted."""
        num_actions = max(len(s.norms) for s in sets)
        begins = len(sets) - 1 + np.cumsum([0, *(len(s.read) for s in sets[:-1])])
        sources = [np.where(s.sources == 0, i, begins[i] + s.sources) for i, s in enumerate(sets)]
        owners = [i * num_actions + s.owners for i, s in enumerate(sets)]
        norms = np.ones((len(sets), num_actions), np.float32)
        real = np.zeros((len(sets), num_actions), bool)
        for row, s in enumerate(sets):
            norms[row, : len(s.norms)], real[row, : len(s.norms)] = s.norms, True
        logits = self.lm.logits(torch.cat([last, inner])).float()
        targets = [s.targets for s in sets]
        source, owner, target = (torch.from_numpy(_join(p)).to(logits.device) for p in (sources, owners, targets))
        log_probs = logits[source, target] - logits.logsumexp(-1)[source]
        scores = logits.new_zeros(real.size).index_add(0, owner, log_probs).view(real.shape)
        scores = scores / torch.from_numpy(norms).to(scores.device)
        return scores.masked_fill(~torch.from_numpy(real).to(scores.device), -torch.inf)


def action_ids(lm: LanguageModel, action: str) -> list[int]:
    """The tokens of an action as it follows a prompt, a space before it.

    Raises:
        UserError: there are none.
    """
    text = action.strip()
    token_ids = lm.tokenizer(f" {text}", add_special_tokens=False)["input_ids"] if text else []
    if not token_ids:
        raise UserError(f"action text {action!r} has no tokens: it cannot be scored")
    return token_ids


def packed_mask(segments: Tensor, real: Tensor) -> Tensor:
    """Who attends to whom where several continuations stand behind one prompt.

    Args:
        segments: 0 for the prompt and for padding, 1, 2, ... for the continuations, (B, S).
        real: what is no padding, (B, S) bool.

    Returns:
        (B, S, S) bool: whether query q attends to key k: k does not come after q, and is of the prompt or of q's own
        continuation. Padding attends to itself, so that no softmax is empty.
    """
    size = segments.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=segments.device).tril()
    itself = torch.eye(size, dtype=torch.bool, device=segments.device)
    keys, queries = segments[:, None], segments[:, :, None]
    return causal & real[:, None] & ((keys == 0) | (keys == queries)) | itself


def _lay_out(rows: Sequence[Sequence[int]], norms: Sequence[int]) -> ActionSet:
    read = [token for row in rows for token in row[:-1]]
    lengths = [len(row) - 1 for row in rows]
    begins = np.cumsum([0, *lengths[:-1]])
    return ActionSet(
        read=np.array(read, np.int64),
        segments=np.repeat(np.arange(1, len(rows) + 1), lengths),
        offsets=_join([np.arange(length) for length in lengths]),
        targets=_join([np.array(row, np.int64) for row in rows]),
        sources=_join([np.r_[0, begin + 1 : begin + 1 + n] for begin, n in zip(begins, lengths, strict=True)]),
        owners=np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
        norms=np.array(norms, np.float32),
    )


def _value_head(hidden_size: int, width: int) -> nn.Module:
    """A head that expects nothing until it is trained."""
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(hidden_size, width), nn.SiLU(), last)


def _arange(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)


def _join(parts: Sequence[NDArray]) -> NDArray[np.int64]:
    return np.concatenate(parts).astype(np.int64)

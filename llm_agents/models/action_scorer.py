"""A causal LM as a policy over action texts: each is as probable as the model finds it after the prompt.

GLAM (Carta et al., ICML 2023) and TWOSOME (Tan et al., ICLR 2024). With an action ``a`` of tokens ``w_1 ... w_K``,

    score(a | prompt) = sum_k log p(w_k | prompt, w_1 ... w_{k-1}) / n(a),    policy = softmax(score)

where ``n`` is 1, the number of tokens or the number of words. The log-probabilities are those of the whole vocabulary,
so that no action gains by being short or by being padded; published code that sums raw logits prefers such.

All actions of a prompt are read in one forward. Behind the prompt stands the tree of their tokens, in which actions
that begin alike share their beginning; each token attends to the prompt and to the path that leads to it. It is
differentiable, so that acting and training share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from llm_agents.models.language_model import LanguageModel
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings

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
    """The tokens of A actions as the tree that is laid out behind a prompt.

    All but the last token of each action are read, those of a common beginning once: W of them. Each of the M tokens of
    all actions is predicted.

    Attributes:
        rows: the tokens of each action.
        read: the tokens that are read, (W,).
        depths: the place of each in its action, from 0, (W,).
        paths: whether the token in the column lies on the path to the token in the row, which counts itself, (W, W).
        leaders: the first of the actions that each belongs to, (W,).
        targets: the tokens to be predicted, (M,).
        sources: what each is predicted from: 0 is the prompt's last token, 1 + i the i-th that is read, (M,).
        owners: the action each belongs to, (M,).
        norms: what the log-probability of each action is divided by, (A,).
    """

    rows: Sequence[Sequence[int]]
    read: NDArray[np.int64]
    depths: NDArray[np.int64]
    paths: NDArray[np.bool_]
    leaders: NDArray[np.int64]
    targets: NDArray[np.int64]
    sources: NDArray[np.int64]
    owners: NDArray[np.int64]
    norms: NDArray[np.float32]


class ActionScorer(nn.Module):
    """A language model and a value head, as a policy over action texts; all of it is on the model's device.

    Keep it in eval mode where acting and training must agree: dropout would change the probabilities.

    Raises:
        UserError: the model does not read tokens of its own vocabulary.
    """

    def __init__(self, lm: LanguageModel, settings: ScorerSettings) -> None:
        super().__init__()
        if not lm.reads_tokens:
            raise UserError("actions are scored by a model that reads tokens: set text_input to 'words' or 'phrases'")
        self.lm = lm
        self.settings = settings
        self.value_head = _value_head(lm.hidden_size, settings.value_size) if settings.value_head else None
        self.to(lm.device)
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
            self._require_fit(prompt, texts)
        read = self._read_cached if self._use_cache(prompts, sets) else self._read_packed
        last, inner = read(prompts, sets)
        values = None
        if self.value_head is not None:
            values = self.value_head((last.detach() if detach_value else last).float()).squeeze(-1)
        return Scores(self._scores(last, inner, sets), values)

    def reserved_tokens(self, actions: Sequence[str]) -> int:
        """How many tokens behind a prompt must be free for the longest of these actions, whose last is never read."""
        return 1 + int(self.action_set(tuple(actions)).depths.max(initial=-1))

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

    def _require_fit(self, prompt: Sequence[int], texts: Sequence[str]) -> None:
        if not prompt:
            raise UserError("a prompt without tokens: there is nothing that an action could follow")
        if len(prompt) + self.reserved_tokens(texts) > self.lm.context_length:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and an action of {self.reserved_tokens(texts) + 1} do not fit "
                f"into the model's window of {self.lm.context_length}"
            )

    def _use_cache(self, prompts: Sequence[Sequence[int]], sets: Sequence[ActionSet]) -> bool:
        if self.settings.method != "auto":
            return self.settings.method == "cached"
        return sum(len(s.read) for s in sets) > MAX_PACKED_SHARE * sum(map(len, prompts))

    def _read_packed(self, prompts: Sequence[Sequence[int]], sets: Sequence[ActionSet]) -> tuple[Tensor, Tensor]:
        """The hidden states of the last token of each prompt (B, H), and of all tokens read of actions, (sum W, H)."""
        rows = [[*prompt, *s.read.tolist()] for prompt, s in zip(prompts, sets, strict=True)]
        token_ids, mask = self.lm.pad(rows)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=mask.device)
        embeds = self.lm.embed_ids(token_ids)
        if not any(len(s.read) for s in sets):
            hidden = self.lm.hidden_states(embeds, mask)
            return hidden[_arange(lengths), lengths - 1], hidden[:0, 0]
        positions = np.zeros(token_ids.shape, np.int64)
        for row, (prompt, s) in enumerate(zip(prompts, sets, strict=True)):
            positions[row, : len(rows[row])] = np.r_[: len(prompt), len(prompt) + s.depths]
        attends = torch.from_numpy(packed_mask([len(p) for p in prompts], [s.paths for s in sets])).to(mask.device)
        hidden = self.lm.hidden_states(embeds, attends[:, None], positions=torch.from_numpy(positions).to(mask.device))
        inner = mask & (torch.arange(mask.shape[1], device=mask.device) >= lengths[:, None])
        return hidden[_arange(lengths), lengths - 1], hidden[inner]

    def _read_cached(self, prompts: Sequence[Sequence[int]], sets: Sequence[ActionSet]) -> tuple[Tensor, Tensor]:
        """As `_read_packed`, in two forwards: the prompts, then actions after copies of their prompts' caches."""
        token_ids, mask = self.lm.pad(prompts)
        lengths = mask.sum(1)
        cache = self.lm.make_cache()
        hidden = self.lm.hidden_states(self.lm.embed_ids(token_ids), mask, cache)
        last = hidden[_arange(lengths), lengths - 1]
        nodes = [
            (i, leader, depth) for i, s in enumerate(sets) for leader, depth in zip(s.leaders, s.depths, strict=True)
        ]
        if not nodes:
            return last, hidden[:0, 0]
        rows = {key: row for row, key in enumerate(dict.fromkeys((i, leader) for i, leader, _ in nodes))}
        owner = torch.tensor([i for i, _ in rows], device=mask.device)
        action_ids, action_mask = self.lm.pad([sets[i].rows[leader][:-1] for i, leader in rows])
        cache.batch_select_indices(owner)
        embeds = self.lm.embed_ids(action_ids)
        hidden = self.lm.hidden_states(embeds, torch.cat([mask[owner], action_mask], 1), cache)
        return last, hidden[[rows[i, leader] for i, leader, _ in nodes], [int(depth) for *_, depth in nodes]]

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


def packed_mask(lengths: Sequence[int], paths: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Who attends to whom where a tree of continuations stands behind each prompt.

    Args:
        lengths: of the B prompts.
        paths: for each, which tokens of its tree lie on the path to which, (W, W).

    Returns:
        (B, S, S) with S the longest prompt with its tree: whether a query (row) attends to a key (column). A token of
        the prompt attends to those before it and itself, one of the tree to the prompt and its path. Padding attends
        to itself, too, so that no softmax is empty.
    """
    size = max(length + len(path) for length, path in zip(lengths, paths, strict=True))
    attends = np.tile(np.tri(size, dtype=bool), (len(lengths), 1, 1))
    for row, (length, path) in enumerate(zip(lengths, paths, strict=True)):
        attends[row, length:, length:] = np.eye(size - length, dtype=bool)
        attends[row, length : length + len(path), length : length + len(path)] = path
    return attends


def _lay_out(rows: Sequence[Sequence[int]], norms: Sequence[int]) -> ActionSet:
    tree: dict[tuple[int, ...], int] = {}  # the number of each beginning, in the order met
    leaders: list[int] = []
    for action, row in enumerate(rows):
        for depth in range(1, len(row)):
            if tuple(row[:depth]) not in tree:
                tree[tuple(row[:depth])] = len(leaders)
                leaders.append(action)
    paths = [[path[: len(other)] == other for other in tree] for path in tree]
    sources = [0 if depth == 0 else 1 + tree[tuple(row[:depth])] for row in rows for depth in range(len(row))]
    return ActionSet(
        rows=rows,
        read=np.array([path[-1] for path in tree], np.int64),
        depths=np.array([len(path) - 1 for path in tree], np.int64),
        paths=np.array(paths, bool).reshape(len(tree), len(tree)),
        leaders=np.array(leaders, np.int64),
        targets=np.array([token for row in rows for token in row], np.int64),
        sources=np.array(sources, np.int64),
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

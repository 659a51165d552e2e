"""Samplers: prompts of token ids in, sampled ids with their log-probabilities out.

A local model, a server or another engine can stand behind a `Sampler`; an agent that writes text uses nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from llm_agents.models.language_model import LanguageModel
from llm_agents.runtime.errors import UserError


class Completion(NamedTuple):
    """What was sampled after one prompt. Token in, token out: train on the ids, never on the text.

    Attributes:
        text: without special tokens, and without the stop string that ended it.
        token_ids: as sampled, the end token or the stop string included, (K,).
        log_probs: of each token under the policy that sampled it, at its temperature, (K,).
        stop_reason: ``end`` for the end token, ``stop`` for a stop string, ``length`` if there was no room for more.
    """

    text: str
    token_ids: list[int]
    log_probs: list[float]
    stop_reason: Literal["end", "stop", "length"]


class TokenReader(Protocol):
    """What prompts are written for.

    Attributes:
        tokenizer: of Hugging Face's kind.
    """

    tokenizer: Any

    @property
    def context_length(self) -> int:
        """How many tokens fit in at most, read and written together."""
        ...

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads token ids of its own vocabulary."""
        ...


class Sampler(TokenReader, Protocol):
    """Samples continuations of prompts."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        rngs: Sequence[np.random.Generator],
        max_new_tokens: int,
        temperature: float = 1.0,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Continue each prompt.

        Args:
            prompts: N rows of token ids.
            rngs: the randomness of each row, so that its sample does not depend on the others.
            max_new_tokens: how many tokens are sampled at most.
            temperature: 0 takes the most probable token.
            stop: texts after which a row ends.
        """
        ...


class LocalSampler:
    """Samples from a language model in this process.

    Args:
        lm: put into eval mode.

    Raises:
        UserError: the model does not read tokens of its own vocabulary.
    """

    reads_tokens = True

    def __init__(self, lm: LanguageModel) -> None:
        if not lm.reads_tokens:
            raise UserError("a sampler continues tokens, not encoder features: set text_input to 'words' or 'phrases'")
        self._lm = lm.eval()
        self.tokenizer = lm.tokenizer

    @property
    def context_length(self) -> int:
        return self._lm.context_length

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        rngs: Sequence[np.random.Generator],
        max_new_tokens: int,
        temperature: float = 1.0,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        uniforms = torch.from_numpy(np.stack([rng.random(max_new_tokens) for rng in rngs]))
        texts, *sampled = self._lm.continue_from(
            *self._lm.embed_rows(prompts), max_new_tokens, temperature, uniforms=uniforms, stop=stop
        )
        token_ids, log_probs, mask = (tensor.cpu() for tensor in sampled)
        return [
            self._completion(text, ids[real].tolist(), row[real].tolist(), stop)
            for text, ids, row, real in zip(texts, token_ids, log_probs, mask, strict=True)
        ]

    def _completion(self, text: str, token_ids: list[int], log_probs: list[float], stop: Sequence[str]) -> Completion:
        ends = [text.index(part) for part in stop if part in text]
        if token_ids[-1] == self.tokenizer.eos_token_id:
            reason: Literal["end", "stop", "length"] = "end"
        else:
            reason = "stop" if ends else "length"
        return Completion(text[: min(ends, default=len(text))], token_ids, log_probs, reason)

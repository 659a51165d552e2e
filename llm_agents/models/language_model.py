"""Causal language models behind one interface: read, sample, log-probabilities.

Two classes stand behind it: `TinyLanguageModel`, made from a config and trained from scratch, and
`PretrainedLanguageModel`, any causal LM of the Hugging Face hub. `load_language_model` makes the one that settings ask
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from llm_agents.models.kv_cache import PreallocatedLayer
from llm_agents.models.padding import Embedded, pad_left
from llm_agents.models.sampling import Samples, draw
from llm_agents.runtime.devices import device_of


class LanguageModel(nn.Module):
    """A causal LM with its tokenizer.

    Embeddings, hidden states and logits are float32 outside it, whatever the type of its weights.

    Attributes:
        model: the Hugging Face causal LM.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @property
    def hidden_size(self) -> int:
        return self.model.config.hidden_size

    @property
    def context_length(self) -> int:
        """How many tokens fit into the model at most, read and written together."""
        return self.model.config.get_text_config().max_position_embeddings

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def _dtype(self) -> torch.dtype:
        return cast(nn.Embedding, self.model.get_input_embeddings()).weight.dtype

    @property
    def reads_tokens(self) -> bool:
        """Whether text enters as tokens of the model's own vocabulary, which is also what it writes."""
        return True

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        """Turn texts into what the model reads; by default its own tokens."""
        return self.embed_tokens(texts)

    def embed_tokens(self, texts: Sequence[str]) -> Embedded:
        """Turn texts into tokens of the model's own vocabulary, as input embeddings."""
        token_ids, mask = self.tokenize(texts)
        return Embedded(self.embed_ids(token_ids), mask)

    def embed_rows(self, rows: Sequence[Sequence[int]]) -> Embedded:
        """Turn rows of token ids into input embeddings, padded right."""
        token_ids, mask = self.pad(rows)
        return Embedded(self.embed_ids(token_ids), mask)

    def tokenize(self, texts: Sequence[str], end: bool = False) -> tuple[Tensor, Tensor]:
        """Turn texts into token ids (N, L) and a mask (N, L), padded right; ``end`` closes each with the end token."""
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return self.pad([[*row, self.tokenizer.eos_token_id] for row in rows] if end else rows)

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Pad rows of token ids on the right: a tensor (N, L) and its mask (N, L)."""
        length = max(1, *map(len, rows))
        token_ids = torch.tensor([[*row] + [self.tokenizer.pad_token_id] * (length - len(row)) for row in rows])
        mask = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
        return token_ids.to(self.device), mask.to(self.device)

    def embed_ids(self, token_ids: Tensor) -> Tensor:
        """Look up the input embeddings (..., H) of token ids (...)."""
        return self.model.get_input_embeddings()(token_ids).float()

    def hidden_states(
        self, embeds: Tensor, mask: Tensor, cache: Cache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Compute the final hidden states (N, L, H) of input embeddings (N, L, H).

        Args:
            mask: which positions are real, (N, past + L) bool, those in the cache included; or who attends to whom,
                (N, 1, L, L) bool.
            cache: keys and values of what went before; extended in place.
            positions: (N, L). By default numbered by the mask, so that padding on either side costs no position.
        """
        if positions is None:
            positions = (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -embeds.shape[1] :]
        output = self.model.base_model(
            inputs_embeds=self._prepare(embeds, mask, cache).to(self._dtype),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state.float()

    def _prepare(self, embeds: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        """Change input embeddings (N, L, H) before the first layer; by default nothing is changed."""
        return embeds

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute next-token logits (..., V) of hidden states (..., H)."""
        return self.model.get_output_embeddings()(hidden.to(self._dtype)).float()

    def make_cache(self, capacity: int | None = None) -> Cache:
        """Make an empty cache of what was read: with room for ``capacity`` positions, allocated once, or growing."""
        if capacity is None:
            return DynamicCache(config=self.model.config)
        num_layers = self.model.config.get_text_config().num_hidden_layers
        return Cache(layers=[PreallocatedLayer(capacity) for _ in range(num_layers)])

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 32,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """Continue each prompt, in one batch and without reading a prompt twice; temperature 0 is greedy decoding."""
        return self.continue_from(*self.embed_texts(prompts), max_new_tokens, temperature, generator)

    @torch.inference_mode()
    def continue_from(
        self,
        embeds: Tensor,
        mask: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        uniforms: Tensor | None = None,
        stop: Sequence[str] = (),
    ) -> Samples:
        """`sample` from input embeddings (N, L, H) with mask (N, L).

        Args:
            uniforms: what decides each draw, (N, ``max_new_tokens``) in [0, 1), instead of the generator: so that a
                row's sample depends on nothing but its own numbers.
            stop: texts after which a row ends.
        """
        embeds, mask = pad_left(embeds, mask)
        cache = self.make_cache(embeds.shape[1] + max_new_tokens)
        logits = self.logits(self.hidden_states(embeds, mask, cache)[:, -1])
        running = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        tokens, log_probs, real = [], [], []
        for step in range(max_new_tokens):
            token, log_prob = draw(logits, temperature, generator, None if uniforms is None else uniforms[:, step])
            tokens.append(torch.where(running, token, self.tokenizer.pad_token_id))
            log_probs.append(torch.where(running, log_prob, 0.0))
            real.append(running)
            running = running & (token != self.tokenizer.eos_token_id)
            if stop:
                running = running & ~self._contains(torch.stack(tokens, 1), stop)
            if not running.any():
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            logits = self.logits(self.hidden_states(self.embed_ids(tokens[-1][:, None]), mask, cache)[:, -1])
        token_ids = torch.stack(tokens, 1)
        texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return Samples(texts, token_ids, torch.stack(log_probs, 1), torch.stack(real, 1))

    def _contains(self, token_ids: Tensor, stop: Sequence[str]) -> Tensor:
        """Which rows (N, K) have one of some texts in what they say, (N,) bool."""
        texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        found = [any(part in text for part in stop) for text in texts]
        return torch.tensor(found, device=token_ids.device)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that training changes, by name: what a checkpoint of this model holds."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

"""Causal language models behind one small interface: load, read, sample, log-probabilities.

`LanguageModel.load` takes any Hugging Face causal LM by name or path, with LoRA by config; and ``tiny``, the embedded
default, a small Llama-style decoder made from a config and trained from scratch. ``tiny`` reads text through a frozen
sentence encoder, so that words it was never trained on still carry meaning, and writes in a small byte-level
vocabulary of its own, in which every text can be written; where speed counts more it reads in that vocabulary, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from pydantic import Field, field_validator, model_validator
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from llm_agents.models.kv_cache import PreallocatedLayer
from llm_agents.models.padding import Embedded, pad_left
from llm_agents.models.sampling import Samples, draw
from llm_agents.models.short_convolution import ShortConvolution, positions_before
from llm_agents.models.text_encoder import DEFAULT_ENCODER, TextEncoder, find_pretrained
from llm_agents.models.tokenizer import train_tokenizer
from llm_agents.runtime.config import Settings
from llm_agents.runtime.devices import AUTO, device_of, find_device, require_device_name
from llm_agents.runtime.errors import UserError

TINY = "tiny"


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al., 2021) on the linear layers of a pretrained model."""

    rank: int = Field(8, ge=1)
    """Rank of each adapter."""
    alpha: int = Field(16, gt=0)
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapter."""


class LanguageModelSettings(Settings):
    """Which language model, and how much of it is trained."""

    name: str = TINY
    """``tiny``, or the name or path of a Hugging Face causal LM."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights (pretrained models only)."""
    text_input: Literal["encoder", "words", "phrases"] = "encoder"
    """``tiny`` reads text through a frozen sentence encoder, so that words it was never trained on carry meaning; or
    in its own vocabulary, which is many times faster where texts are new at every step: of words, or of phrases, in
    which words that often stand together are one token. The words of goals are tokens of their own in both, so that
    goals that combine them anew are read in known tokens."""
    encoder: str = DEFAULT_ENCODER
    """``tiny``: that sentence encoder."""
    hidden_size: int = Field(128, ge=8)
    """``tiny``: width."""
    num_layers: int = Field(3, ge=1)
    """``tiny``: depth."""
    num_heads: int = Field(4, ge=1)
    """``tiny``: attention heads."""
    initializer_range: float = Field(0.02, gt=0)
    """``tiny``: standard deviation of its initial weights. The default is the one of large models; a narrow model may
    learn faster from ``1 / sqrt(hidden_size)``."""
    rope_theta: float = Field(10_000.0, gt=1)
    """``tiny``: base of its rotary position embedding (Su et al., 2021). The default is for long texts and wide
    heads; with less, such as 50, heads of few dimensions turn faster over neighbours (docs/lab_notes.md)."""
    short_convolution: int = Field(1, ge=1)
    """``tiny``: how many tokens its first layer reads together, the last one included. Where a name has several words,
    such as "red ball", 4 lets it learn to find them in a list in some hundred steps of associative recall
    (``warm_start.num_associative_recall_steps``); without it thousands do not suffice (docs/lab_notes.md)."""
    vocab_size: int = Field(512, ge=300)
    """``tiny``: size of its byte-level vocabulary."""
    max_length: int = Field(1024, ge=16)
    """``tiny``: the most tokens it reads and writes together."""
    device: str = AUTO
    """``auto`` for the first CUDA GPU if there is one, else the CPU, so that a run can go on or be judged on another
    machine; or ``cpu``, ``cuda``, ``cuda:1``, ``mps``. Nothing is tested on ``mps``."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights of a pretrained model; ``bfloat16`` needs ``lora``. What is trained is float32 in either case,
    since the steps of an optimizer are often smaller than bfloat16 can tell."""

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, name: str) -> str:
        return require_device_name(name)

    @model_validator(mode="after")
    def _trains_in_full_precision(self) -> LanguageModelSettings:
        if self.dtype != "float32" and self.lora is None:
            raise ValueError(f"dtype {self.dtype} is for weights that stay as they are: set lora, or dtype to float32")
        return self


class LanguageModel(nn.Module):
    """A causal LM with its tokenizer, and for ``tiny`` the encoder it reads through.

    Embeddings, hidden states and logits are float32 outside it, whatever the type of its weights.

    Attributes:
        model: the Hugging Face causal LM.
        tokenizer: its tokenizer.
        encoder: the frozen text encoder of ``tiny``; None for a pretrained model.
    """

    encoder: TextEncoder | None
    text_projection: nn.Linear | None
    convolution: ShortConvolution | None

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer,
        encoder: TextEncoder | None = None,
        short_convolution: int = 1,
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        # Frozen and shared: neither a submodule nor part of any checkpoint.
        self.__dict__["encoder"] = encoder
        self.text_projection = nn.Linear(encoder.dim, self.hidden_size) if encoder is not None else None
        self.convolution = ShortConvolution(self.hidden_size, short_convolution) if short_convolution > 1 else None

    @classmethod
    def load(
        cls,
        settings: LanguageModelSettings | str = TINY,
        *,
        corpus: Sequence[str] = (),
        goal_words: Sequence[str] = (),
        encoder: TextEncoder | None = None,
    ) -> LanguageModel:
        """A model ready for training, on its device; new weights come from torch's global generator of the CPU.

        Args:
            settings: or just the model's name.
            corpus: texts from which ``tiny`` learns its vocabulary.
            goal_words: words that no phrase of it may hold.
            encoder: the text encoder of ``tiny`` if it is already loaded; it follows to the model's device.

        Raises:
            UserError: the model cannot be found or reached, has no weights, LoRA is asked of ``tiny``, or there is no
                such device.
        """
        if isinstance(settings, str):
            settings = LanguageModelSettings(name=settings)
        if settings.name == TINY:
            if settings.lora is not None:
                raise UserError("lora adapts pretrained models: 'tiny' is trained from scratch, leave lora out")
            if settings.text_input == "encoder":
                encoder = encoder or TextEncoder.load(settings.encoder)
                return cls._tiny(settings, train_tokenizer(corpus, settings.vocab_size), encoder)
            apart = goal_words if settings.text_input == "phrases" else None
            return cls._tiny(settings, train_tokenizer(corpus, settings.vocab_size, apart))
        return cls._pretrained(settings)

    @classmethod
    def _tiny(
        cls, settings: LanguageModelSettings, tokenizer: PreTrainedTokenizerFast, encoder: TextEncoder | None = None
    ) -> LanguageModel:
        config = LlamaConfig(
            vocab_size=settings.vocab_size,
            hidden_size=settings.hidden_size,
            intermediate_size=int(settings.hidden_size * 2.75),
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            max_position_embeddings=settings.max_length,
            rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
            initializer_range=settings.initializer_range,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        lm = cls(TINY, LlamaForCausalLM(config), tokenizer, encoder, settings.short_convolution)
        return lm.to(find_device(settings.device))

    @classmethod
    def _pretrained(cls, settings: LanguageModelSettings) -> LanguageModel:
        device = find_device(settings.device)
        try:
            path = find_pretrained(settings.name)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, settings.dtype))
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"language model {settings.name!r} cannot be loaded from a folder or the model hub: {reason}"
            ) from None
        if tokenizer.eos_token_id is None:
            raise UserError(f"language model {settings.name!r} has no end token: what it writes would never end")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if settings.lora is not None:
            _add_lora(model, settings.lora)
        return cls(settings.name, model, tokenizer).to(device)

    def _apply(self, fn, recurse=True):
        # The encoder is no submodule, but follows to another device; its precision stays.
        super()._apply(fn, recurse)
        if self.encoder is not None:
            self.encoder.to(self.device)
        return self

    @property
    def hidden_size(self) -> int:
        return self.model.config.hidden_size

    @property
    def context_length(self) -> int:
        """The most tokens that fit into the model, read and written together."""
        return self.model.config.get_text_config().max_position_embeddings

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def _dtype(self) -> torch.dtype:
        return cast(nn.Embedding, self.model.get_input_embeddings()).weight.dtype

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        """Texts as the model reads them: ``tiny`` through its encoder, a pretrained model through its own tokens."""
        if self.encoder is None or self.text_projection is None:
            return self.embed_tokens(texts)
        features, mask = self.encoder.encode(texts)
        return Embedded(self.text_projection(features.to(self.device)), mask.to(self.device))

    def embed_tokens(self, texts: Sequence[str]) -> Embedded:
        """Texts as tokens of the model's own vocabulary, which is also what it writes."""
        token_ids, mask = self.tokenize(texts)
        return Embedded(self.embed_ids(token_ids), mask)

    def embed_rows(self, rows: Sequence[Sequence[int]]) -> Embedded:
        """Rows of token ids of the model's own vocabulary as input embeddings."""
        token_ids, mask = self.pad(rows)
        return Embedded(self.embed_ids(token_ids), mask)

    def tokenize(self, texts: Sequence[str], end: bool = False) -> tuple[Tensor, Tensor]:
        """Token ids (N, L) and mask (N, L), padded right; with ``end``, each text closed by the end token."""
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return self.pad([[*row, self.tokenizer.eos_token_id] for row in rows] if end else rows)

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Rows of token ids as a tensor (N, L) and its mask (N, L), padded right."""
        length = max(1, *map(len, rows))
        token_ids = torch.tensor([[*row] + [self.tokenizer.pad_token_id] * (length - len(row)) for row in rows])
        mask = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
        return token_ids.to(self.device), mask.to(self.device)

    def embed_ids(self, token_ids: Tensor) -> Tensor:
        """Token ids (...) of the model's own vocabulary as input embeddings (..., H)."""
        return self.model.get_input_embeddings()(token_ids).float()

    def hidden_states(
        self, embeds: Tensor, mask: Tensor, cache: Cache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """The final hidden states (N, L, H) of input embeddings (N, L, H).

        Args:
            mask: which positions are real, (N, past + L) bool, those in the cache included; or who attends to whom,
                (N, 1, L, L) bool.
            cache: keys and values of what went before; extended in place.
            positions: (N, L). By default numbered by the mask, so that padding on either side costs no position.
        """
        if positions is None:
            positions = (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -embeds.shape[1] :]
        if self.convolution is not None:
            embeds = self._convolve(self.convolution, embeds, mask, cache)
        output = self.model.base_model(
            inputs_embeds=embeds.to(self._dtype),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state.float()

    def _convolve(self, convolution: ShortConvolution, embeds: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        """What was read before stands in the last layer of the cache, so that it is selected as keys and values are."""
        known = embeds
        if cache is not None:
            history = cast(DynamicLayer, cache.layers[-1])
            known = history.update(embeds[:, None], embeds[:, None, :, :0])[0][:, 0]
        return convolution(known, positions_before(mask), embeds.shape[1])

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., H)."""
        return self.model.get_output_embeddings()(hidden.to(self._dtype)).float()

    def make_cache(self, capacity: int | None = None) -> Cache:
        """An empty cache of what was read: with room for ``capacity`` positions, allocated once, or growing."""
        if capacity is None:
            cache: Cache = DynamicCache(config=self.model.config)
        else:
            num_layers = self.model.config.get_text_config().num_hidden_layers
            cache = Cache(layers=[PreallocatedLayer(capacity) for _ in range(num_layers)])
        if self.convolution is not None:
            cache.layers.append(DynamicLayer() if capacity is None else PreallocatedLayer(capacity))
        return cache

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 32,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """Continue each prompt, in one batch and without reading a prompt twice; 0 is greedy decoding."""
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
    ) -> Samples:
        """`sample` from input embeddings (N, L, H) with mask (N, L).

        Args:
            uniforms: what decides each draw, (N, ``max_new_tokens``) in [0, 1), instead of the generator: so that a
                row's sample depends on nothing but its own numbers.
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
            if not running.any():
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            logits = self.logits(self.hidden_states(self.embed_ids(tokens[-1][:, None]), mask, cache)[:, -1])
        token_ids = torch.stack(tokens, 1)
        texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return Samples(texts, token_ids, torch.stack(log_probs, 1), torch.stack(real, 1))

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes: what a checkpoint of this model holds."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def _add_lora(model: nn.Module, settings: LoraSettings) -> None:
    """Freeze the model and put trainable low-rank adapters, in float32, beside its linear layers."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules="all-linear"
    )
    model.requires_grad_(False)
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()

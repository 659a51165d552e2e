"""The embedded language model: a small Llama-style decoder, made from a config and trained from scratch.

It reads text through a frozen sentence encoder, so that words it was never trained on still carry meaning, and writes
in a small byte-level vocabulary of its own, in which every text can be written. Where speed counts more it reads in
that vocabulary, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicLayer

from llm_agents.models.kv_cache import PreallocatedLayer
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.padding import Embedded
from llm_agents.models.settings import LanguageModelSettings
from llm_agents.models.short_convolution import ShortConvolution, positions_before
from llm_agents.models.text_encoder import DEFAULT_ENCODER, TextEncoder
from llm_agents.models.tokenizer import train_tokenizer
from llm_agents.runtime.devices import find_device

TINY: Literal["tiny"] = "tiny"


class TinySettings(LanguageModelSettings):
    """A model that is trained from scratch."""

    name: Literal["tiny"] = TINY
    """``tiny``."""
    text_input: Literal["encoder", "words", "phrases"] = "encoder"
    """How text enters: through a frozen sentence encoder, so that words it was never trained on carry meaning; or in
    its own vocabulary, which is many times faster where texts are new at every step: of words, or of phrases, in which
    words that often stand together are one token. The words of goals are tokens of their own in both, so that goals
    that combine them anew are read in known tokens."""
    encoder: str = DEFAULT_ENCODER
    """The sentence encoder, for ``text_input: encoder``."""
    hidden_size: int = Field(128, ge=8)
    """Width."""
    num_layers: int = Field(3, ge=1)
    """Depth."""
    num_heads: int = Field(4, ge=1)
    """Attention heads."""
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of the initial weights. The default is the one of large models; a narrow model may learn
    faster from ``1 / sqrt(hidden_size)``."""
    rope_theta: float = Field(10_000.0, gt=1)
    """Base of the rotary position embedding (Su et al., 2021). The default is for long texts and wide heads; with less,
    such as 50, heads of few dimensions turn faster over neighbours (docs/lab_notes.md)."""
    short_convolution: int = Field(1, ge=1)
    """How many tokens the first layer reads together, the last one included. Where a name has several words, such as
    "red ball", 4 lets the model learn to find them in a list in some hundred steps of associative recall
    (``warm_start.num_associative_recall_steps``); without it thousands do not suffice (docs/lab_notes.md)."""
    vocab_size: int = Field(512, ge=300)
    """Size of the byte-level vocabulary."""
    max_length: int = Field(1024, ge=16)
    """The most tokens that are read and written together."""

    @model_validator(mode="after")
    def _reads_through_the_encoder_it_names(self) -> TinySettings:
        if self.text_input != "encoder" and self.encoder != DEFAULT_ENCODER:
            raise ValueError(f"encoder does nothing with text_input {self.text_input}: set text_input to encoder")
        return self


class TinyLanguageModel(LanguageModel):
    """A small Llama-style decoder.

    Attributes:
        encoder: the frozen text encoder through which it reads; None where it reads its own tokens.
        convolution: reads each token with those just before it; None for no such thing.
    """

    encoder: TextEncoder | None

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        encoder: TextEncoder | None = None,
        short_convolution: int = 1,
    ) -> None:
        super().__init__(model, tokenizer)
        # Frozen and shared: neither a submodule nor part of any checkpoint.
        self.__dict__["encoder"] = encoder
        self.text_projection = nn.Linear(encoder.dim, self.hidden_size) if encoder is not None else None
        self.convolution = ShortConvolution(self.hidden_size, short_convolution) if short_convolution > 1 else None

    @classmethod
    def load(
        cls,
        settings: TinySettings,
        corpus: Sequence[str] = (),
        goal_words: Sequence[str] = (),
        encoder: TextEncoder | None = None,
    ) -> TinyLanguageModel:
        """Make an untrained model on its device; its weights come from torch's global generator of the CPU.

        Args:
            corpus: texts from which it learns its vocabulary.
            goal_words: words that no phrase of the vocabulary may hold.
            encoder: the text encoder if it is already loaded; it follows to the model's device.

        Raises:
            UserError: the encoder cannot be found, or there is no such device.
        """
        if settings.text_input == "encoder":
            encoder = encoder or TextEncoder.load(settings.encoder)
        tokenizer = train_tokenizer(
            corpus, settings.vocab_size, goal_words if settings.text_input == "phrases" else None
        )
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
        reads_through = encoder if settings.text_input == "encoder" else None
        lm = cls(LlamaForCausalLM(config), tokenizer, reads_through, settings.short_convolution)
        return lm.to(find_device(settings.device))

    def _apply(self, fn, recurse=True):
        # The encoder is no submodule, but follows to another device; its precision stays.
        super()._apply(fn, recurse)
        if self.encoder is not None:
            self.encoder.to(self.device)
        return self

    @property
    def reads_tokens(self) -> bool:
        return self.encoder is None

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        if self.encoder is None or self.text_projection is None:
            return self.embed_tokens(texts)
        features, mask = self.encoder.encode(texts)
        return Embedded(self.text_projection(features.to(self.device)), mask.to(self.device))

    def make_cache(self, capacity: int | None = None) -> Cache:
        cache = super().make_cache(capacity)
        if self.convolution is not None:
            cache.layers.append(DynamicLayer() if capacity is None else PreallocatedLayer(capacity))
        return cache

    def _prepare(self, embeds: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        """Convolve, where there is a convolution.

        What was read before stands in the last layer of the cache, so that it is selected as keys and values are.
        """
        if self.convolution is None:
            return embeds
        known = embeds
        if cache is not None:
            history = cast(DynamicLayer, cache.layers[-1])
            known = history.update(embeds[:, None], embeds[:, None, :, :0])[0][:, 0]
        return self.convolution(known, positions_before(mask), embeds.shape[1])

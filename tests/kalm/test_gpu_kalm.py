"""KALM with its language model on a GPU: the losses and predictions of a CPU, and checkpoints that either reads.

Where there is no GPU, `second_device` stands in for it. The text encoder has random weights: none need be installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.running_episodes import first_actions
from helpers.worlds import BOTH, World
from transformers import BertConfig, BertModel

from kalm.action_space import ProposalSettings
from kalm.dynamics import LMDynamics
from kalm.generation import GenerationSettings, generate
from kalm.grounding import Grounding, GroundingData, GroundingSettings
from kalm.judging import start_states
from kalm.lm_agent import TrajectoryLMAgent
from kalm.offline import ALGORITHMS, OfflineData, PolicyAgent
from kalm.planning import SearchSettings, search
from kalm.recipe import KalmRecipe
from kalm.settings import KalmConfig
from kalm.specs import training_specs
from kalm.stages import Collect, Imagine, LearnModels
from kalm.trajectory_lm import StateNormalizer, TrajectoryLM
from kalm.verification import VerificationSettings, verify
from kalm.workspace import Workspace
from llm_agents.models.loading import load_language_model
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.models.tiny import TinySettings
from llm_agents.models.tokenizer import train_tokenizer
from llm_agents.registry.recipes import load_agent
from llm_agents.runtime.devices import describe_device, device_of, to_device
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import seeded
from llm_agents.training.loop import fit

pytestmark = pytest.mark.filterwarnings("ignore:for .*meta parameter:UserWarning")

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
SMOKE = Path(__file__).parents[2] / "configs" / "kalm" / "smoke.yaml"
SETTINGS = GroundingSettings(batch_size=16, max_steps=4)
SMALL_POLICY = {"num_steps": 2, "batch_size": 16, "hidden_size": 16, "num_layers": 2}


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    with seeded(0, "weights/language_model"):
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(folder)
    train_tokenizer([], 300).save_pretrained(folder)
    return folder


def make_model(world: World, normalizer: StateNormalizer, folder: Path, where: str = "auto") -> TrajectoryLM:
    settings = TinySettings(
        encoder=str(folder), hidden_size=16, num_layers=1, num_heads=2, vocab_size=300, device=where
    )
    with seeded(0, "weights/trajectory_lm"):
        return TrajectoryLM(load_language_model(settings), world.actions, normalizer).eval()


@pytest.fixture
def here(device: torch.device, world: World, normalizer: StateNormalizer, encoder_folder: Path) -> TrajectoryLM:
    return make_model(world, normalizer, encoder_folder, "cpu")


@pytest.fixture
def there(device: torch.device, world: World, normalizer: StateNormalizer, encoder_folder: Path) -> TrajectoryLM:
    """The same model on the device."""
    model = make_model(world, normalizer, encoder_folder)
    tensors = [*model.parameters(), *model.buffers(), *model.lm.encoder.parameters()]
    assert {tensor.device for tensor in tensors} == {device}
    return model


@BOTH
def test_a_batch_has_the_same_loss_and_gradient(here, there, trajectories, transitions, device):
    batch = GroundingData(trajectories, transitions, SETTINGS, seed=0).batch(0)
    losses, gradients = [], []
    for model in (here, there):
        grounding = Grounding(model, SETTINGS)
        loss, metrics = grounding.loss(to_device(batch, model.device))
        loss.backward()
        losses.append({"loss": loss.item(), **metrics})
        gradients.append({n: p.grad.cpu() for n, p in grounding.named_parameters() if p.grad is not None})
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, **CLOSE, msg=lambda text, n=name: f"{n}: {text}")


@BOTH
def test_predictions_and_decisions_are_the_same_and_come_back_to_the_cpu(world, here, there, transitions):
    states, actions = transitions.states[:6], world.random_actions(6, 5)
    expected = LMDynamics(here).outcomes(states, actions)
    torch.testing.assert_close(LMDynamics(there).outcomes(states, actions), expected, **CLOSE)
    specs = training_specs(world.task, "gate", 3, seed=0)
    decisions = [first_actions(TrajectoryLMAgent(model, 0.0), specs, world.make) for model in (here, there)]
    np.testing.assert_allclose(decisions[1], decisions[0], atol=1e-6)


@BOTH
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_device_imagines_and_verifies(world, there, normalizer, temperature):
    specs = training_specs(world.task, "gate", 4, seed=0)
    starts = start_states(world.make, specs)
    episodes = generate(there, world.task, specs, starts, GenerationSettings(max_steps=3), temperature, piece_steps=2)

    @torch.inference_mode()
    def propose(instructions, states):
        return there.first_action_logits(instructions, states.to(there.device))

    settings = SearchSettings(max_steps=2, proposals=ProposalSettings(num_candidates=8))
    episodes += search(LMDynamics(there), world.task, world.actions, propose, specs, starts, settings)
    verdict = verify(episodes, world.task, LMDynamics(there), normalizer.step_std, VerificationSettings())
    assert len(verdict.accepted) == 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_policy_on_the_cpu_reads_with_an_encoder_on_the_device(
    algorithm, device, world, normalizer, trajectories, encoder_folder, tmp_path
):
    settings = ALGORITHMS[algorithm].Settings(**SMALL_POLICY)
    decisions = []
    for where in (torch.device("cpu"), device):
        encoder = TextEncoder.load(str(encoder_folder)).to(where)
        with seeded(0, "weights/policy"):
            policy = ALGORITHMS[algorithm](encoder.dim, normalizer, world.actions, settings)
        data = OfflineData(encoder, trajectories, trajectories, 0.5, settings.batch_size, seed=0)
        run = Run.create(tmp_path / where.type, "toy", {})
        fit(policy, settings, data.batch, run, "policy", after_step=policy.after_step, show_progress=False)
        assert device_of(policy) == torch.device("cpu")
        specs = training_specs(world.task, "gate", 8, seed=0)
        decisions.append(first_actions(PolicyAgent(policy, encoder, 0.5), specs, world.make))
        policy_there = PolicyAgent(policy.to(device), encoder, 0.5)
        assert first_actions(policy_there, specs, world.make) == decisions[-1]
    assert decisions[0] == decisions[1]


MICRO = {
    "num_workers": 1,
    "data": {"num_rollouts": 100, "num_random_rollouts": 4},
    "grounding": {"num_steps": 2, "batch_size": 16},
    "mlp_dynamics": {"num_steps": 2, "hidden_size": 16},
    "imagination": {"num_rephrase": 8, "num_easy": 80, "num_hard": 8},
    "search": {"max_steps": 2},
    "generation": {"num_samples": 1, "max_steps": 2},
    "verification": {"num_replayed": 2, "min_replay_success": 0.0, "max_disagreement": 100.0},
    "policy": {**SMALL_POLICY, "imagined_fractions": [0.5]},
    "evaluation": {"num_episodes": 1, "num_validation": 1},
}


def test_the_stages_run_on_the_device_and_the_agents_act_on_the_cpu(device, encoder_folder, tmp_path):
    model = {"encoder": str(encoder_folder), "hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 300}
    config = KalmConfig.model_validate({**MICRO, "language_model": model, "text_encoder": str(encoder_folder)})
    run = Run.create(tmp_path / "run", "kalm", config.model_dump(mode="json"))
    workspace = Workspace(config, run)
    for stage in (Collect, LearnModels, Imagine):
        stage(workspace).run()
    assert workspace.language_model.device == device
    run.config["language_model"]["device"] = "cpu"
    agent = load_agent(KalmRecipe(), run, "lm")
    assert agent._model.device == torch.device("cpu")
    assert len(first_actions(agent, training_specs(workspace.task, "gate", 2, seed=0))) == 2


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_the_smoke_config_runs_on_a_gpu_in_several_processes(device, encoder_folder, tmp_path, capsys):
    data = yaml.safe_load(SMOKE.read_text())
    data.pop("recipe")
    data["text_encoder"] = data["language_model"]["encoder"] = str(encoder_folder)
    data["verification"]["max_disagreement"] = 100.0
    config = KalmConfig.model_validate(data)
    assert config.num_workers > 1
    run = Run.create(tmp_path / "run", "kalm", config.model_dump(mode="json"))
    KalmRecipe().run(config, run)
    shown = capsys.readouterr().out
    assert f"ground tiny on {describe_device(device)}" in shown
    assert all(agent in shown for agent in KalmRecipe().agents(run))

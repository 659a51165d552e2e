"""What the stages of a KALM run share: the environment, the data, the models; all of it in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from envs.episodes import Episode
from envs.goals import Split
from envs.language import LanguageEnv, LanguageTask
from kalm.action_space import ActionSpace, action_space
from kalm.dynamics import Dynamics, LMDynamics, MLPDynamics
from kalm.generation import generate
from kalm.grounding import Grounding
from kalm.judging import start_states
from kalm.offline import ALGORITHMS, OfflineAlgorithm
from kalm.planning import search
from kalm.settings import KalmConfig, Method
from kalm.specs import imagination_specs
from kalm.trajectories import Trajectories, Transitions
from kalm.trajectory_lm import StateNormalizer, TrajectoryLM
from kalm.verification import Verdict, replay, verdict_row, verify
from llm_agents.models.loading import load_language_model
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.models.tiny import TinySettings
from llm_agents.registry.environments import make_environment
from llm_agents.rollouts.panels import Column
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import seeded, stream, stream_seed
from llm_agents.training.checkpoints import load_weights

UNSEEN: tuple[Split, ...] = ("rephrase", "easy", "hard")
COLUMNS = (
    Column("train", "train"),
    Column("rephrase", "rephrase", "given"),
    Column("rephrase (new words)", "rephrase", "new"),
    Column("easy", "easy"),
    Column("hard", "hard"),
)
GROUNDING, MLP_DYNAMICS = "grounding", "mlp_dynamics"  # the checkpoints of the models


class Workspace:
    """A run of KALM, with what its stages have made so far."""

    def __init__(self, config: KalmConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.make_env = partial(make_environment, config.environment)

    @classmethod
    def open(cls, folder: Path) -> Workspace:
        """Open the workspace of a run, in any process."""
        run = Run.open(folder)
        return cls(KalmConfig.model_validate(run.config), run)

    # The environment and its goals

    @cached_property
    def task(self) -> LanguageTask:
        return self._probe.task

    @cached_property
    def actions(self) -> ActionSpace:
        return action_space(self._probe.action_space, self.config.action_bins)

    @cached_property
    def _probe(self) -> LanguageEnv:
        return self.make_env()

    def unseen_specs(self, split: Split) -> list[EpisodeSpec]:
        """Return what is imagined for a split of unseen goals.

        Raises:
            UserError: there are too few for each family of goals to get one.
        """
        count = getattr(self.config.imagination, f"num_{split}")
        return imagination_specs(self.task, split, count, self.config.seed)

    # The data

    @property
    def features_path(self) -> Path:
        """Where the features of all instructions are, once they are computed."""
        return self.run.folder / "text_features.safetensors"

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder, with the features of all texts of the run in its cache once they are computed."""
        encoder = TextEncoder.load(self.config.text_encoder)
        if self.features_path.exists():
            encoder.load_cache(self.features_path)
        return encoder

    @cached_property
    def real(self) -> Trajectories:
        """The expert's rollouts for training goals."""
        return Trajectories.of(self.run.episodes("real").read())

    @cached_property
    def transitions(self) -> Transitions:
        """Every transition seen in the environment for training: the expert's and those of random rollouts."""
        random = self.run.episodes("random_rollouts").read()
        return Transitions.of(self.real, Trajectories.of(random)) if random else Transitions.of(self.real)

    @cached_property
    def normalizer(self) -> StateNormalizer:
        """Measured on the data; without data, to load weights into, one of the same shape."""
        if self.run.episodes("real").files:
            return StateNormalizer.of(self.transitions.states, self.transitions.next_states)
        return StateNormalizer(*(torch.ones(self._probe.state.shape[0]) for _ in range(3)))

    @property
    def imagined_methods(self) -> list[Method]:
        """The methods by which something was imagined that passed verification, or by which it will be."""

        def may_have(method: Method) -> bool:
            was_imagined = (self.run.folder / f"verifier_{method}.json").exists()
            return not was_imagined or bool(self.run.episodes(f"imagined_{method}").files)

        return [method for method in self.config.imagination.methods if may_have(method)]

    # The models; their weights depend on the seed alone

    def new_grounding(self) -> Grounding:
        """Make the untrained language model with the tasks that ground it."""
        corpus = [phrasing for goal in self.task.goals("train") for phrasing in goal.phrasings]
        with seeded(self.config.seed, "weights/trajectory_lm"):
            lm = load_language_model(self.config.language_model, corpus=corpus, encoder=self._shared_encoder)
            model = TrajectoryLM(lm, self.actions, self.normalizer)
        return Grounding(model, self.config.grounding)

    @property
    def _shared_encoder(self) -> TextEncoder | None:
        """The encoder through which the language model reads, if it is the one that policies read through."""
        settings = self.config.language_model
        shared = isinstance(settings, TinySettings) and settings.encoder == self.config.text_encoder
        return self.encoder if shared else None

    def new_mlp_dynamics(self) -> MLPDynamics:
        """Make the untrained dynamics of the ablation."""
        with seeded(self.config.seed, "weights/mlp_dynamics"):
            return MLPDynamics(self.actions, self.normalizer, self.config.mlp_dynamics)

    def new_policy(self) -> OfflineAlgorithm:
        """Make an untrained policy, with what is trained alongside it."""
        algorithm = ALGORITHMS[self.config.policy.algorithm]
        with seeded(self.config.seed, "weights/policy"):
            return algorithm(self.encoder.dim, self.normalizer, self.actions, self.config.policy)

    @cached_property
    def language_model(self) -> TrajectoryLM:
        """The grounded language model."""
        grounding = self.new_grounding()
        load_weights(grounding, self.run, GROUNDING)
        return grounding.model

    @cached_property
    def mlp_dynamics(self) -> MLPDynamics:
        """The trained dynamics of the ablation."""
        mlp = self.new_mlp_dynamics()
        load_weights(mlp, self.run, MLP_DYNAMICS)
        return mlp

    def dynamics(self, method: Method) -> Dynamics:
        """Return the learned dynamics that a method plans in, or is verified by."""
        return self.mlp_dynamics if method == "search_mlp" else LMDynamics(self.language_model)

    # Imagination

    def imagine(self, method: Method, specs: list[EpisodeSpec]) -> list[Episode]:
        """Imagine one rollout for each spec; by ``lm_sample`` several."""
        config, seed = self.config, stream_seed(self.config.seed, "imagination/part", specs[0].seed)
        starts = start_states(self.make_env, specs)
        if method in ("search", "search_mlp"):
            dynamics = self.dynamics(method)
            return search(dynamics, self.task, self.actions, self._propose, specs, starts, config.search, seed)
        copies, temperature = 1, 0.0
        if method == "lm_sample":
            copies, temperature = config.generation.num_samples, config.generation.temperature
        return generate(
            self.language_model,
            self.task,
            specs * copies,
            np.tile(starts, (copies, 1)),
            config.generation,
            temperature,
            seed,
            piece_steps=config.grounding.max_steps,
        )

    @torch.inference_mode()
    def _propose(self, instructions: Sequence[str], states: Tensor) -> Tensor:
        model = self.language_model
        return model.first_action_logits(instructions, states.to(model.device))

    def verify(self, method: Method, episodes: Sequence[Episode]) -> Verdict:
        """Judge imagined rollouts; the environment is not asked."""
        dynamics, unit = self.dynamics(method), self.normalizer.step_std
        return verify(episodes, self.task, dynamics, unit, self.config.verification)

    def verdict_row(self, episodes: Sequence[Episode], verdict: Verdict) -> dict[str, float]:
        """Say what verification says of imagined rollouts, and on a sample of them what the environment says."""
        rng = stream(self.config.seed, "kalm/replayed", episodes[0].seed)
        size = min(self.config.verification.num_replayed, len(episodes))
        sample = rng.choice(len(episodes), size, replace=False)
        return verdict_row(verdict, sample, replay(self.make_env, [episodes[index] for index in sample]))

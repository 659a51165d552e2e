"""PPO of stable-baselines3 on the state and the goal's sentence embedding: the symbolic baseline of the LLM agents.

``llm-agents train configs/symbolic_ppo/babyai_goto.yaml``. See `llm_agents.training.sb3` for the training, and
`kalm.finetune` for the same from a policy that was trained offline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pydantic import Field
from stable_baselines3 import PPO

from envs.goals import unknown
from envs.language import LanguageEnv
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.evaluation.evaluate import EvaluationSettings, evaluate_agents, make_panels
from llm_agents.models.grid_features import GridFeatures
from llm_agents.models.text_encoder import DEFAULT_ENCODER, TextEncoder
from llm_agents.registry.environments import make_environment
from llm_agents.registry.recipes import Recipe, References
from llm_agents.rollouts.observation import AgentObservation
from llm_agents.rollouts.panels import Column, phrasing_columns
from llm_agents.rollouts.rollout import ActionOutput, AnyAgent
from llm_agents.runtime.config import Settings, parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.sb3 import GoalObservation, Place, SB3TrainingSettings, SentenceEmbeddings, Training, observe

NAME, GREEDY = "symbolic_ppo", "+greedy"


class SymbolicPPOSettings(SB3TrainingSettings):
    """How the policy is trained, and what it looks like."""

    network: Literal["mlp", "cnn"] = "mlp"
    """What reads the state; ``cnn`` puts convolutions before it where the environment says that it holds a grid."""
    hidden_size: int = Field(128, ge=1)
    """Width of the two hidden layers of policy and value."""


class SymbolicPPOConfig(Settings):
    """A policy on the state and the goal's sentence embedding, trained by stable-baselines3."""

    renamed: ClassVar[Mapping[str, str]] = {"sb3": "ppo"}

    environment: str = "envs:BabyAIText-v0"
    """Gymnasium id of a `LanguageEnv`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the environment."""
    seed: int = Field(0, ge=0)
    """Seed of weights, goals and starts. The panels have a seed of their own."""
    num_workers: int = Field(2, ge=1)
    """Processes for judging. No number depends on it."""
    encoder: str = DEFAULT_ENCODER
    """Text encoder whose sentence embedding stands for the goal."""
    ppo: SymbolicPPOSettings = SymbolicPPOSettings()
    evaluation: EvaluationSettings = EvaluationSettings()


class SymbolicPPORecipe(Recipe):
    """PPO on state and goal embedding: what language models are to be compared with."""

    Config = SymbolicPPOConfig

    def run(self, config: SymbolicPPOConfig, run: Run) -> None:
        """Train in rounds, then judge.

        Raises:
            UserError: the environment's actions are none that the library's PPO knows, or its states hold no grid
                where a CNN is asked for.
        """
        self._training(config, self._embeddings(config)).train(run)
        task = self.make_env(config).task
        panels = make_panels(task, self.columns(config), config.evaluation.num_episodes, config.evaluation.panel_seed)
        evaluate_agents(run, self, panels, config.num_workers)

    def make_env(self, config: SymbolicPPOConfig) -> LanguageEnv:
        return make_environment(config.environment, **config.options)

    def columns(self, config: SymbolicPPOConfig) -> list[Column]:
        return phrasing_columns(self.make_env(config).task)

    def agent_names(self, run: Run) -> list[str]:
        config = parse_config(SymbolicPPOConfig, run.config, str(run.folder))
        has_expert = self.make_env(config).task.expert() is not None
        return ["random", *(["expert"] if has_expert else []), NAME, NAME + GREEDY]

    def references(self, run: Run) -> References:
        return References("random", "expert" if "expert" in self.agent_names(run) else NAME)

    def load_agent(self, run: Run, name: str) -> AnyAgent:
        if name not in self.agent_names(run):
            raise UserError(unknown("agent", name, self.agent_names(run)))
        config = parse_config(SymbolicPPOConfig, run.config, str(run.folder))
        if name == "random":
            return RandomAgent()
        if name == "expert":
            return ExpertAgent(self.make_env(config).task)
        embeddings = self._embeddings(config)
        model = self._training(config, embeddings).model
        load_weights(model.policy, run, NAME)
        return SymbolicAgent(model, embeddings, deterministic=name.endswith(GREEDY))

    def _embeddings(self, config: SymbolicPPOConfig) -> SentenceEmbeddings:
        return SentenceEmbeddings(TextEncoder.load(config.encoder))

    def _training(self, config: SymbolicPPOConfig, embeddings: SentenceEmbeddings) -> Training:
        def make_env(place: Place) -> gymnasium.Env:
            return GoalObservation(self.make_env(config), embeddings, config.seed, place)

        space = self.make_env(config).action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
            raise UserError(f"{config.environment} has actions {space}, which PPO of stable-baselines3 cannot take")
        return Training(NAME, config.ppo, config.seed, make_env, "MlpPolicy", self._network(config))

    def _network(self, config: SymbolicPPOConfig) -> dict[str, Any]:
        """What the library's policy is told about its network."""
        network: dict[str, Any] = {"net_arch": [config.ppo.hidden_size] * 2}
        if config.ppo.network == "cnn":
            grid = self.make_env(config).task.grid()
            if grid is None:
                raise UserError(
                    f"--ppo.network cnn needs a grid in the state, and {config.environment} says of none: use mlp"
                )
            network |= {"features_extractor_class": GridFeatures, "features_extractor_kwargs": {"grid": grid}}
        return network


class SymbolicAgent:
    """Acts by a policy of stable-baselines3."""

    def __init__(self, model: PPO, embeddings: SentenceEmbeddings, deterministic: bool) -> None:
        self._policy = model.policy.eval()
        self._embeddings, self._deterministic = embeddings, deterministic
        self._space = model.action_space

    @torch.inference_mode()
    def act(self, observations: Sequence[AgentObservation]) -> list[ActionOutput]:
        inputs = np.stack([observe(o.state, o.instruction, self._embeddings) for o in observations])
        distribution = self._policy.get_distribution(torch.from_numpy(inputs))
        if self._deterministic:
            return [ActionOutput(self._action(row)) for row in distribution.mode().numpy()]
        return [ActionOutput(self._action(row)) for row in self._sample(distribution, observations)]

    def _sample(self, distribution: Any, observations: Sequence[AgentObservation]) -> list[np.ndarray]:
        """Draw by each episode's own randomness, so that it does not depend on what runs alongside."""
        if isinstance(self._space, spaces.Discrete):
            cumulative = distribution.distribution.probs.double().cumsum(-1).numpy()
            draws = [o.rng.random() * row[-1] for o, row in zip(observations, cumulative, strict=True)]
            return [np.array((row <= draw).sum()) for row, draw in zip(cumulative, draws, strict=True)]
        if isinstance(self._space, spaces.Box):
            mean, std = distribution.distribution.mean.numpy(), distribution.distribution.stddev.numpy()
            noise = [o.rng.standard_normal(mean.shape[1]) for o in observations]
            return [m + s * n for m, s, n in zip(mean, std, noise, strict=True)]
        return list(distribution.sample().numpy())

    def _action(self, row: np.ndarray) -> Any:
        if isinstance(self._space, spaces.Discrete):
            return int(row)
        if isinstance(self._space, spaces.Box):
            return np.clip(row, self._space.low, self._space.high).astype(self._space.dtype)
        return row

"""PPO of stable-baselines3 on the state and the goal's sentence embedding: the symbolic baseline of the LLM agents.

`llm-agents train configs/sb3/babyai_goto.yaml`. The library does the learning. Ours are the observation, the run's
folder and a training in rounds: each begins with fresh environments and random numbers of its own and ends with a
checkpoint, so that a stopped run goes on exactly where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pydantic import Field, model_validator
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from envs.goals import unknown
from envs.language import LanguageEnv
from llm_agents.agents import ExpertAgent, RandomAgent
from llm_agents.collect import MAX_EPISODES
from llm_agents.config import Settings, parse_config
from llm_agents.environments import make_environment
from llm_agents.errors import UserError
from llm_agents.evaluation.evaluate import Column, EvaluationSettings, make_panels
from llm_agents.evaluation.judge import judge, wording_columns
from llm_agents.evaluation.panel import draw_goals
from llm_agents.goal_encoder import DEFAULT_ENCODER, GoalEncoder
from llm_agents.recipes import Recipe
from llm_agents.rollout import Agent, Decision, Lane
from llm_agents.run import Run
from llm_agents.training import load_training, load_weights, progress_bar, save_training

NAME, GREEDY = "sb3", "+greedy"


class SB3Settings(Settings):
    """PPO (Schulman et al., 2017) as stable-baselines3 implements it."""

    num_rounds: int = Field(50, ge=1)
    """Rounds; each ends with a checkpoint and a line of metrics."""
    steps_per_round: int = Field(8192, ge=64)
    """Environment steps in a round, over all environments."""
    num_envs: int = Field(16, ge=1)
    """Environments that run side by side."""
    num_steps: int = Field(128, ge=8)
    """Steps of each between two updates."""
    num_epochs: int = Field(4, ge=1)
    """Passes over what was collected between two updates."""
    batch_size: int = Field(256, ge=2)
    """Transitions in one optimizer step."""
    learning_rate: float = Field(3e-4, gt=0)
    """Of Adam."""
    discount: float = Field(0.99, gt=0, le=1)
    """Discount of future reward."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """Of generalized advantage estimation."""
    entropy_weight: float = Field(0.01, ge=0)
    """Weight of the entropy bonus."""
    hidden_size: int = Field(128, ge=1)
    """Width of the two hidden layers of policy and value."""

    @model_validator(mode="after")
    def _rounds_hold_whole_updates(self) -> SB3Settings:
        if self.steps_per_round % (self.num_envs * self.num_steps):
            raise ValueError(
                f"steps_per_round ({self.steps_per_round}) must be a multiple of num_envs * num_steps "
                f"({self.num_envs * self.num_steps})"
            )
        return self


class SB3Config(Settings):
    """A policy on the state and the goal's sentence embedding, trained by stable-baselines3."""

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
    sb3: SB3Settings = SB3Settings()
    evaluation: EvaluationSettings = EvaluationSettings()


class GoalObservation(gymnasium.Env):
    """State and goal embedding as one array, for training goals that come family by family."""

    def __init__(self, env: LanguageEnv, encoder: GoalEncoder, seed: int) -> None:
        self._env, self._encoder = env, encoder
        self._goals = draw_goals(env.task, "train", np.random.default_rng([seed, 9]))
        self._seeds = np.random.default_rng([seed, 10])
        self.action_space = env.action_space
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(env.state) + encoder.dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The next goal and start; what the library asks for has no part in them."""
        goal, words = next(self._goals)
        start = int(self._seeds.integers(MAX_EPISODES))
        asked = {"goal": goal.id, "split": "train", "instruction": words}
        observation, info = self._env.reset(seed=start, options=asked)
        return observe(observation["state"], observation["goal"], self._encoder), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self._env.step(action)
        array = observe(observation["state"], observation["goal"], self._encoder)
        return array, reward, terminated, truncated, info


def observe(state: np.ndarray, instruction: str, encoder: GoalEncoder) -> np.ndarray:
    """The state (D,) with the goal's sentence embedding (E,) behind it."""
    embedding = encoder.encode([instruction]).sentence_embedding()[0].cpu().numpy()
    return np.concatenate([state, embedding]).astype(np.float32)


class SB3Recipe(Recipe):
    """PPO on state and goal embedding: what language models are to be compared with."""

    Config = SB3Config

    def run(self, config: SB3Config, run: Run) -> None:
        """Train in rounds, then judge.

        Raises:
            UserError: the environment's actions are none that the library's PPO knows.
        """
        training = Training(config, run)
        training.train()
        panels = make_panels(
            training.probe.task, self.columns(config), config.evaluation.num_episodes, config.evaluation.panel_seed
        )
        oracle = "expert" if "expert" in self.agent_names(run) else NAME
        judge(run, self, panels, self.agent_names(run), config.num_workers, "random", oracle)

    def make_env(self, config: SB3Config) -> LanguageEnv:
        return make_environment(config.environment, **config.options)

    def columns(self, config: SB3Config) -> list[Column]:
        return wording_columns(self.make_env(config).task)

    def agent_names(self, run: Run) -> list[str]:
        config = parse_config(SB3Config, run.config, str(run.folder))
        has_expert = self.make_env(config).task.expert() is not None
        return ["random", *(["expert"] if has_expert else []), NAME, NAME + GREEDY]

    def load_agent(self, run: Run, name: str) -> Agent:
        if name not in self.agent_names(run):
            raise UserError(unknown("agent", name, self.agent_names(run)))
        config = parse_config(SB3Config, run.config, str(run.folder))
        if name == "random":
            return RandomAgent()
        if name == "expert":
            return ExpertAgent(self.make_env(config).task)
        training = Training(config, run)
        load_weights(training.model.policy, run, NAME)
        return SB3Agent(training.model, training.encoder, deterministic=name.endswith(GREEDY))


class Training:
    """The library's model, trained in rounds."""

    def __init__(self, config: SB3Config, run: Run) -> None:
        self._config, self._run = config, run
        self.make_env: Callable[[], LanguageEnv] = partial(make_environment, config.environment, **config.options)

    @cached_property
    def probe(self) -> LanguageEnv:
        return self.make_env()

    @cached_property
    def encoder(self) -> GoalEncoder:
        return GoalEncoder.load(self._config.encoder)

    @cached_property
    def model(self) -> PPO:
        """The untrained model; its weights depend on the seed alone."""
        space = self.probe.action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
            raise UserError(
                f"{self._config.environment} has actions {space}, which PPO of stable-baselines3 cannot take"
            )
        settings = self._config.sb3
        return PPO(
            "MlpPolicy",
            self._make_envs(0),
            n_steps=settings.num_steps,
            n_epochs=settings.num_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            gamma=settings.discount,
            gae_lambda=settings.gae_lambda,
            ent_coef=settings.entropy_weight,
            policy_kwargs={"net_arch": [settings.hidden_size] * 2},
            seed=self._config.seed,
            device="cpu",
        )

    def train(self) -> None:
        """All rounds that are not done yet."""
        settings, run = self._config.sb3, self._run
        policy = self.model.policy
        done = load_training(policy, policy.optimizer, run, NAME)
        run.rewind_metrics(NAME, done)
        with progress_bar(NAME, settings.num_rounds, done) as advance:
            for number in range(done, settings.num_rounds):
                metrics = self._round(number)
                run.log(NAME, number + 1, metrics)
                advance(1, f"success {metrics['rollout/success']:.2f}")
                save_training(policy, policy.optimizer, number + 1, run, NAME, number + 1 == settings.num_rounds)

    def _round(self, number: int) -> dict[str, float]:
        watch = _Watch()
        envs = self._make_envs(number)
        self.model.set_env(envs, force_reset=True)
        self.model.set_random_seed(self._config.seed * 10_000 + number)
        self.model.learn(self._config.sb3.steps_per_round, callback=watch)
        envs.close()
        return watch.metrics() | {"rollout/total_steps": float((number + 1) * self._config.sb3.steps_per_round)}

    def _make_envs(self, number: int) -> VecEnv:
        """In this process: other processes are slower for environments that are as fast as these."""
        first = (self._config.seed * 10_000 + number) * self._config.sb3.num_envs

        def make(index: int) -> gymnasium.Env:
            return GoalObservation(self.make_env(), self.encoder, first + index)

        return DummyVecEnv([partial(make, index) for index in range(self._config.sb3.num_envs)])


class SB3Agent:
    """Acts by a policy of stable-baselines3."""

    def __init__(self, model: PPO, encoder: GoalEncoder, deterministic: bool) -> None:
        self._policy = model.policy.eval()
        self._encoder, self._deterministic = encoder, deterministic
        self._space = model.action_space

    @torch.inference_mode()
    def act(self, lanes: Sequence[Lane]) -> list[Decision]:
        observations = np.stack([observe(lane.state, lane.instruction, self._encoder) for lane in lanes])
        distribution = self._policy.get_distribution(torch.from_numpy(observations))
        if self._deterministic:
            return [Decision(self._action(row)) for row in distribution.mode().numpy()]
        return [Decision(self._action(row)) for row in self._sample(distribution, lanes)]

    def _sample(self, distribution: Any, lanes: Sequence[Lane]) -> list[np.ndarray]:
        """Drawn by each lane's own randomness, so that an episode does not depend on those beside it."""
        if isinstance(self._space, spaces.Discrete):
            cumulative = distribution.distribution.probs.double().cumsum(-1).numpy()
            draws = [lane.rng.random() * row[-1] for lane, row in zip(lanes, cumulative, strict=True)]
            return [np.array((row <= draw).sum()) for row, draw in zip(cumulative, draws, strict=True)]
        if isinstance(self._space, spaces.Box):
            mean, std = distribution.distribution.mean.numpy(), distribution.distribution.stddev.numpy()
            noise = [lane.rng.standard_normal(mean.shape[1]) for lane in lanes]
            return [m + s * n for m, s, n in zip(mean, std, noise, strict=True)]
        return list(distribution.sample().numpy())

    def _action(self, row: np.ndarray) -> Any:
        if isinstance(self._space, spaces.Discrete):
            return int(row)
        if isinstance(self._space, spaces.Box):
            return np.clip(row, self._space.low, self._space.high).astype(self._space.dtype)
        return row


class _Watch(BaseCallback):
    """How the episodes of a round ended."""

    def __init__(self) -> None:
        super().__init__()
        self._successes: list[bool] = []

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._successes.append(bool(info["is_success"]))
        return True

    def metrics(self) -> dict[str, float]:
        logged = self.logger.name_to_value
        names = {
            "train/entropy_loss": "policy/entropy",
            "train/approx_kl": "policy/kl",
            "train/clip_fraction": "policy/clip_fraction",
            "train/explained_variance": "value/explained_variance",
            "train/policy_gradient_loss": "loss/policy",
            "train/value_loss": "loss/value",
        }
        found = {ours: float(logged[theirs]) for theirs, ours in names.items() if theirs in logged}
        if "policy/entropy" in found:
            found["policy/entropy"] *= -1  # the library logs the loss
        return {"rollout/success": float(np.mean(self._successes)) if self._successes else 0.0, **found}

"""PPO of stable-baselines3 on states and goals, in rounds that can be stopped.

The library does the learning. Ours are the observation, the run's folder and the rounds: each begins with fresh
environments and random numbers of its own and ends with a checkpoint, so that a stopped run goes on exactly where it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field, model_validator
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from envs.language import LanguageEnv
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.rollouts.specs import draw_goals
from llm_agents.runtime.progress import progress_bar
from llm_agents.runtime.run import Run
from llm_agents.runtime.settings import Settings
from llm_agents.runtime.streams import MAX_STARTS, start_seed, stream, stream_seed
from llm_agents.training.checkpoints import load_training, save_training

Place = tuple[int, int]


class SB3TrainingSettings(Settings):
    """PPO (Schulman et al., 2017) as stable-baselines3 implements it."""

    renamed: ClassVar[Mapping[str, str]] = {"num_steps": "rollout_length"}

    num_rounds: int = Field(50, ge=1)
    """Rounds; each ends with a checkpoint and a line of metrics."""
    steps_per_round: int = Field(8192, ge=64)
    """Environment steps in a round, over all environments."""
    num_envs: int = Field(16, ge=1)
    """Environments that run side by side."""
    rollout_length: int = Field(128, ge=8)
    """Steps of each environment between two updates."""
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

    @model_validator(mode="after")
    def _rounds_hold_whole_updates(self):
        if self.steps_per_round % (self.num_envs * self.rollout_length):
            raise ValueError(
                f"steps_per_round ({self.steps_per_round}) must be a multiple of num_envs * rollout_length "
                f"({self.num_envs * self.rollout_length})"
            )
        return self


class InstructionFeatures(Protocol):
    """What stands for an instruction in an observation.

    Attributes:
        size: how many numbers that is.
    """

    size: int

    def __call__(self, instruction: str) -> NDArray[np.float32]:
        """The numbers, (size,)."""
        ...


class SentenceEmbeddings:
    """The sentence embedding of an instruction, computed when it is first met.

    Texts are encoded one by one: beside others they are padded, which changes the last bits, and a training that was
    stopped meets them beside others than one that was not.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.size = encoder.dim
        self._encoder = encoder
        self._found: dict[str, NDArray[np.float32]] = {}

    def __call__(self, instruction: str) -> NDArray[np.float32]:
        if instruction not in self._found:
            self._found[instruction] = self._encoder.encode([instruction]).sentence_embedding()[0].cpu().numpy()
        return self._found[instruction]


class GoalObservation(gymnasium.Env):
    """A state with the goal's vector behind it, for training goals that come family by family.

    Args:
        seed: of the run.
        place: the number of the round, and of the environment in it; with the seed it decides which goals, phrasings
            and starts come.
    """

    def __init__(self, env: LanguageEnv, vectors: InstructionFeatures, seed: int, place: Place) -> None:
        self._env, self._vectors, self._seed = env, vectors, seed
        self._goals = draw_goals(env.task, "train", stream(seed, "symbolic_ppo/goals", *place))
        self._starts = stream(seed, "symbolic_ppo/starts", *place)
        self.action_space = env.action_space
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(env.state) + vectors.size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict]:
        """The next goal and start; what the library asks for has no part in them."""
        goal, phrasing = next(self._goals)
        start = start_seed("symbolic_ppo", self._seed, int(self._starts.integers(MAX_STARTS)))
        asked = {"goal": goal.id, "split": "train", "instruction": phrasing}
        observation, info = self._env.reset(seed=start, options=asked)
        return observe(observation["state"], observation["goal"], self._vectors), info

    def step(self, action: Any) -> tuple[NDArray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self._env.step(action)
        array = observe(observation["state"], observation["goal"], self._vectors)
        return array, reward, terminated, truncated, info


def observe(state: NDArray, instruction: str, vectors: InstructionFeatures) -> NDArray[np.float32]:
    """The state (D,) with the vector of the instruction (E,) behind it."""
    return np.concatenate([state, vectors(instruction)], dtype=np.float32)


class Training:
    """A model of the library, trained in rounds.

    Args:
        name: of the stage, and of its checkpoint.
        make_env: makes an environment to train in for a place: the number of the round, and of the environment in it.
        policy: as the library's PPO takes it, with its ``policy_kwargs``.
    """

    def __init__(
        self,
        name: str,
        settings: SB3TrainingSettings,
        seed: int,
        make_env: Callable[[Place], gymnasium.Env],
        policy: str | type[ActorCriticPolicy],
        policy_kwargs: dict[str, Any],
    ) -> None:
        self._name, self._settings, self._seed = name, settings, seed
        self._make_env, self._policy, self._policy_kwargs = make_env, policy, policy_kwargs

    @cached_property
    def model(self) -> PPO:
        """The model before training; its weights depend on the seed alone."""
        settings = self._settings
        model = PPO(
            self._policy,
            self._make_envs(0),
            n_steps=settings.rollout_length,
            n_epochs=settings.num_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            gamma=settings.discount,
            gae_lambda=settings.gae_lambda,
            ent_coef=settings.entropy_weight,
            policy_kwargs=self._policy_kwargs,
            seed=stream_seed(self._seed, "weights/symbolic_ppo"),
            device="cpu",
        )
        model.set_logger(Logger(folder=None, output_formats=[]))  # the default one leaves a folder in /tmp
        return model

    def train(self, run: Run, before_round: Callable[[int], None] | None = None) -> None:
        """All rounds that are not done yet.

        Args:
            before_round: called with the number of each.
        """
        name, num_rounds, policy = self._name, self._settings.num_rounds, self.model.policy
        done = load_training(policy, policy.optimizer, run, name)
        run.rewind_metrics(name, done)
        with progress_bar(name, num_rounds, done) as advance:
            for number in range(done, num_rounds):
                if before_round is not None:
                    before_round(number)
                metrics = self._round(number)
                run.log(name, number + 1, metrics)
                advance(1, f"success {metrics['rollout/success']:.2f}")
                save_training(policy, policy.optimizer, number + 1, run, name, number + 1 == num_rounds)

    def _round(self, number: int) -> dict[str, float]:
        watch = _Watch()
        envs = self._make_envs(number)
        self.model.set_env(envs, force_reset=True)
        self.model.set_random_seed(stream_seed(self._seed, "symbolic_ppo/round", number))
        self.model.learn(self._settings.steps_per_round, callback=watch)
        envs.close()
        return watch.metrics() | {"rollout/total_steps": float((number + 1) * self._settings.steps_per_round)}

    def _make_envs(self, number: int) -> VecEnv:
        """In this process: other processes are slower for environments that are as fast as these."""
        return DummyVecEnv([partial(self._make_env, (number, index)) for index in range(self._settings.num_envs)])


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

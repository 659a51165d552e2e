"""Fine-tuning online: a policy that KALM trained offline goes on learning from the environment's reward, by PPO.

``llm-agents train configs/kalm_finetune/clevr_robot.yaml``. The policy starts exactly as it is, and its critic from
nothing: a critic that knows nothing yet would teach it at random, so for the first rounds the critic learns alone.
It is trained on training goals only; those of unseen splits are there to be judged on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from numpy.typing import NDArray
from pydantic import Field
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor, nn

from envs.goals import unknown
from envs.language import LanguageEnv
from kalm.offline import PolicyAgent
from kalm.offline.networks import GoalConditionedMLP
from kalm.policies import load_policy_agent
from kalm.recipe import policies_of
from kalm.settings import KalmConfig
from kalm.trajectory_lm import StateNormalizer
from kalm.workspace import COLUMNS, Workspace
from llm_agents.models.text_encoder import PackedFeatures, TextEncoder
from llm_agents.recipes.base import EXPERT, RecipeConfig, Stage, TrainingRecipe, baseline_agents
from llm_agents.registry.environments import make_environment
from llm_agents.registry.recipes import Agents, References, load_run_config
from llm_agents.rollouts.panels import Column
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run
from llm_agents.runtime.settings import Settings
from llm_agents.runtime.streams import seeded
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.sb3 import GoalObservation, Place, SB3TrainingSettings, Training

START, NAME = "start", "finetuned"


class StartSettings(Settings):
    """The policy to start from. Its run is read again whenever the agents are loaded."""

    run: str = "runs/demo"
    """Folder of a run of the recipe `kalm`."""
    agent: str = "real+search"
    """One of its policies: ``real``, or what was added to it."""
    temperature: float | None = Field(None, gt=0)
    """Temperature at which it acts, learns and is judged; by default its run's."""


class FinetuneTrainingSettings(SB3TrainingSettings):
    """PPO from a policy that is good already: small steps."""

    learning_rate: float = Field(1e-4, gt=0)
    """Of Adam, for policy and critic."""
    entropy_weight: float = Field(0.0, ge=0)
    """Weight of the entropy bonus."""
    value_warmup: int = Field(3, ge=0)
    """Rounds, of the first ones, in which the critic learns alone."""
    warmup_learning_rate: float = Field(1e-3, gt=0)
    """Of Adam, for the critic in these rounds: it has everything to learn, and nothing yet to spoil."""


class FinetuneConfig(RecipeConfig):
    """A policy of a KALM run, fine-tuned online on training goals."""

    renamed: ClassVar[Mapping[str, str]] = {"sb3": "ppo"}

    environment: str = "envs:ClevrRobot-v0"
    """Gymnasium id of the `LanguageEnv` that the run was made in."""
    seed: int = Field(0, ge=0)
    """Seed of the critic's weights, of goals and of starts. The panels have a seed of their own."""
    start_from: StartSettings = StartSettings()
    ppo: FinetuneTrainingSettings = FinetuneTrainingSettings()


class Finetune(Stage):
    """Train in rounds, at first the critic alone."""

    purpose = "Fine-tune: the policy goes on learning from the environment's reward, by PPO on training goals."

    def __init__(self, config: FinetuneConfig, run: Run) -> None:
        self._config, self._run = config, run

    def done(self) -> bool:
        return self._run.has_finished(NAME)

    def run(self) -> None:
        agent = load_start(self._config)
        networks = ActorCritic(agent, self._config.seed)
        training, settings = make_training(self._config, agent, networks), self._config.ppo

        def warm_up(number: int) -> None:
            networks.actor_learns = number >= settings.value_warmup
            rate = settings.learning_rate if networks.actor_learns else settings.warmup_learning_rate
            training.model.lr_schedule = FloatSchedule(rate)

        training.train(self._run, warm_up)


class FinetuneRecipe(TrainingRecipe[FinetuneConfig]):
    """PPO from a policy that KALM trained offline."""

    Config = FinetuneConfig

    def prepare(self, config: FinetuneConfig, run: Run) -> None:
        """Refuse what `load_start` refuses."""
        load_start(config)

    def stages(self, config: FinetuneConfig, run: Run) -> list[Stage]:
        return [Finetune(config, run)]

    def plan(self, config: FinetuneConfig, run: Run) -> list[str]:
        start, ppo = config.start_from, config.ppo
        return [
            f"go on from {start.agent} of {start.run}",
            f"{ppo.num_rounds} rounds of {ppo.steps_per_round} environment steps, seed {config.seed}",
        ]

    def make_env(self, config: FinetuneConfig) -> LanguageEnv:
        return make_environment(config.environment)

    def columns(self, config: FinetuneConfig) -> list[Column]:
        return list(COLUMNS)

    def agents(self, run: Run) -> Agents:
        config = load_run_config(self, run)
        task = self.make_env(config).task
        return {**baseline_agents(task), START: partial(load_start, config), NAME: partial(_load, config, run)}

    def references(self, run: Run) -> References:
        return References(START, EXPERT)


def _load(config: FinetuneConfig, run: Run) -> PolicyAgent:
    """The fine-tuned policy: the one that is trained is the agent's own."""
    agent = load_start(config)
    training = make_training(config, agent, ActorCritic(agent, config.seed))
    load_weights(training.model.policy, run, NAME)
    return agent


def load_start(config: FinetuneConfig) -> PolicyAgent:
    """The policy to start from, as it acts in its own run.

    Raises:
        UserError: there is no such run or policy, it was trained in another environment, or it has no probabilities.
    """
    start = config.start_from
    source = Run.open(start.run)
    if source.recipe != "kalm":
        raise UserError(f"start_from.run {start.run} was made by recipe {source.recipe!r}: only kalm has such policies")
    theirs = parse_config(KalmConfig, source.config, str(Path(start.run) / "config.yaml"))
    if _bare(theirs.environment) != _bare(config.environment):
        raise UserError(f"{start.run} was trained in {theirs.environment}, not in {config.environment}")
    workspace = Workspace(theirs, source)
    policies = policies_of(workspace)
    if start.agent not in policies:
        raise UserError(unknown("start_from.agent", start.agent, list(policies)))
    agent = load_policy_agent(workspace, policies[start.agent])
    agent.temperature = start.temperature or agent.temperature
    if not agent.temperature:
        raise UserError(f"{start.run} acts at temperature 0, without chance: give --start_from.temperature 0.5")
    return agent


def make_training(config: FinetuneConfig, agent: PolicyAgent, networks: ActorCritic) -> Training:
    """The training of an agent's own policy."""
    actions, rows = agent.algorithm.actions, TextRows(agent.encoder)

    def make_env(place: Place) -> gymnasium.Env:
        env = GoalObservation(make_environment(config.environment), rows, config.seed, place)
        return TransformAction(env, actions.choose, actions.choices)

    return Training(NAME, config.ppo, config.seed, make_env, KalmActorCritic, {"networks": networks})


class TextRows:
    """The row that an instruction has in an encoder's cache: one number that stands for its token features.

    Texts are encoded one by one, see `llm_agents.training.sb3.SentenceEmbeddings`.
    """

    size = 1

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

    def __call__(self, instruction: str) -> NDArray[np.float32]:
        return self._encoder.rows([instruction]).cpu().numpy().astype(np.float32)  # exact up to 2**24 texts


class ActorCritic(nn.Module):
    """An agent's own policy and a new critic of the same make, on states with `TextRows` behind them, (N, D + 1).

    Args:
        seed: of the critic's weights.

    Attributes:
        actor_learns: whether losses reach the policy.
    """

    def __init__(self, agent: PolicyAgent, seed: int) -> None:
        super().__init__()
        self.actor_learns = True
        self.actor = agent.algorithm.policy
        self.actor.pooling.token_dropout = 0.0  # what learns must be what acted
        normalizer = StateNormalizer(self.actor.state_mean, self.actor.state_std, torch.ones_like(self.actor.state_std))
        with seeded(seed, "weights/critic"):
            self.critic: GoalConditionedMLP = agent.algorithm.network(agent.encoder.dim, normalizer, 1)
        self.critic.pooling.token_dropout = 0.0
        self._temperature, self._features = agent.temperature, agent.encoder.packed

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the choices (N, L) and the values (N, 1)."""
        inputs = self._inputs(observations)
        return self._logits(*inputs), self.critic(*inputs)

    def forward_actor(self, observations: Tensor) -> Tensor:
        return self._logits(*self._inputs(observations))

    def forward_critic(self, observations: Tensor) -> Tensor:
        return self.critic(*self._inputs(observations))

    def _logits(self, states: Tensor, text: PackedFeatures) -> Tensor:
        logits = self.actor(states, text) / self._temperature
        return logits if self.actor_learns else logits.detach()

    def _inputs(self, observations: Tensor) -> tuple[Tensor, PackedFeatures]:
        return observations[:, :-1], self._features(observations[:, -1].long())


class KalmActorCritic(ActorCriticPolicy):
    """`ActorCritic` as a policy of stable-baselines3, in place of what it makes itself: an extractor and two heads."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        networks: ActorCritic,
        use_sde: bool = False,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, net_arch=[], use_sde=use_sde)
        self.mlp_extractor = networks  # type: ignore[assignment]
        self.action_net = self.value_net = nn.Identity()  # type: ignore[assignment]
        parameters, rate = networks.parameters(), lr_schedule(1)
        self.optimizer = self.optimizer_class(parameters, lr=rate, **self.optimizer_kwargs)  # type: ignore[call-arg]


def _bare(env_id: str) -> str:
    """An environment's id without the module that registers it."""
    return env_id.rpartition(":")[2]

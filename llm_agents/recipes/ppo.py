"""PPO for an LLM that chooses among action texts (GLAM: Carta et al., ICML 2023), after a warm start if wanted.

`llm-agents train configs/ppo/babyai_goto.yaml`. Whole episodes instead of fragments of fixed length: what an iteration
plays then depends on nothing that came before it, so that a stopped run goes on exactly where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from envs.episodes import Episode, Turn
from llm_agents.agents.memory import TextualMemory
from llm_agents.agents.scoring import ScoringAgent
from llm_agents.credit.gae import ends_of, gae, whiten
from llm_agents.losses import entropy, entropy_loss, explained_variance, token_weights, value_loss
from llm_agents.losses.policy import ClippedLossSettings, PolicyLossChoice
from llm_agents.models.action_scorer import ActionScorer
from llm_agents.recipes.base import Stage
from llm_agents.recipes.bc import ScoringConfig, ScoringRecipe
from llm_agents.recipes.llm_agent import WarmStartStages
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run
from llm_agents.training.online import LearningBatch, OnlineSettings, train_online
from llm_agents.training.optimization import ParameterGroups, trained_parameters

PPO = "ppo"
MIN_VARIANCE = 1e-4  # of returns that hardly differ


class PPOSettings(OnlineSettings):
    """Proximal policy optimization (Schulman et al., 2017)."""

    renamed: ClassVar[Mapping[str, str]] = {**OnlineSettings.renamed, "clip_range": "policy_loss.clip_range"}

    gae_lambda: float = Field(0.95, ge=0, le=1)
    """Of generalized advantage estimation."""
    policy_loss: PolicyLossChoice = ClippedLossSettings()
    """What improves the policy."""
    value_clip_range: float | None = Field(0.2, gt=0)
    """How far a value may move from the one that acted, in units of the return; null for as far as it likes."""
    value_weight: float = Field(0.5, ge=0)
    """Weight of the value loss, measured in variances of an iteration's returns: where these differ little, as a
    success now and one ten steps later do, the value would otherwise learn next to nothing."""
    value_gradient: bool = True
    """Whether the value loss trains the language model, too, and not the value head alone. It unsettles a small model
    that already acts well (docs/lab_notes.md)."""
    value_learning_rate_scale: float = Field(1.0, gt=0)
    """The learning rate of the value head is that of the language model times this."""
    entropy_weight: float = Field(0.003, ge=0)
    """Weight of the entropy bonus."""
    value_warmup: int = Field(2, ge=0)
    """Iterations at the beginning in which the value head alone learns: what an untrained head calls an advantage
    would destroy what the warm start has taught."""


class PPOConfig(ScoringConfig):
    """Online RL of a `ScoringAgent`."""

    ppo: PPOSettings = PPOSettings()


class PPOTraining(Stage):
    """Train on reward by PPO, from the warm start or from nothing."""

    purpose = "PPO: play training goals, and make what earned more reward than expected more probable."

    def __init__(self, shared: WarmStartStages, make_learner: Callable[[], PPOLearner]) -> None:
        self._shared, self._make_learner = shared, make_learner

    def done(self) -> bool:
        return self._shared.run.has_finished(PPO)

    def run(self) -> None:
        shared, config = self._shared, self._shared.config
        assert isinstance(config, PPOConfig)
        train_online(self._make_learner(), config.ppo, shared.make_env, shared.task, shared.run, PPO, config.seed)


class PPORecipe(ScoringRecipe[PPOConfig]):
    """PPO over the probabilities of action texts."""

    Config = PPOConfig
    reward_stage = PPO

    def prepare(self, config: PPOConfig, run: Run) -> None:
        if not config.scorer.value_head:
            raise UserError("PPO needs a value head: leave scorer.value_head true")

    def plan(self, config: PPOConfig, run: Run) -> list[str]:
        return [*super().plan(config, run), config.ppo.plan]

    def reward_training(self, shared: WarmStartStages) -> PPOTraining:
        return PPOTraining(shared, lambda: self.new_learner(shared))

    def new_learner(self, shared: WarmStartStages) -> PPOLearner:
        """Make the learner before training on reward."""
        config = shared.config
        assert isinstance(config, PPOConfig)
        return PPOLearner(self.new_scorer(shared), config, shared.memory(PPO))


@dataclass(frozen=True)
class Decisions(LearningBatch):
    """Choices among action texts, M of them.

    Attributes:
        turns: what was shown and chosen.
        advantages, returns: of the choices, (M,).
        values, log_probs: the value and the log-probability of the choice under the behaviour policy, (M,).
        choices: the index of each choice among its candidates, (M,).
    """

    turns: Sequence[Turn]
    advantages: Tensor
    returns: Tensor
    values: Tensor
    log_probs: Tensor
    choices: Tensor


class PPOLearner:
    """Turns episodes into the losses of PPO."""

    def __init__(self, scorer: ActionScorer, config: PPOConfig, memory: TextualMemory | None = None) -> None:
        self.module = scorer
        self.agent = ScoringAgent(scorer, config.prompts, memory=memory)
        self.memory = memory
        self._settings = config.ppo
        self._value_weight = 0.0  # set for each iteration, as are the next two
        self._learns_policy = False
        self._is_untouched = True

    def parameter_groups(self) -> ParameterGroups:
        """Return the parameters of the language model, and those of the value head with a learning rate of its own."""
        lm, value_head = self.module.lm, self.module.value_head
        assert value_head is not None  # the recipe sees to it
        return [
            {"params": trained_parameters(lm)},
            {"params": trained_parameters(value_head), "scale": self._settings.value_learning_rate_scale},
        ]

    def make_batch(
        self, episodes: Sequence[Episode], groups: Tensor, iteration: int
    ) -> tuple[Decisions, dict[str, float]]:
        """Give credit by GAE; a truncated episode would have gone on, with the value of its last state."""
        settings = self._settings
        turns = [turn for episode in episodes for turn in episode.turns]
        values = torch.tensor([turn.value for turn in turns])
        advantages, returns = gae(
            rewards=torch.from_numpy(np.concatenate([episode.rewards for episode in episodes])),
            values=values,
            last_values=torch.tensor([episode.last_value or 0.0 for episode in episodes]),
            ends=ends_of([len(episode) for episode in episodes]),
            discount=settings.discount,
            gae_lambda=settings.gae_lambda,
        )
        self._value_weight = settings.value_weight / max(returns.var(correction=0).item(), MIN_VARIANCE)
        self._learns_policy, self._is_untouched = iteration >= settings.value_warmup, True
        batch = Decisions(
            lengths=torch.tensor([len(turn.prompt_ids) for turn in turns]),
            turns=turns,
            advantages=whiten(advantages),
            returns=returns,
            values=values,
            log_probs=torch.tensor([turn.log_probs[0] for turn in turns]),
            choices=torch.tensor([turn.choice for turn in turns]),
        )
        return batch, {"value/explained_variance": explained_variance(values, returns, torch.ones_like(values) > 0)}

    def weights(self, batch: Decisions) -> Tensor:
        return token_weights(torch.ones(len(batch), dtype=torch.bool), "token_mean")

    def loss(self, batch: Decisions, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        settings = self._settings
        scores = self.module(
            [turn.prompt_ids for turn in batch.turns],
            [turn.candidates for turn in batch.turns],
            detach_value=not (self._learns_policy and settings.value_gradient),
        )
        device = scores.logits.device
        weights, values, returns = weights.to(device), batch.values.to(device), batch.returns.to(device)
        loss, metrics = value_loss(scores.values, values, returns, weights, settings.value_clip_range)
        loss = self._value_weight * loss
        if not self._learns_policy:
            return loss, metrics
        log_probs = scores.logits.log_softmax(-1).gather(1, batch.choices.to(device)[:, None])[:, 0]
        old_log_probs = batch.log_probs.to(device)
        if self._is_untouched:  # nothing was learnt yet: what is trained must be what acted
            metrics["policy/train_rollout_log_prob_diff"] = (log_probs - old_log_probs).abs().max().item()
            self._is_untouched = False
        of_policy, more = settings.policy_loss.loss(log_probs, old_log_probs, batch.advantages.to(device), weights)
        of_entropy, most = entropy_loss(entropy(scores.logits), weights)
        return loss + of_policy + settings.entropy_weight * of_entropy, metrics | more | most

"""PPO for an LLM that chooses among action texts (GLAM: Carta et al., ICML 2023), after a warm start if wanted.

`llm-agents train configs/ppo/babyai_goto.yaml`. Whole episodes instead of fragments of fixed length: what an iteration
plays then depends on nothing that came before it, so that a stopped run goes on exactly where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from envs.episodes import Episode, Turn
from envs.language import LanguageTask
from llm_agents.agents.memory import TextualMemory
from llm_agents.agents.scoring import ScoringAgent
from llm_agents.credit.gae import gae, whiten
from llm_agents.losses import entropy, entropy_loss, explained_variance, policy_loss, token_weights, value_loss
from llm_agents.models.action_scorer import ActionScorer
from llm_agents.recipes.base import WarmStartStages
from llm_agents.recipes.bc import ScoringConfig, ScoringRecipe
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run
from llm_agents.training.online import OnlineSettings, train_online, trained_parameters

MIN_VARIANCE = 1e-4  # of returns that hardly differ


class PPOSettings(OnlineSettings):
    """Proximal policy optimization (Schulman et al., 2017)."""

    gae_lambda: float = Field(0.95, ge=0, le=1)
    """Of generalized advantage estimation."""
    clip_range: float = Field(0.2, gt=0)
    """Probability ratios beyond 1 +- this are not rewarded."""
    value_clip_range: float | None = Field(0.2, gt=0)
    """How far a value may move from the one that acted, in units of the return; null for as far as it likes."""
    value_weight: float = Field(0.5, ge=0)
    """Weight of the value loss, measured in variances of an iteration's returns: where these differ little, as a
    success now and one ten steps later do, the value would else learn nothing beside the policy."""
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


class PPORecipe(ScoringRecipe):
    """PPO over the probabilities of action texts."""

    Config = PPOConfig
    trained_names = ("sft", "ppo")

    def plan(self, config: PPOConfig) -> str:
        return config.ppo.plan

    def train(self, config: PPOConfig, warm_start_stages: WarmStartStages, run: Run) -> None:
        """From the warm start, or from nothing.

        Raises:
            UserError: there is no value head.
        """
        if not config.scorer.value_head:
            raise UserError("PPO needs a value head: leave scorer.value_head true")
        learner = PPOLearner(
            self.new_scorer(config, warm_start_stages), config, warm_start_stages.task, warm_start_stages.memory("ppo")
        )
        train_online(learner, config.ppo, warm_start_stages.make_env, warm_start_stages.task, run, "ppo", config.seed)


class PPOLearner:
    """Turns episodes into the losses of PPO."""

    def __init__(
        self, scorer: ActionScorer, config: PPOConfig, task: LanguageTask, memory: TextualMemory | None = None
    ) -> None:
        self.module = scorer
        self.agent = ScoringAgent(scorer, config.prompts, memory=memory)
        self.memory = memory
        self._settings, self._task = config.ppo, task

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The language model, and the value head at a rate of its own."""
        lm, value_head = self.module.lm, self.module.value_head
        assert value_head is not None  # the recipe sees to it
        return [
            {"params": trained_parameters(lm), "scale": 1.0},
            {"params": trained_parameters(value_head), "scale": self._settings.value_learning_rate_scale},
        ]

    def losses(self, episodes: Sequence[Episode], groups: Tensor, iteration: int) -> PPOLosses:
        """Credit by GAE; a truncated episode would have gone on, with the value of its last state."""
        settings = self._settings
        lengths = torch.tensor([len(episode) for episode in episodes])
        mask = torch.arange(int(lengths.max()))[:, None] < lengths  # (T, N)
        rewards = _padded([torch.from_numpy(np.array(episode.rewards)) for episode in episodes])
        values = _padded([torch.tensor([turn.value for turn in episode.turns]) for episode in episodes])
        last = torch.arange(len(mask))[:, None] == lengths - 1
        truncated = last & torch.tensor([episode.truncated for episode in episodes])
        next_values = torch.cat([values[1:], torch.zeros_like(values[:1])])
        last_values = [episode.last_value or 0.0 for episode in episodes]  # zero where nothing can follow
        next_values[lengths - 1, torch.arange(len(episodes))] = torch.tensor(last_values)
        advantages, returns = gae(
            rewards, values, next_values, last & ~truncated, truncated, settings.discount, settings.gae_lambda
        )
        turns = [turn for episode in episodes for turn in episode.turns]
        in_turn = mask.T  # selects steps in the order of the turns
        return PPOLosses(
            self.module,
            settings,
            turns,
            advantages=whiten(advantages, mask).T[in_turn],
            returns=returns.T[in_turn],
            values=values.T[in_turn],
            value_only=iteration < settings.value_warmup,
        )


class PPOLosses:
    """The losses of an iteration's decisions.

    Args:
        turns: the decisions, M of them.
        advantages, returns, values: (M,).
        value_only: leave the language model as it is.
    """

    def __init__(
        self,
        scorer: ActionScorer,
        settings: PPOSettings,
        turns: Sequence[Turn],
        advantages: Tensor,
        returns: Tensor,
        values: Tensor,
        value_only: bool,
    ) -> None:
        self.metrics = {"value/explained_variance": explained_variance(values, returns, torch.ones_like(values) > 0)}
        self._is_untouched = True
        self._scorer, self._settings, self._turns = scorer, settings, turns
        self._advantages, self._returns, self._values = advantages, returns, values
        self._value_only = value_only
        self._value_weight = settings.value_weight / max(returns.var(correction=0).item(), MIN_VARIANCE)
        self._choices = torch.tensor([turn.choice for turn in turns])
        self._log_probs = torch.tensor([turn.log_probs[0] for turn in turns])
        self._lengths = np.array([len(turn.prompt_ids) for turn in turns])

    def __len__(self) -> int:
        return len(self._turns)

    def order(self, index: np.ndarray) -> np.ndarray:
        return index[np.argsort(self._lengths[index], kind="stable")]

    def loss(self, index: np.ndarray, batch: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        settings = self._settings
        turns = [self._turns[i] for i in index]
        scores = self._scorer(
            [turn.prompt_ids for turn in turns],
            [turn.candidates for turn in turns],
            detach_value=self._value_only or not settings.value_gradient,
        )
        device = scores.logits.device
        old_log_probs, advantages, returns, values, choices = (
            tensor[index].to(device)
            for tensor in (self._log_probs, self._advantages, self._returns, self._values, self._choices)
        )
        weights = token_weights(torch.ones(len(batch), dtype=torch.bool, device=device), "token_mean")[: len(index)]
        loss, metrics = value_loss(scores.values, values, returns, weights, settings.value_clip_range)
        loss = self._value_weight * loss
        if self._value_only:
            return loss, metrics
        log_probs = scores.logits.log_softmax(-1).gather(1, choices[:, None])[:, 0]
        if self._is_untouched:  # nothing was learnt yet: what is trained must be what acted
            metrics["policy/train_rollout_log_prob_diff"] = (log_probs - old_log_probs).abs().max().item()
            self._is_untouched = False
        of_policy, more = policy_loss(log_probs, old_log_probs, advantages, weights, settings.clip_range)
        of_entropy, most = entropy_loss(entropy(scores.logits), weights)
        return loss + of_policy + settings.entropy_weight * of_entropy, metrics | more | most


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows (L_i,) as columns of (T, N), zero behind their ends."""
    return torch.nn.utils.rnn.pad_sequence(list(rows))

"""Group-relative methods for an LLM that acts in free text: GRPO, Dr. GRPO, DAPO, GSPO, RLOO, and GiGPO's step credit.

`llm-agents train configs/grpo/babyai_goto.yaml`. Episodes of a group share goal and start; each is compared with the
others. What was sampled is trained on as it was sampled, token by token (`llm_agents.training.sequences`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from envs.episodes import Episode
from llm_agents.agents.memory import TextualMemory
from llm_agents.agents.text import TextAgent, TextAgentSettings
from llm_agents.credit.groups import GroupCredit, centre, gigpo_advantages, state_hash
from llm_agents.losses import VARIANTS, KlEstimator, grpo_loss, kl_loss, token_weights
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.sampler import LocalSampler
from llm_agents.recipes.base import LLMAgentConfig, LLMAgentRecipe, WarmStartStages
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.runtime.run import Run
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.online import OnlineSettings, train_online, trained_parameters
from llm_agents.training.sequences import TokenSequence, join_turns, sampled_log_probs, stack


class GRPOSettings(OnlineSettings):
    """Group-relative policy optimization (Shao et al., 2024) and its family."""

    group_size: int = Field(8, ge=2)
    """Episodes that share goal and start. Their discounted returns are compared, so that of two successes the earlier
    is the better; with ``discount: 1`` all that counts is whether there was one."""
    variant: Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo"] = "grpo"
    """Whose advantages, ratios and averages; see `llm_agents.losses.policy.grpo`."""
    step_weight: float = Field(0.0, ge=0)
    """GiGPO: weight of the comparison with steps of the group that were taken in the same state; 0 for none. For
    rewritten prompts, where a step is a sequence of its own."""
    invalid_penalty: float = Field(0.0, ge=0)
    """Taken from the reward of a step whose text named no action."""
    kl_weight: float = Field(0.0, ge=0)
    """Weight of the KL to the model before training on reward; 0 for none, and no second model in memory."""
    kl_estimator: KlEstimator = "k3"
    """How that KL is estimated."""

    @model_validator(mode="after")
    def _averages_that_are_known(self) -> GRPOSettings:
        if self.step_weight and VARIANTS[self.variant].step_scale is None:
            known = ", ".join(name for name, variant in VARIANTS.items() if variant.step_scale)
            raise ValueError(f"step_weight is defined for the variants {known}, not for {self.variant}")
        return self


class GRPOConfig(LLMAgentConfig):
    """Online RL of a `TextAgent`."""

    text_agent: TextAgentSettings = TextAgentSettings()
    grpo: GRPOSettings = GRPOSettings()

    @model_validator(mode="after")
    def _steps_are_sequences(self) -> GRPOConfig:
        if self.grpo.step_weight and self.text_agent.context == "append":
            raise ValueError("step_weight needs text_agent.context: rewrite, where each step is a sequence of its own")
        return self


class GRPORecipe(LLMAgentRecipe):
    """Group-relative policy optimization of what the model writes."""

    Config = GRPOConfig
    trained_names = ("sft", "grpo")

    def plan(self, config: GRPOConfig) -> str:
        return config.grpo.plan

    def train(self, config: GRPOConfig, warm_start_stages: WarmStartStages, run: Run) -> None:
        learner = GRPOLearner(warm_start_stages.load_warm_started_model(), config, warm_start_stages.memory("grpo"))
        train_online(learner, config.grpo, warm_start_stages.make_env, warm_start_stages.task, run, "grpo", config.seed)

    def trained_agent(
        self, config: GRPOConfig, warm_start_stages: WarmStartStages, name: str, temperature: float
    ) -> AnyAgent:
        stage = self.stage_of(name)
        lm = warm_start_stages.load_warm_started_model(stage)
        if stage is None:
            load_weights(lm, warm_start_stages.run, name)
        settings = config.text_agent.model_copy(update={"temperature": temperature * config.text_agent.temperature})
        return TextAgent(LocalSampler(lm), settings, config.prompts, warm_start_stages.memory(name))


class GRPOLearner:
    """Turns groups of episodes into the losses of the family."""

    def __init__(self, lm: LanguageModel, config: GRPOConfig, memory: TextualMemory | None = None) -> None:
        self.module = lm
        self.agent = TextAgent(LocalSampler(lm), config.text_agent, config.prompts, memory)
        self.memory = memory
        self._settings, self._temperature = config.grpo, config.text_agent.temperature
        self._max_tokens = config.text_agent.max_new_tokens
        self._reference = copy.deepcopy(lm).requires_grad_(False).eval() if config.grpo.kl_weight else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The language model."""
        return [{"params": trained_parameters(self.module), "scale": 1.0}]

    def losses(self, episodes: Sequence[Episode], groups: Tensor, iteration: int) -> GRPOLosses:
        """Credit within groups; sequences of groups in which all did equally well are left out."""
        sequences, owners = [], []
        for index, episode in enumerate(episodes):
            found = join_turns(episode.turns)
            sequences += found
            owners += [index] * len(found)
        credit, of_sequence = self._credit(episodes, groups, sequences, np.array(owners))
        kept = np.flatnonzero(of_sequence[1].numpy())
        advantages = centre(of_sequence[0][kept], groups[np.array(owners)[kept]])
        return GRPOLosses(
            self.module,
            self._reference,
            self._settings,
            [sequences[i] for i in kept],
            advantages,
            credit.metrics,
            self._temperature,
            self._max_tokens,
        )

    def _credit(
        self, episodes: Sequence[Episode], groups: Tensor, sequences: Sequence[TokenSequence], owners: np.ndarray
    ) -> tuple[GroupCredit, tuple[Tensor, Tensor]]:
        """The credit; and of each sequence its advantage and whether there is anything to learn from it."""
        settings = self._settings
        rewards = torch.nn.utils.rnn.pad_sequence([self._rewards(episode) for episode in episodes])  # (T, N)
        if not settings.step_weight:
            discounts = settings.discount ** torch.arange(len(rewards))
            returns = (discounts[:, None] * rewards).sum(0)
            credit = VARIANTS[settings.variant].advantages(returns, groups, group_size=settings.group_size)
            return credit, (credit.advantages[owners], credit.informative[owners])
        mask = torch.arange(len(rewards))[:, None] < torch.tensor([len(episode) for episode in episodes])
        states = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor([state_hash(state.tobytes()) for state in episode.states[:-1]]) for episode in episodes]
        )
        scale = VARIANTS[settings.variant].step_scale
        assert scale is not None  # the settings see to it
        credit = gigpo_advantages(
            rewards, mask, states, groups, settings.discount, settings.step_weight, scale, settings.group_size
        )
        steps = np.array([sequence.steps[0] for sequence in sequences])
        return credit, (credit.advantages[steps, owners], credit.informative[steps, owners])

    def _rewards(self, episode: Episode) -> Tensor:
        invalid = torch.tensor([turn.invalid for turn in episode.turns])
        return torch.tensor(episode.rewards) - self._settings.invalid_penalty * invalid


class GRPOLosses:
    """The losses of an iteration's sequences.

    Args:
        advantages: of each sequence, (M,).
        max_tokens: the most that can be sampled at one step.
    """

    def __init__(
        self,
        lm: LanguageModel,
        reference: LanguageModel | None,
        settings: GRPOSettings,
        sequences: Sequence[TokenSequence],
        advantages: Tensor,
        metrics: dict[str, float],
        temperature: float,
        max_tokens: int,
    ) -> None:
        self.metrics = metrics
        self._lm, self._reference, self._settings = lm, reference, settings
        self._sequences, self._advantages = sequences, advantages
        self._temperature, self._max_tokens = temperature, max_tokens
        self._lengths = np.array([len(sequence.token_ids) for sequence in sequences])
        self._num_sampled = np.array([sequence.loss_mask.sum() for sequence in sequences])
        self._is_untouched = True

    def __len__(self) -> int:
        return len(self._sequences)

    def order(self, index: np.ndarray) -> np.ndarray:
        return index[np.argsort(self._lengths[index], kind="stable")]

    def loss(self, index: np.ndarray, batch: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        settings, variant = self._settings, VARIANTS[self._settings.variant]
        sequences = [self._sequences[i] for i in index]
        log_probs = sampled_log_probs(self._lm, sequences, self._temperature)
        old_log_probs = stack([sequence.log_probs for sequence in sequences]).to(log_probs.device)
        weights = self._weights(index, batch).to(log_probs.device)
        advantages = self._advantages[index].to(log_probs.device)
        loss, metrics = grpo_loss(
            log_probs, old_log_probs, advantages, weights, variant.clip_low, variant.clip_high, variant.ratio_level
        )
        metrics["policy/entropy"] = -log_probs.detach()[weights > 0].mean().item()  # of what was sampled
        if self._is_untouched:
            metrics["policy/train_rollout_log_prob_diff"] = (log_probs - old_log_probs).abs().max().item()
            self._is_untouched = False
        if self._reference is not None:
            with torch.no_grad():
                reference = sampled_log_probs(self._reference, sequences, self._temperature)
            of_kl, more = kl_loss(log_probs, reference, weights, settings.kl_estimator)
            loss, metrics = loss + settings.kl_weight * of_kl, metrics | more
        return loss, metrics

    def _weights(self, index: np.ndarray, batch: np.ndarray) -> Tensor:
        """The weights of these sequences' tokens in the loss of the whole batch; within a sequence all are equal."""
        aggregation = VARIANTS[self._settings.variant].aggregation
        lengths = torch.from_numpy(self._num_sampled[batch])
        loss_mask = torch.arange(int(lengths.max())) < lengths[:, None]
        of_batch = token_weights(loss_mask, aggregation, self._max_tokens if aggregation == "constant" else None)[:, 0]
        places = {sequence: place for place, sequence in enumerate(batch.tolist())}
        mask = stack([self._sequences[i].loss_mask for i in index])
        return mask * of_batch[[places[i] for i in index.tolist()]][:, None]

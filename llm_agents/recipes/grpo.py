"""Group-relative methods for an LLM that acts in free text: GRPO, Dr. GRPO, DAPO, GSPO, RLOO, and GiGPO's step credit.

`llm-agents train configs/grpo/babyai_goto.yaml`. Episodes of a group share goal and start; each is compared with the
others. What was sampled is trained on as it was sampled, token by token (`llm_agents.training.sequences`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from envs.episodes import Episode
from llm_agents.agents.memory import TextualMemory
from llm_agents.agents.text import TextAgent, TextAgentSettings
from llm_agents.credit.gae import discounted_returns, ends_of
from llm_agents.credit.groups import GroupCredit, centre, gigpo_advantages, state_hash
from llm_agents.losses import VARIANTS, KlEstimator, grpo_loss, kl_loss, token_weights
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.sampler import LocalSampler
from llm_agents.recipes.base import Stage
from llm_agents.recipes.llm_agent import AgentSpec, LLMAgentConfig, LLMAgentRecipe, WarmStartStages
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.runtime.run import Run
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.online import LearningBatch, OnlineSettings, train_online
from llm_agents.training.optimization import ParameterGroups, trained_parameters
from llm_agents.training.sequences import TokenSequence, join_turns, sampled_log_probs, stack

GRPO = "grpo"


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


class GRPOTraining(Stage):
    """Train on reward by comparing the episodes of a group."""

    purpose = "GRPO: play each goal and start several times, and make what did better than the others more probable."

    def __init__(self, shared: WarmStartStages) -> None:
        self._shared = shared

    def done(self) -> bool:
        return self._shared.run.has_finished(GRPO)

    def run(self) -> None:
        shared, config = self._shared, self._shared.config
        assert isinstance(config, GRPOConfig)
        learner = GRPOLearner(shared.load_warm_started_model(), config, shared.memory(GRPO))
        train_online(learner, config.grpo, shared.make_env, shared.task, shared.run, GRPO, config.seed)


class GRPORecipe(LLMAgentRecipe[GRPOConfig]):
    """Group-relative policy optimization of what the model writes."""

    Config = GRPOConfig
    reward_stage = GRPO

    def plan(self, config: GRPOConfig, run: Run) -> list[str]:
        return [*super().plan(config, run), config.grpo.plan]

    def reward_training(self, shared: WarmStartStages) -> GRPOTraining:
        return GRPOTraining(shared)

    def make_agent(self, shared: WarmStartStages, spec: AgentSpec) -> AnyAgent:
        config = shared.config
        assert isinstance(config, GRPOConfig)
        lm = shared.load_warm_started_model(None if spec.stage == GRPO else spec.stage)
        if spec.stage == GRPO:
            load_weights(lm, shared.run, GRPO)
        temperature = 0.0 if spec.greedy else config.text_agent.temperature
        settings = config.text_agent.model_copy(update={"temperature": temperature})
        return TextAgent(LocalSampler(lm), settings, config.prompts, shared.memory(spec.stage))


@dataclass(frozen=True)
class Sequences(LearningBatch):
    """Sequences of tokens, M of them, each with one advantage.

    Attributes:
        sequences: what was read and sampled.
        advantages: of each sequence, (M,).
    """

    sequences: Sequence[TokenSequence]
    advantages: Tensor


class GRPOLearner:
    """Turns groups of episodes into the losses of the family."""

    def __init__(self, lm: LanguageModel, config: GRPOConfig, memory: TextualMemory | None = None) -> None:
        self.module = lm
        self.agent = TextAgent(LocalSampler(lm), config.text_agent, config.prompts, memory)
        self.memory = memory
        self._settings, self._temperature = config.grpo, config.text_agent.temperature
        self._variant = VARIANTS[config.grpo.variant]
        self._max_tokens = config.text_agent.max_new_tokens
        self._reference = copy.deepcopy(lm).requires_grad_(False).eval() if config.grpo.kl_weight else None
        self._is_untouched = True  # in the present iteration

    def parameter_groups(self) -> ParameterGroups:
        """Return the parameters of the language model."""
        return [{"params": trained_parameters(self.module)}]

    def make_batch(
        self, episodes: Sequence[Episode], groups: Tensor, iteration: int
    ) -> tuple[Sequences, dict[str, float]]:
        """Give credit within groups; sequences of groups in which all did equally well are left out."""
        self._is_untouched = True
        by_episode = [join_turns(episode.turns) for episode in episodes]
        sequences = [sequence for found in by_episode for sequence in found]
        owners = torch.arange(len(episodes)).repeat_interleave(torch.tensor([len(found) for found in by_episode]))
        credit, of_sequence = self._credit(episodes, groups, sequences, owners)
        kept = credit.informative[of_sequence].nonzero()[:, 0]
        batch = Sequences(
            lengths=torch.tensor([len(sequences[place].token_ids) for place in kept.tolist()]),
            sequences=[sequences[place] for place in kept.tolist()],
            advantages=centre(credit.advantages[of_sequence][kept], groups[owners[kept]]),
        )
        return batch, credit.metrics

    def weights(self, batch: Sequences) -> Tensor:
        """Return the weight of a token of each sequence; within a sequence all are equal."""
        aggregation = self._variant.aggregation
        lengths = torch.tensor([int(sequence.loss_mask.sum()) for sequence in batch.sequences])
        sampled = torch.arange(int(lengths.max())) < lengths[:, None]
        return token_weights(sampled, aggregation, self._max_tokens if aggregation == "constant" else None)[:, 0]

    def loss(self, batch: Sequences, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        settings, variant = self._settings, self._variant
        log_probs = sampled_log_probs(self.module, batch.sequences, self._temperature)
        device = log_probs.device
        old_log_probs = stack([sequence.log_probs for sequence in batch.sequences]).to(device)
        mask = stack([sequence.loss_mask for sequence in batch.sequences])
        of_tokens = (mask * weights[:, None]).to(device)
        loss, metrics = grpo_loss(
            log_probs,
            old_log_probs,
            batch.advantages.to(device),
            of_tokens,
            variant.clip_low,
            variant.clip_high,
            variant.ratio_level,
        )
        metrics["policy/entropy"] = -log_probs.detach()[of_tokens > 0].mean().item()  # of what was sampled
        if self._is_untouched:  # nothing was learnt yet: what is trained must be what acted
            metrics["policy/train_rollout_log_prob_diff"] = (log_probs - old_log_probs).abs().max().item()
            self._is_untouched = False
        if self._reference is not None:
            with torch.no_grad():
                reference = sampled_log_probs(self._reference, batch.sequences, self._temperature)
            of_kl, more = kl_loss(log_probs, reference, of_tokens, settings.kl_estimator)
            loss, metrics = loss + settings.kl_weight * of_kl, metrics | more
        return loss, metrics

    def _credit(
        self, episodes: Sequence[Episode], groups: Tensor, sequences: Sequence[TokenSequence], owners: Tensor
    ) -> tuple[GroupCredit, Tensor]:
        """The credit of episodes or of their steps, and which of its entries is that of each sequence."""
        settings = self._settings
        lengths = [len(episode) for episode in episodes]
        ends, rewards = ends_of(lengths), torch.cat([self._rewards(episode) for episode in episodes])
        begins = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
        if not settings.step_weight:
            returns = discounted_returns(rewards, ends, settings.discount)[begins]
            return self._variant.advantages(returns, groups, group_size=settings.group_size), owners
        states = torch.tensor([state_hash(state.tobytes()) for episode in episodes for state in episode.states[:-1]])
        scale = self._variant.step_scale
        assert scale is not None  # the settings see to it
        credit = gigpo_advantages(
            rewards, ends, states, groups, settings.discount, settings.step_weight, scale, settings.group_size
        )
        return credit, begins[owners] + torch.tensor([int(sequence.steps[0]) for sequence in sequences])

    def _rewards(self, episode: Episode) -> Tensor:
        invalid = torch.tensor([turn.invalid for turn in episode.turns])
        return torch.from_numpy(np.array(episode.rewards)) - self._settings.invalid_penalty * invalid

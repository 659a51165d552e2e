"""Behaviour cloning: an LLM that chooses among action texts as the expert does. The warm start alone, as a recipe."""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field

from llm_agents.agents.scoring import ScoringAgent
from llm_agents.models.action_scorer import ActionScorer, ScorerSettings
from llm_agents.recipes.llm_agent import AgentSpec, LLMAgentConfig, LLMAgentRecipe, WarmStartSettings, WarmStartStages
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.runtime.streams import seeded
from llm_agents.training.checkpoints import load_weights


class ScoringConfig(LLMAgentConfig):
    """An LLM that chooses among action texts."""

    scorer: ScorerSettings = ScorerSettings()
    """``normalisation: sum`` is right after a warm start, which makes the actions' probabilities those of the expert. A
    model that learned nothing would prefer short actions by it; ``token`` treats them alike."""


C = TypeVar("C", bound=ScoringConfig)


class ScoringRecipe(LLMAgentRecipe[C]):
    """A recipe whose agent is a `ScoringAgent`."""

    def make_agent(self, shared: WarmStartStages, spec: AgentSpec) -> AnyAgent:
        scorer = self.new_scorer(shared, spec.stage)
        if spec.stage == self.reward_stage and shared.run.has_checkpoint(spec.stage):
            load_weights(scorer, shared.run, spec.stage)
        config = shared.config
        return ScoringAgent(scorer, config.prompts, 0.0 if spec.greedy else 1.0, shared.memory(spec.stage))

    def new_scorer(self, shared: WarmStartStages, stage: str | None = None) -> ActionScorer:
        """Make the scorer before training on reward, or after a stage; its value head depends on the seed alone."""
        config = shared.config
        assert isinstance(config, ScoringConfig)
        lm = shared.load_warm_started_model(None if stage == self.reward_stage else stage)
        with seeded(config.seed, "weights/scorer"):
            return ActionScorer(lm, config.scorer)


class CloningSettings(WarmStartSettings):
    """Supervised learning from the expert."""

    num_demonstrations: int = Field(5000, ge=1)
    """The expert's episodes for training goals."""


class BehaviourCloningConfig(ScoringConfig):
    """An LLM that chooses among action texts as the expert does."""

    warm_start: CloningSettings = CloningSettings()


class BehaviourCloningRecipe(ScoringRecipe[BehaviourCloningConfig]):
    """Behaviour cloning of the scripted expert."""

    Config = BehaviourCloningConfig
    sft_name = "bc"

"""Behaviour cloning: an LLM that chooses among action texts as the expert does. The warm start alone, as a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llm_agents.agents.scoring import ScoringAgent
from llm_agents.models.action_scorer import ActionScorer, ScorerSettings
from llm_agents.recipes.base import LLMAgentConfig, LLMAgentRecipe, WarmStartStages
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import seeded
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.warm_start import WarmStartSettings


class ScoringConfig(LLMAgentConfig):
    """An LLM that chooses among action texts."""

    scorer: ScorerSettings = ScorerSettings()
    """``normalisation: sum`` is right after a warm start, which makes the actions' probabilities those of the expert. A
    model that learned nothing would prefer short actions by it; ``token`` treats them alike."""


class ScoringRecipe(LLMAgentRecipe):
    """A recipe whose agent is a `ScoringAgent`."""

    def trained_agent(self, config: Any, warm_start_stages: WarmStartStages, name: str, temperature: float) -> AnyAgent:
        stage = self.stage_of(name)
        scorer = self.new_scorer(config, warm_start_stages, stage)
        if stage is None and warm_start_stages.run.has_checkpoint(name):
            load_weights(scorer, warm_start_stages.run, name)
        return ScoringAgent(scorer, config.prompts, temperature, warm_start_stages.memory(name))

    def new_scorer(self, config: Any, warm_start_stages: WarmStartStages, stage: str | None = None) -> ActionScorer:
        """The scorer before training on reward, or after a stage; its value head depends on the seed alone."""
        lm = warm_start_stages.load_warm_started_model(stage)
        with seeded(config.seed, "weights/scorer"):
            return ActionScorer(lm, config.scorer)


class CloningSettings(WarmStartSettings):
    """Supervised learning from the expert."""

    num_demonstrations: int = Field(5000, ge=1)
    """The expert's episodes for training goals."""


class BehaviourCloningConfig(ScoringConfig):
    """An LLM that chooses among action texts as the expert does."""

    warm_start: CloningSettings = CloningSettings()


class BehaviourCloningRecipe(ScoringRecipe):
    """Behaviour cloning of the scripted expert."""

    Config = BehaviourCloningConfig
    trained_names = ("bc",)

    def train(self, config: BehaviourCloningConfig, warm_start_stages: WarmStartStages, run: Run) -> None:
        """Nothing follows the warm start."""

"""The config of the KALM recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from kalm.dynamics import MLPDynamicsSettings
from kalm.generation import GenerationSettings
from kalm.grounding import GroundingSettings
from kalm.offline import BCSettings, PolicyChoice
from kalm.planning import SearchSettings
from kalm.verification import VerificationSettings
from llm_agents.evaluation.evaluate import EvaluationSettings
from llm_agents.models.loading import LanguageModelChoice
from llm_agents.models.text_encoder import DEFAULT_ENCODER
from llm_agents.models.tiny import TinySettings
from llm_agents.recipes.base import RecipeConfig
from llm_agents.runtime.settings import Settings

Method = Literal["lm_greedy", "lm_sample", "search", "search_mlp"]


class DataSettings(Settings):
    """What is collected in the environment. Nothing but goals of the training split, in their training phrasings."""

    renamed: ClassVar[Mapping[str, str]] = {"random_share": "random_fraction", "num_play": "num_random_rollouts"}

    num_rollouts: int = Field(20_000, ge=100)
    """Rollouts of the scripted expert for training goals."""
    random_fraction: float = Field(0.0, ge=0, le=1)
    """Probability with which a random action replaces the expert's."""
    num_random_rollouts: int = Field(2_000, ge=0)
    """Rollouts of a random agent, from which dynamics are learned and nothing else."""


class ImaginationSettings(Settings):
    """How much is imagined for unseen goals, and by which methods."""

    renamed: ClassVar[Mapping[str, str]] = {"ways": "methods"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "methods": {"greedy": "lm_greedy", "sample": "lm_sample"}
    }

    methods: tuple[Method, ...] = ("lm_greedy", "lm_sample", "search", "search_mlp")
    """Each method makes a data set of its own, and a policy trained on it."""
    num_rephrase: int = Field(2_400, ge=1)
    """Episodes for known goals in the given half of their new phrasings."""
    num_easy: int = Field(600, ge=1)
    """Episodes for goals of the split ``easy``."""
    num_hard: int = Field(2_400, ge=1)
    """Episodes for goals of the split ``hard``, the same number for each family."""


class ValidatedSettings(EvaluationSettings):
    """How the agents are judged, on the way and at the end."""

    num_validation: int = Field(100, ge=1)
    """Episodes, on training goals and other starts, from which the fraction of imagined data is chosen."""


class KalmConfig(RecipeConfig):
    """Knowledgeable agents from language model rollouts (Pang et al., NeurIPS 2024)."""

    environment: str = "envs:ClevrRobot-v0"
    """Gymnasium id of a `LanguageEnv` with discrete actions, or continuous ones in a box, a scripted expert and states
    that are vectors."""
    seed: int = Field(0, ge=0)
    """Seed of data, weights and batches. The panels have a seed of their own."""
    action_bins: int = Field(31, ge=2)
    """Continuous actions: how many values each of their numbers can take, from bound to bound; odd to have a zero."""
    data: DataSettings = DataSettings()
    text_encoder: str = DEFAULT_ENCODER
    """Through which policies, and by default the tiny language model, read text."""
    language_model: LanguageModelChoice = TinySettings()
    grounding: GroundingSettings = GroundingSettings()
    mlp_dynamics: MLPDynamicsSettings = MLPDynamicsSettings()
    imagination: ImaginationSettings = ImaginationSettings()
    generation: GenerationSettings = GenerationSettings()
    search: SearchSettings = SearchSettings()
    verification: VerificationSettings = VerificationSettings()
    policy: PolicyChoice = BCSettings()
    evaluation: ValidatedSettings = ValidatedSettings()

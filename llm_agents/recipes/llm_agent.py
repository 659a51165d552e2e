"""What the recipes for LLM agents share: the model and its vocabulary, demonstrations, the warm start, DAgger.

    vocabulary ──► demonstrations ──► warm start ──► DAgger ──► training on reward ──► judging
                   (the expert's)     (`sft`)        (`dagger`) (`ppo`, `grpo`)

A small model that was never trained knows neither words nor worlds; the warm start teaches it both. DAgger is left out
unless asked for. Without demonstrations the agent learns from reward alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field, model_validator

from envs.episodes import Episode
from envs.language import LanguageEnv, LanguageTask
from llm_agents.agents.memory import MemorySettings, TextualMemory, experience_of, in_words, restored, word_overlap
from llm_agents.agents.prompts import PromptSettings
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.evaluation.compare import Comparison
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import LanguageModelChoice, load_language_model
from llm_agents.models.tiny import TinySettings
from llm_agents.models.tokenizer import words_of
from llm_agents.recipes.base import EXPERT, RecipeConfig, Stage, TrainingRecipe, baseline_agents
from llm_agents.registry.environments import make_environment
from llm_agents.registry.recipes import Agents, References, load_run_config
from llm_agents.rollouts.collect import collect
from llm_agents.rollouts.observation import ActionWords, observations_of
from llm_agents.rollouts.panels import Column, Panel, phrasing_columns
from llm_agents.rollouts.rollout import AnyAgent, rollout
from llm_agents.rollouts.specs import draw_specs
from llm_agents.runtime.devices import describe_device, find_device
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import seeded
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.dagger import DaggerData, DaggerSettings, InterventionAgent
from llm_agents.training.loop import fit
from llm_agents.training.warm_start import BehaviourCloningLoss, WarmStartData, WarmStartSettings

NUM_CORPUS_EPISODES = 128
SFT, DAGGER = "sft", "dagger"  # the stages before training on reward
PLAYED = "played"
NUM_KEPT = 4  # episodes of each panel that are kept to be read


class LLMAgentConfig(RecipeConfig):
    """An LLM that acts in a text environment."""

    renamed: ClassVar[Mapping[str, str]] = {"corrections": "dagger"}

    environment: str = "envs:BabyAIText-v0"
    """Gymnasium id of a `LanguageEnv` whose actions have words."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the environment, such as ``{level: BabyAI-GoToLocal-v0}``."""
    seed: int = Field(0, ge=0)
    """Seed of data, weights and batches. The panels have a seed of their own."""
    language_model: LanguageModelChoice = TinySettings(text_input="words")
    prompts: PromptSettings = PromptSettings()
    memory: MemorySettings | None = None
    """Recall experience of training goals into the prompt; null for no memory."""
    warm_start: WarmStartSettings = WarmStartSettings()
    dagger: DaggerSettings = DaggerSettings()

    @model_validator(mode="after")
    def _corrects_what_was_begun(self) -> LLMAgentConfig:
        if self.dagger.num_episodes and not self.warm_start.num_demonstrations:
            raise ValueError(
                "corrections follow a warm start: set warm_start.num_demonstrations, or dagger.num_episodes to 0"
            )
        return self


@dataclass(frozen=True)
class AgentSpec:
    """Which of a run's models acts, and how.

    Attributes:
        stage: the stage that made the model.
        greedy: whether it takes the most probable action or text instead of sampling.
    """

    stage: str
    greedy: bool = False

    @property
    def name(self) -> str:
        """The agent's name in tables, such as ``ppo`` or ``ppo (greedy)``."""
        return f"{self.stage} (greedy)" if self.greedy else self.stage


class WarmStartStages:
    """The model, its vocabulary and what it learns before any reward: what the stages of a run share."""

    def __init__(self, config: LLMAgentConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.make_env = partial(make_environment, config.environment, **config.options)

    @cached_property
    def task(self) -> LanguageTask:
        return self.make_env().task

    @property
    def names(self) -> list[str]:
        """The stages before training on reward that are wanted."""
        wanted = {SFT: self.config.warm_start.num_demonstrations, DAGGER: self.config.dagger.num_episodes}
        return [name for name, count in wanted.items() if count]

    def new_model(self) -> LanguageModel:
        """Make the model before any training; its weights depend on the seed alone."""
        corpus = self.run.get_or_compute("corpus", self._corpus)
        texts = [text for text, count in corpus["texts"].items() for _ in range(count)]
        with seeded(self.config.seed, "weights/language_model"):
            return load_language_model(self.config.language_model, corpus=texts, goal_words=corpus["goal_words"])

    def load_warm_started_model(self, last: str | None = None) -> LanguageModel:
        """Load the model after the warm start, or after one of its stages; untrained if there was none."""
        lm = self.new_model()
        names = self.names[: self.names.index(last) + 1] if last in self.names else self.names
        if names and (last is None or last in self.names):
            load_weights(self.cloning(lm), self.run, names[-1])
        return lm

    def memory(self, name: str) -> TextualMemory | None:
        """Return what the agent of that stage remembers at its last checkpoint; None without memory."""
        if self.config.memory is None:
            return None
        metadata = self.run.load_checkpoint(name)[1] if self.run.has_checkpoint(name) else {}
        return restored(self.config.memory, word_overlap, metadata.get("memory", ()))

    def collect(self, name: str, make_agent: Callable[[LanguageTask], AnyAgent], count: int) -> list[Episode]:
        """Collect episodes for training goals, into a store of that name."""
        specs = draw_specs(self.task, "train", count, self.config.seed, name)
        return collect(self.make_env, make_agent, specs, self.run.episodes(name), name, self.config)

    def warm_start_data(
        self, lm: LanguageModel, episodes: Sequence[Episode], settings: WarmStartSettings
    ) -> WarmStartData:
        """Return what is learnt from the expert's episodes."""
        return WarmStartData(lm, self.config.prompts, self.task, episodes, settings, self.config.seed)

    def cloning(self, lm: LanguageModel) -> BehaviourCloningLoss:
        """Return the model with the loss of behaviour cloning."""
        return BehaviourCloningLoss(lm, self.config.warm_start.text_weight)

    def _corpus(self) -> dict[str, Any]:
        """Texts of the environment under random actions, and the words of goals, for a model without a vocabulary.

        An observation counts as often as it was seen, so that what can be done in every step counts most. With a
        memory, the episodes count, too, as they would be remembered.
        """
        specs = draw_specs(self.task, "train", NUM_CORPUS_EPISODES, self.config.seed, "corpus")
        action_words = ActionWords(self.task)
        texts = Counter(words for goal in self.task.goals("train") for words in goal.phrasings)
        goals = set(texts)
        for episode in rollout(RandomAgent(), self.make_env, specs):
            for observation in observations_of(self.task, episode, action_words):
                texts.update([observation.instruction, observation.text, *observation.actions])
                goals.add(observation.instruction)
            if self.config.memory is not None:
                memory = in_words(experience_of(episode, action_words))
                texts[self.config.prompts.memory_line.format(memory=memory)] += 1
        for line in self.config.prompts.frame:
            texts[line] += NUM_CORPUS_EPISODES
        return {"texts": dict(sorted(texts.items())), "goal_words": words_of(sorted(goals))}


class WarmStart(Stage):
    """Learn from the expert's demonstrations."""

    purpose = "Warm start: learn the environment's words, and what the expert does, from its demonstrations."

    def __init__(self, shared: WarmStartStages) -> None:
        self._shared = shared

    def done(self) -> bool:
        return SFT not in self._shared.names or self._shared.run.has_finished(SFT)

    def run(self) -> None:
        shared, settings = self._shared, self._shared.config.warm_start
        lm = shared.new_model()  # before anything is collected, as it may not be there
        episodes = shared.collect("demonstrations", ExpertAgent, settings.num_demonstrations)
        fit(shared.cloning(lm), settings, shared.warm_start_data(lm, episodes, settings).batch, shared.run, SFT)


class Dagger(Stage):
    """Learn what the expert does where the model's own doing has led."""

    purpose = "DAgger: the model begins episodes, the expert ends them, and the model learns how."

    def __init__(self, shared: WarmStartStages, make_agent: Callable[[LanguageTask], InterventionAgent]) -> None:
        self._shared, self._make_agent = shared, make_agent

    def done(self) -> bool:
        return DAGGER not in self._shared.names or self._shared.run.has_finished(DAGGER)

    def run(self) -> None:
        shared, config = self._shared, self._shared.config
        episodes = shared.collect("dagger", self._make_agent, config.dagger.num_episodes)
        lm = shared.load_warm_started_model(SFT)
        as_large = config.warm_start.model_copy(update={"batch_size": config.dagger.batch_size})
        demonstrations = shared.warm_start_data(lm, shared.run.episodes("demonstrations").read(), as_large)
        noise = config.warm_start.goal_noise
        data = DaggerData(lm, config.prompts, shared.task, demonstrations, episodes, config.dagger, noise, config.seed)
        fit(shared.cloning(lm), config.dagger, data.batch, shared.run, DAGGER)


C = TypeVar("C", bound=LLMAgentConfig)


class LLMAgentRecipe(TrainingRecipe[C]):
    """A recipe whose agent is an LLM. The table shows each model as it samples, and as it takes the best.

    Attributes:
        sft_name: what the agent after the warm start is called.
        reward_stage: the stage that trains on reward; None where nothing follows the warm start.
    """

    sft_name: ClassVar[str] = SFT
    reward_stage: ClassVar[str | None] = None

    @abstractmethod
    def make_agent(self, shared: WarmStartStages, spec: AgentSpec) -> AnyAgent:
        """Load the model of a stage, as an agent."""

    def reward_training(self, shared: WarmStartStages) -> Stage | None:
        """Return the stage that trains on reward; None where there is none."""
        return None

    def stages(self, config: C, run: Run) -> list[Stage]:
        shared = WarmStartStages(config, run)
        last = self.reward_training(shared)
        intervention = partial(_make_intervention_agent, self, run.folder)
        return [WarmStart(shared), Dagger(shared, intervention), *([] if last is None else [last])]

    def plan(self, config: C, run: Run) -> list[str]:
        warm, dagger, device = config.warm_start, config.dagger, find_device(config.language_model.device)
        steps = f"{warm.num_demonstrations} demonstrations for {warm.num_steps} steps of {warm.batch_size} sequences"
        return [
            f"{config.language_model.name} on {describe_device(device)}, seed {config.seed}",
            *([f"learn from {steps}"] if warm.num_demonstrations else []),
            *([f"DAgger: {dagger.num_episodes} episodes, {dagger.num_steps} steps"] if dagger.num_episodes else []),
        ]

    def make_env(self, config: C) -> LanguageEnv:
        return make_environment(config.environment, **config.options)

    def columns(self, config: C) -> list[Column]:
        return phrasing_columns(self.make_env(config).task)

    def agents(self, run: Run) -> Agents:
        shared = WarmStartStages(load_run_config(self, run), run)
        stages = [SFT, *(name for name in shared.names if name != SFT)]
        stages += [self.reward_stage] if self.reward_stage is not None else []
        specs = [AgentSpec(stage, greedy) for stage in stages for greedy in (False, True)]
        trained = {self._shown(spec): partial(self.make_agent, shared, spec) for spec in specs}
        return {**baseline_agents(shared.task), **trained}

    def references(self, run: Run) -> References:
        expert = EXPERT if EXPERT in self.agents(run) else self.sft_name
        return References(self.sft_name, expert)

    def episode_stores(self, run: Run) -> dict[str, str]:
        return {PLAYED: f"played by {self.reward_stage or self.sft_name}"}

    def after_evaluation(self, config: C, run: Run, panels: Mapping[str, Panel], comparison: Comparison) -> None:
        """Keep a few episodes of the last agent, with all its turns, for the report."""
        store, shared = run.episodes(PLAYED), WarmStartStages(config, run)
        if not store.files:
            agent = self.make_agent(shared, AgentSpec(self.reward_stage or (shared.names or [SFT])[-1]))
            specs = [spec for panel in panels.values() for spec in panel.specs[:NUM_KEPT]]
            store.append(rollout(agent, shared.make_env, specs))

    def _shown(self, spec: AgentSpec) -> str:
        return AgentSpec(self.sft_name, spec.greedy).name if spec.stage == SFT else spec.name


def _make_intervention_agent(recipe: LLMAgentRecipe, folder: Path, task: LanguageTask) -> InterventionAgent:
    """The agent after its warm start, whose episodes the expert takes over, in any process."""
    run = Run.open(folder)
    shared = WarmStartStages(load_run_config(recipe, run), run)
    return InterventionAgent(recipe.make_agent(shared, AgentSpec(SFT)), ExpertAgent(task))

"""What the recipes for LLM agents share: the model and its vocabulary, demonstrations, the warm start, the judging.

    vocabulary ──► demonstrations ──► warm start ──► DAgger ──────► training on reward ──► judging
                   (the expert's)     (`sft`)        (`dagger`)      (`ppo`, `grpo`)

A small model that was never trained knows neither words nor worlds; the warm start teaches it both. Corrections are
left out unless asked for. Without demonstrations the agent learns from reward alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from envs.episodes import Episode
from envs.goals import unknown
from envs.language import LanguageEnv, LanguageTask
from llm_agents.agents.memory import MemorySettings, TextualMemory, experience_of, in_words, restored, word_overlap
from llm_agents.agents.prompts import PromptSettings
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.evaluation.evaluate import EvaluationSettings, evaluate_agents, make_panels
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import LanguageModelChoice, load_language_model
from llm_agents.models.tiny import TinySettings
from llm_agents.models.tokenizer import words_of
from llm_agents.registry.environments import make_environment
from llm_agents.registry.recipes import Recipe, References
from llm_agents.rollouts.collect import collect
from llm_agents.rollouts.observation import ActionWords, observations_of
from llm_agents.rollouts.panels import Column, Panel, phrasing_columns
from llm_agents.rollouts.rollout import AnyAgent, rollout
from llm_agents.rollouts.specs import draw_specs
from llm_agents.runtime.config import Settings, parse_config
from llm_agents.runtime.devices import describe_device, find_device
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import seeded
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.dagger import DaggerData, DaggerSettings, InterventionAgent
from llm_agents.training.loop import fit
from llm_agents.training.warm_start import BehaviourCloningLoss, WarmStartData, WarmStartSettings

NUM_CORPUS_EPISODES = 128


STAGES = SFT, DAGGER = "sft", "dagger"  # before training on reward


GREEDY = "+greedy"


PLAYED = "played"


NUM_KEPT = 4  # episodes of each panel that are kept to be read


class LLMAgentConfig(Settings):
    """An LLM that acts in a text environment."""

    renamed: ClassVar[Mapping[str, str]] = {"corrections": "dagger"}

    environment: str = "envs:BabyAIText-v0"
    """Gymnasium id of a `LanguageEnv` whose actions have words."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the environment, such as ``{level: BabyAI-GoToLocal-v0}``."""
    seed: int = Field(0, ge=0)
    """Seed of data, weights and batches. The panels have a seed of their own."""
    num_workers: int = Field(2, ge=1)
    """Processes for demonstrations and judging. No number depends on it."""
    language_model: LanguageModelChoice = TinySettings(text_input="words")
    prompts: PromptSettings = PromptSettings()
    memory: MemorySettings | None = None
    """Recall experience of training goals into the prompt; null for no memory."""
    warm_start: WarmStartSettings = WarmStartSettings()
    dagger: DaggerSettings = DaggerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _corrects_what_was_begun(self) -> LLMAgentConfig:
        if self.dagger.num_episodes and not self.warm_start.num_demonstrations:
            raise ValueError(
                "corrections follow a warm start: set warm_start.num_demonstrations, or dagger.num_episodes to 0"
            )
        return self


class WarmStartStages:
    """The stages before training on reward, and what they share. Each is done once; results are in the run's folder."""

    def __init__(self, config: LLMAgentConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.make_env = partial(make_environment, config.environment, **config.options)

    @cached_property
    def task(self) -> LanguageTask:
        return self._probe.task

    @cached_property
    def _probe(self) -> LanguageEnv:
        return self.make_env()

    @cached_property
    def has_expert(self) -> bool:
        return self.task.expert() is not None

    def new_model(self) -> LanguageModel:
        """The model before any training; its weights depend on the seed alone."""
        corpus = self.run.get_or_compute("corpus", self._corpus)
        texts = [text for text, count in corpus["texts"].items() for _ in range(count)]
        with seeded(self.config.seed, "weights/language_model"):
            return load_language_model(self.config.language_model, corpus=texts, goal_words=corpus["goal_words"])

    @property
    def stages(self) -> list[str]:
        """Those of ``STAGES`` that are wanted."""
        wanted = self.config.warm_start.num_demonstrations, self.config.dagger.num_episodes
        return [stage for stage, count in zip(STAGES, wanted, strict=True) if count]

    def load_warm_started_model(self, last: str | None = None) -> LanguageModel:
        """The model after the stages, or after those up to one of them; untrained if there is none."""
        lm = self.new_model()
        stages = self.stages if last is None else self.stages[: STAGES.index(last) + 1]
        if stages:
            load_weights(self._cloning(lm), self.run, stages[-1])
        return lm

    def memory(self, name: str) -> TextualMemory | None:
        """What the agent of that name remembers at its last checkpoint; None for an agent without memory."""
        if self.config.memory is None:
            return None
        metadata = self.run.load_checkpoint(name)[1] if self.run.has_checkpoint(name) else {}
        return restored(self.config.memory, word_overlap, metadata.get("memory", ()))

    def warm_start(self) -> None:
        """Collect demonstrations and learn from them."""
        settings = self.config.warm_start
        if not settings.num_demonstrations or self.run.has_finished(SFT):
            return
        lm = self.new_model()  # before anything is collected, as it may not be there
        episodes = self._collect("demonstrations", ExpertAgent, settings.num_demonstrations)
        fit(self._cloning(lm), settings, self._warm_start_data(lm, episodes, settings).batch, self.run, SFT)

    def dagger(self, make_agent: Callable[[LanguageTask], InterventionAgent]) -> None:
        """Collect corrections by such agents, and learn from them beside the demonstrations."""
        settings, warm_start = self.config.dagger, self.config.warm_start
        if not settings.num_episodes or self.run.has_finished(DAGGER):
            return
        episodes = self._collect("dagger", make_agent, settings.num_episodes)
        lm, noise = self.load_warm_started_model(SFT), warm_start.goal_noise
        as_large = warm_start.model_copy(update={"batch_size": settings.batch_size})
        beside = self._warm_start_data(lm, self.run.episodes("demonstrations").read(), as_large)
        data = DaggerData(lm, self.config.prompts, self.task, beside, episodes, settings, noise, self.config.seed)
        fit(self._cloning(lm), settings, data.batch, self.run, DAGGER)

    def _collect(self, name: str, make_agent: Callable[[LanguageTask], AnyAgent], count: int) -> list[Episode]:
        """Collect episodes for training goals."""
        specs = draw_specs(self.task, "train", count, self.config.seed, name)
        return collect(self.make_env, make_agent, specs, self.run.episodes(name), name, self.config.num_workers)

    def _warm_start_data(
        self, lm: LanguageModel, episodes: Sequence[Episode], settings: WarmStartSettings
    ) -> WarmStartData:
        return WarmStartData(lm, self.config.prompts, self.task, episodes, settings, self.config.seed)

    def _cloning(self, lm: LanguageModel) -> BehaviourCloningLoss:
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


def _make_intervention_agent(recipe: LLMAgentRecipe, folder: Path, task: LanguageTask) -> InterventionAgent:
    """The agent after its warm start, corrected by the expert, in any process."""
    return InterventionAgent(recipe.load_agent(Run.open(folder), recipe.trained_names[0]), ExpertAgent(task))


def baselines(warm_start_stages: WarmStartStages) -> dict[str, AnyAgent]:
    """Agents that need no training."""
    agents: dict[str, AnyAgent] = {"random": RandomAgent()}
    if warm_start_stages.has_expert:
        agents["expert"] = ExpertAgent(warm_start_stages.task)
    return agents


class LLMAgentRecipe(Recipe):
    """A recipe whose agent is an LLM: what is judged, and in which order things are done.

    The table shows each trained agent as it samples and, with ``+greedy``, as it takes the best.

    Attributes:
        Config: the recipe's config.
        trained_names: the agents that are trained, first the one after the warm start.
    """

    Config: type[LLMAgentConfig]
    trained_names: tuple[str, ...]

    def train(self, config: Any, warm_start_stages: WarmStartStages, run: Run) -> None:
        """Train on reward."""
        raise NotImplementedError

    def trained_agent(self, config: Any, warm_start_stages: WarmStartStages, name: str, temperature: float) -> AnyAgent:
        """One of ``trained_names``, or ``dagger``, that acts at a temperature."""
        raise NotImplementedError

    def run(self, config: Any, run: Run) -> None:
        """Everything, stage by stage.

        Raises:
            UserError: a loss is not finite, or the environment does not fit.
        """
        warm_start_stages = WarmStartStages(config, run)
        self._print_plan(config, run)
        warm_start_stages.warm_start()
        warm_start_stages.dagger(partial(_make_intervention_agent, self, run.folder))
        self.train(config, warm_start_stages, run)
        panels = make_panels(
            warm_start_stages.task, self.columns(config), config.evaluation.num_episodes, config.evaluation.panel_seed
        )
        evaluate_agents(run, self, panels, config.num_workers)
        self._keep_some(run, panels, warm_start_stages)

    def _print_plan(self, config: Any, run: Run) -> None:
        """What will be done, in the words of sizes."""
        warm, evaluation = config.warm_start, config.evaluation
        begin = f"learn from {warm.num_demonstrations} demonstrations for {warm.num_steps} steps of {warm.batch_size}"
        parts = [f"{config.language_model.name} on {describe_device(find_device(config.language_model.device))}"]
        parts += [f"{begin} sequences"] if warm.num_demonstrations else []
        dagger = config.dagger
        if dagger.num_episodes:
            parts += [f"be corrected in {dagger.num_episodes} episodes, for {dagger.num_steps} steps"]
        parts += [self.plan(config)] if self.plan(config) else []
        parts += [
            f"judge {len(self.agent_names(run))} agents on {len(self.columns(config))} panels of "
            f"{evaluation.num_episodes} episodes"
        ]
        print(f"plan: {'; '.join(parts)}; {config.num_workers} processes, seed {config.seed}")

    def plan(self, config: Any) -> str:
        """What training on reward will do, in the words of sizes; empty where there is none."""
        return ""

    def _keep_some(self, run: Run, panels: Mapping[str, Panel], warm_start_stages: WarmStartStages) -> None:
        """A few judged episodes of the last agent, with all its turns, for the report."""
        store = run.episodes(PLAYED)
        if not store.files:
            agent = self.load_agent(run, self._last_name(run))
            specs = [spec for panel in panels.values() for spec in panel.specs[:NUM_KEPT]]
            store.append(rollout(agent, warm_start_stages.make_env, specs))

    def make_env(self, config: Any) -> LanguageEnv:
        return make_environment(config.environment, **config.options)

    def columns(self, config: Any) -> list[Column]:
        return phrasing_columns(self.make_env(config).task)

    def episode_stores(self, run: Run) -> dict[str, str]:
        return {PLAYED: f"played by {self._last_name(run)}"}

    def _last_name(self, run: Run) -> str:
        return self.agent_names(run)[-1].removesuffix(GREEDY)

    def agent_names(self, run: Run) -> list[str]:
        warm_start_stages = WarmStartStages(parse_config(self.Config, run.config, str(run.folder)), run)
        first, *others = self.trained_names
        trained = [first, *(stage for stage in warm_start_stages.stages if stage != SFT), *others]
        return [*baselines(warm_start_stages), *(f"{name}{how}" for name in trained for how in ("", GREEDY))]

    def references(self, run: Run) -> References:
        first = self.trained_names[0]
        return References(first, "expert" if "expert" in self.agent_names(run) else first)

    def stage_of(self, name: str) -> str | None:
        """The stage that makes an agent; None for one that is trained on reward."""
        return {self.trained_names[0]: SFT, DAGGER: DAGGER}.get(name)

    def load_agent(self, run: Run, name: str) -> AnyAgent:
        if name not in self.agent_names(run):
            raise UserError(unknown("agent", name, self.agent_names(run)))
        config = parse_config(self.Config, run.config, str(run.folder))
        warm_start_stages = WarmStartStages(config, run)
        fixed = baselines(warm_start_stages)
        if name in fixed:
            return fixed[name]
        temperature = 0.0 if name.endswith(GREEDY) else 1.0
        return self.trained_agent(config, warm_start_stages, name.removesuffix(GREEDY), temperature)

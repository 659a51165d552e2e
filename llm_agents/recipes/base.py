"""What every recipe does: the plan, the stages in their order, and the evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from envs.language import LanguageTask
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.evaluation.compare import Comparison
from llm_agents.evaluation.evaluate import EvaluationSettings, evaluate_agents, make_panels
from llm_agents.registry.recipes import Recipe
from llm_agents.rollouts.panels import Panel
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.runtime.parallel import WorkerSettings
from llm_agents.runtime.run import Run

RANDOM, EXPERT = "random", "expert"


class RecipeConfig(WorkerSettings):
    """What the config of every recipe has."""

    evaluation: EvaluationSettings = EvaluationSettings()


class Stage(ABC):
    """One part of a training, done once: what it makes is in the run's folder.

    Attributes:
        purpose: what it is for, in one line that is printed when it begins.
    """

    purpose: str

    @abstractmethod
    def done(self) -> bool:
        """Whether what it makes is there."""

    @abstractmethod
    def run(self) -> None:
        """Do it, or what is left of it.

        Raises:
            UserError: it cannot be done.
        """


C = TypeVar("C", bound=RecipeConfig)


class TrainingRecipe(Recipe, ABC, Generic[C]):
    """A recipe that says its stages and its agents; the rest is done here, once."""

    Config: type[C]

    @abstractmethod
    def stages(self, config: C, run: Run) -> Sequence[Stage]:
        """Return the stages of a training, in their order."""

    @abstractmethod
    def plan(self, config: C, run: Run) -> list[str]:
        """Say what will be done, in numbers: one entry a stage."""

    def prepare(self, config: C, run: Run) -> None:
        """Refuse what cannot work, before anything is done.

        Raises:
            UserError: the environment does not fit, or a setting.
        """

    def after_evaluation(self, config: C, run: Run, panels: Mapping[str, Panel], comparison: Comparison) -> None:
        """Do what follows upon the results."""

    def train(self, config: C, run: Run) -> None:
        """Do the stages that are not done.

        Raises:
            UserError: one cannot be done, or a loss is not finite.
        """
        for stage in self.stages(config, run):
            if not stage.done():
                print(f"\n{stage.purpose}")
                stage.run()

    def run(self, config: C, run: Run) -> None:
        """Do every stage, then judge the agents.

        Raises:
            UserError: a stage cannot be done, or a loss is not finite.
        """
        self.prepare(config, run)
        self._print_plan(config, run)
        self.train(config, run)
        settings = config.evaluation
        panels = make_panels(
            self.make_env(config).task, self.columns(config), settings.num_episodes, settings.panel_seed
        )
        print("\nJudge every agent on the same panels of goals, phrasings and starts.")
        comparison = evaluate_agents(run, self, panels, config)
        self.after_evaluation(config, run, panels, comparison)

    def _print_plan(self, config: C, run: Run) -> None:
        num_agents, num_panels = len(self.agents(run)), len(self.columns(config))
        judging = f"judge {num_agents} agents on {num_panels} panels of {config.evaluation.num_episodes} episodes"
        parts = "; ".join([*self.plan(config, run), judging])
        print(f"plan: {parts}; {config.num_workers} processes")


def baseline_agents(task: LanguageTask) -> dict[str, Callable[[], AnyAgent]]:
    """Return the agents that need no training: a random one, and the task's expert if it has one."""
    agents: dict[str, Callable[[], AnyAgent]] = {RANDOM: RandomAgent}
    if task.expert() is not None:
        agents[EXPERT] = partial(ExpertAgent, task)
    return agents

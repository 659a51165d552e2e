"""A recipe that trains nothing, for tests of what stands around recipes."""

from __future__ import annotations

from pydantic import Field

from envs.clevr_robot import make
from envs.language import LanguageEnv
from llm_agents.agents.scripted import ExpertAgent, NoisyAgent, RandomAgent
from llm_agents.evaluation.evaluate import evaluate_run, make_panels
from llm_agents.registry.recipes import Agents, Recipe, References, load_agent
from llm_agents.rollouts.panels import Column
from llm_agents.rollouts.rollout import rollout
from llm_agents.runtime.parallel import WorkerSettings
from llm_agents.runtime.run import Run
from llm_agents.runtime.settings import Settings


class PolicySettings(Settings):
    num_steps: int = Field(10, ge=1)
    """Steps that are logged."""
    learning_rate: float = 1e-3
    """A number with a point."""


class ToySettings(WorkerSettings):
    policy: PolicySettings = PolicySettings()
    note: str = ""
    seed: int = 0


class ToyRecipe(Recipe):
    Config = ToySettings

    def run(self, config: ToySettings, run: Run) -> None:
        for step in range(config.policy.num_steps):
            run.log("policy", step, {"loss": 1 / (1 + step)})
        panels = make_panels(self.make_env(config).task, self.columns(config), size=4)
        for store, agent in (("real", "expert"), ("imagined", "random")):
            run.episodes(store).append(rollout(load_agent(self, run, agent), make, panels["easy"].specs))
        evaluate_run(run, self, panels, list(self.agents(run)))

    def make_env(self, config: ToySettings) -> LanguageEnv:
        return make()

    def columns(self, config: ToySettings) -> list[Column]:
        return [Column("easy", "easy"), Column("rephrase (new)", "rephrase", "new")]

    def agents(self, run: Run) -> Agents:
        expert = ExpertAgent(make().task)
        return {"expert": lambda: expert, "half random": lambda: NoisyAgent(expert, 0.5), "random": RandomAgent}

    def references(self, run: Run) -> References:
        return References("random", "expert")

    def episode_stores(self, run: Run) -> dict[str, str]:
        return {"real": "the expert's", "imagined": "made at random"}

    def report_tables(self, run: Run) -> dict[str, str]:
        return {"verifier": "What was verified"}

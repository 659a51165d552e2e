"""KALM end to end: collect, ground, imagine, verify, train policies, judge them on goals they have never seen.

Every stage leaves its result in the run's folder and is not done again: a run that was stopped anywhere goes on where
it was, and ends with the same numbers.
"""

from __future__ import annotations

from envs.goals import unknown
from envs.language import LanguageEnv
from kalm.lm_agent import TrajectoryLMAgent
from kalm.settings import KalmConfig, Method
from kalm.stages import COLUMNS, Stages
from kalm.summary import BASELINE, ORACLE, summarize
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.evaluation.evaluate import evaluate_agents
from llm_agents.registry.environments import make_environment
from llm_agents.registry.recipes import Recipe, References
from llm_agents.rollouts.panels import Column
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run


class KalmRecipe(Recipe):
    """Knowledgeable agents from language model rollouts (Pang et al., NeurIPS 2024)."""

    Config = KalmConfig

    def run(self, config: KalmConfig, run: Run) -> None:
        """Everything, stage by stage.

        Raises:
            UserError: imagination fails the quality gate, a loss is not finite, or the environment does not fit.
        """
        stages = Stages(config, run)
        stages.check()
        stages.print_plan()
        stages.collect()
        stages.learn_models()
        stages.imagine()
        stages.train_policies()
        self._evaluate(config, run)

    def make_env(self, config: KalmConfig) -> LanguageEnv:
        return make_environment(config.environment)

    def columns(self, config: KalmConfig) -> list[Column]:
        return list(COLUMNS)

    def agent_names(self, run: Run) -> list[str]:
        methods = Stages(KalmConfig.model_validate(run.config), run).imagined_methods
        return ["random", "expert", "lm", "real", *(f"real+{method}" for method in methods), "real+oracle"]

    def references(self, run: Run) -> References:
        return References(BASELINE, ORACLE)

    def load_agent(self, run: Run, name: str) -> AnyAgent:
        config = KalmConfig.model_validate(run.config)
        if name not in self.agent_names(run):
            raise UserError(unknown("agent", name, self.agent_names(run)))
        if name == "random":
            return RandomAgent()
        if name == "expert":
            return ExpertAgent(self.make_env(config).task)
        stages = Stages(config, run)
        if name == "lm":
            return TrajectoryLMAgent(stages.load_language_model(), config.policy.temperature)
        return stages.load_policy_agent(name, stages.chosen_fraction())

    def episode_stores(self, run: Run) -> dict[str, str]:
        methods = KalmConfig.model_validate(run.config).imagination.methods
        return {
            "real": "real: the expert in the environment, training goals",
            **{f"imagined_{method}": f"imagined: {_CAPTIONS[method]}" for method in methods},
            "oracle": "real: the expert in the environment, unseen goals (oracle)",
        }

    def _evaluate(self, config: KalmConfig, run: Run) -> None:
        panels = Stages(config, run).panels()
        comparison = evaluate_agents(run, self, panels, config.num_workers)
        run.get_or_compute("summary", lambda: summarize(comparison))


_CAPTIONS: dict[Method, str] = {
    "lm_greedy": "written by the language model, greedy and unfiltered",
    "lm_sample": "written by the language model, sampled and verified",
    "search": "lookahead in the language model's dynamics, verified",
    "search_mlp": "lookahead in an MLP's dynamics, verified",
}

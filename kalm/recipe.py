"""KALM end to end: collect, ground, imagine, verify, train policies, judge them on goals they have never seen.

Every stage leaves its result in the run's folder and is not done again: a run that was stopped anywhere goes on where
it was, and ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from envs.language import LanguageEnv
from kalm.lm_agent import TrajectoryLMAgent
from kalm.offline import ALGORITHMS
from kalm.policies import PolicySpec, load_policy_agent, policy_specs
from kalm.settings import KalmConfig, Method
from kalm.stages import ChooseFraction, Collect, Imagine, LearnModels, QualityGate, TrainPolicies
from kalm.summary import BASELINE, ORACLE, in_sentences, summarize
from kalm.workspace import COLUMNS, UNSEEN, Workspace
from llm_agents.evaluation.compare import Comparison
from llm_agents.recipes.base import Stage, TrainingRecipe, baseline_agents
from llm_agents.registry.environments import make_environment
from llm_agents.registry.recipes import Agents, References
from llm_agents.rollouts.panels import Column, Panel
from llm_agents.runtime.devices import describe_device, find_device
from llm_agents.runtime.run import Run

CAPTIONS: dict[Method, str] = {
    "lm_greedy": "written by the language model, greedy and unfiltered",
    "lm_sample": "written by the language model, sampled and verified",
    "search": "lookahead in the language model's dynamics, verified",
    "search_mlp": "lookahead in an MLP's dynamics, verified",
}


class KalmRecipe(TrainingRecipe[KalmConfig]):
    """Knowledgeable agents from language model rollouts (Pang et al., NeurIPS 2024)."""

    Config = KalmConfig

    def prepare(self, config: KalmConfig, run: Run) -> None:
        """Refuse actions that cannot be learned, and too few episodes for each kind of goal."""
        workspace = Workspace(config, run)
        ALGORITHMS[config.policy.algorithm].check(workspace.actions)
        for split in UNSEEN:
            workspace.unseen_specs(split)

    def stages(self, config: KalmConfig, run: Run) -> list[Stage]:
        workspace = Workspace(config, run)
        kinds = (Collect, LearnModels, Imagine, QualityGate, ChooseFraction, TrainPolicies)
        return [kind(workspace) for kind in kinds]

    def plan(self, config: KalmConfig, run: Run) -> list[str]:
        imagination, grounding, policy = config.imagination, config.grounding, config.policy
        unseen = imagination.num_rephrase + imagination.num_easy + imagination.num_hard
        num_methods, methods = len(imagination.methods), ", ".join(imagination.methods) or "no method"
        device = describe_device(find_device(config.language_model.device))
        return [
            f"collect {config.data.num_rollouts} rollouts and {config.data.num_random_rollouts} random ones",
            f"ground {config.language_model.name} on {device} for {grounding.num_steps} steps of "
            f"{grounding.batch_size} sequences",
            f"imagine {unseen} episodes by {methods}",
            f"train {num_methods + 2} policies ({policy.algorithm}) for {policy.num_steps} steps of "
            f"{policy.batch_size} transitions",
            f"seed {config.seed}",
        ]

    def make_env(self, config: KalmConfig) -> LanguageEnv:
        return make_environment(config.environment)

    def columns(self, config: KalmConfig) -> list[Column]:
        return list(COLUMNS)

    def agents(self, run: Run) -> Agents:
        config = KalmConfig.model_validate(run.config)
        workspace = Workspace(config, run)
        policies = policies_of(workspace)
        return {
            **baseline_agents(workspace.task),
            "lm": lambda: TrajectoryLMAgent(workspace.language_model, config.policy.temperature),
            **{name: partial(load_policy_agent, workspace, spec) for name, spec in policies.items()},
        }

    def references(self, run: Run) -> References:
        return References(BASELINE, ORACLE)

    def episode_stores(self, run: Run) -> dict[str, str]:
        methods = KalmConfig.model_validate(run.config).imagination.methods
        return {
            "real": "real: the expert in the environment, training goals",
            **{f"imagined_{method}": f"imagined: {CAPTIONS[method]}" for method in methods},
            "oracle": "real: the expert in the environment, unseen goals (oracle)",
        }

    def report_tables(self, run: Run) -> dict[str, str]:
        methods = KalmConfig.model_validate(run.config).imagination.methods
        return {
            "summary": "What imagination is worth",
            "imagined_fraction": "How much of a batch is imagined: success on training goals, on a panel of its own",
            **{f"gate_{method}": f"{method}: imagined for training goals, replayed" for method in methods},
            **{f"verifier_{method}": f"{method}: imagined for unseen goals, verified" for method in methods},
        }

    def after_evaluation(
        self, config: KalmConfig, run: Run, panels: Mapping[str, Panel], comparison: Comparison
    ) -> None:
        policies = list(policies_of(Workspace(config, run)))
        run.get_or_compute("summary", lambda: summarize(comparison, policies))
        print(f"\n{in_sentences(comparison, policies)}")


def policies_of(workspace: Workspace) -> dict[str, PolicySpec]:
    """Return the policies of a run by their names in tables."""
    return {spec.name: spec for spec in policy_specs(workspace)}

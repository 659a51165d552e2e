"""Where the modules of version 0.1 are now, for packages that were written against it."""

from __future__ import annotations

MOVED = {
    "llm_agents.collect": "llm_agents.rollouts.collect",
    "llm_agents.config": "llm_agents.runtime.config, and its Settings llm_agents.runtime.settings",
    "llm_agents.console": "llm_agents.runtime.console",
    "llm_agents.converters": "llm_agents.rollouts.converters",
    "llm_agents.corrections": "llm_agents.training.dagger",
    "llm_agents.devices": "llm_agents.runtime.devices",
    "llm_agents.doctor": "llm_agents.cli.doctor",
    "llm_agents.encoder_check": "llm_agents.cli.encoder",
    "llm_agents.environments": "llm_agents.registry.environments",
    "llm_agents.errors": "llm_agents.runtime.errors",
    "llm_agents.evaluation.judge": "llm_agents.evaluation.evaluate",
    "llm_agents.evaluation.panel": "llm_agents.rollouts.panels",
    "llm_agents.goal_encoder": "llm_agents.models.text_encoder",
    "llm_agents.grid_network": "llm_agents.models.grid_features",
    "llm_agents.kv_cache": "llm_agents.models.kv_cache",
    "llm_agents.language_model": "llm_agents.models.language_model",
    "llm_agents.memory": "llm_agents.agents.memory",
    "llm_agents.online": "llm_agents.training.online",
    "llm_agents.parallel": "llm_agents.runtime.parallel",
    "llm_agents.prompts": "llm_agents.agents.prompts",
    "llm_agents.recall": "llm_agents.training.associative_recall",
    "llm_agents.recipes.sb3": "llm_agents.recipes.symbolic_ppo",
    "llm_agents.rollout": "llm_agents.rollouts.rollout",
    "llm_agents.run": "llm_agents.runtime.run",
    "llm_agents.sb3_training": "llm_agents.training.sb3",
    "llm_agents.scoring": "llm_agents.models.action_scorer",
    "llm_agents.scoring_agent": "llm_agents.agents.scoring",
    "llm_agents.sequences": "llm_agents.training.sequences",
    "llm_agents.short_convolution": "llm_agents.models.short_convolution",
    "llm_agents.text_agent": "llm_agents.agents.text",
    "llm_agents.vocabulary": "llm_agents.models.tokenizer",
    "llm_agents.warm_start": "llm_agents.training.warm_start",
    "kalm.cases": "kalm.specs",
    "kalm.imagination": "kalm.generation, kalm.planning and kalm.judging",
}
RENAMED = {
    "llm_agents.agents": {"ExpertAgent": "llm_agents.agents.scripted", "RandomAgent": "llm_agents.agents.scripted"},
    "llm_agents.recipes": {"Recipe": "llm_agents.registry.recipes", "References": "llm_agents.registry.recipes"},
    "llm_agents.rollouts.rollout": {"Lane": "RunningEpisode", "Decision": "ActionOutput"},
}


def explain_import_error(error: ImportError) -> str:
    """Say in one line why a plug-in cannot be imported, and where what it asks for is now."""
    if error.name in MOVED:
        return f"{error.name} is {MOVED[error.name]} now: change the import (CHANGELOG.md has the list)"
    for name, now in RENAMED.get(error.name or "", {}).items():
        if f"'{name}'" in str(error):
            return f"{name} of {error.name} is {now} now: change the import (CHANGELOG.md has the list)"
    return str(error)

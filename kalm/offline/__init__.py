"""Offline RL from real and imagined episodes: one file an algorithm."""

from kalm.offline.bc import BehaviourCloning
from kalm.offline.cql import ConservativeQLearning
from kalm.offline.data import OfflineData
from kalm.offline.iql import ImplicitQLearning
from kalm.offline.policy import OfflineAlgorithm, PolicyAgent, PolicySettings

ALGORITHMS: dict[str, type[OfflineAlgorithm]] = {
    "bc": BehaviourCloning,
    "cql": ConservativeQLearning,
    "iql": ImplicitQLearning,
}

__all__ = [
    "ALGORITHMS",
    "BehaviourCloning",
    "ConservativeQLearning",
    "ImplicitQLearning",
    "OfflineAlgorithm",
    "OfflineData",
    "PolicyAgent",
    "PolicySettings",
]

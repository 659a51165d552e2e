"""What every offline algorithm is: settings, a loss, and a policy that acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kalm.action_space import ActionSpace
from kalm.offline.networks import GoalConditionedMLP
from kalm.trajectory_lm import StateNormalizer
from llm_agents.models.text_encoder import PackedFeatures, TextEncoder
from llm_agents.rollouts.observation import AgentObservation
from llm_agents.rollouts.rollout import ActionOutput
from llm_agents.runtime.devices import device_of, to_device
from llm_agents.training.loop import Batch, OptimizerSettings


class PolicySettings(OptimizerSettings):
    """How policies are trained by offline RL, and how large they are."""

    renamed: ClassVar[Mapping[str, str]] = {**OptimizerSettings.renamed, "imagined_shares": "imagined_fractions"}

    algorithm: str
    """Behaviour cloning (``bc``), CQL (``cql``, discrete actions only) or IQL (``iql``)."""
    num_steps: int = Field(6000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(256, ge=2)
    """Transitions in one optimizer step, real and imagined together."""
    imagined_fractions: tuple[float, ...] = (0.5,)
    """Candidate shares of imagined data in a batch; one is chosen on training goals."""
    temperature: float = Field(0.5, ge=0)
    """Temperature at which trained policies act. At 0 they take the most probable action and walk in circles: success
    on training goals falls from 0.99 to 0.74 (docs/lab_notes.md)."""
    token_dropout: float = Field(0.1, ge=0, lt=1)
    """Probability with which a token of the instruction is hidden in training."""
    hidden_size: int = Field(256, ge=1)
    """Width of the policy's layers."""
    num_layers: int = Field(3, ge=1)
    """Number of the policy's hidden layers."""
    num_queries: int = Field(6, ge=1)
    """Attention queries over the goal's tokens."""
    key_size: int = Field(16, ge=1)
    """Size of an attention key."""
    value_size: int = Field(24, ge=1)
    """Size of an attention value."""


class OfflineAlgorithm(nn.Module):
    """A policy and all that is trained alongside it.

    A new algorithm is one file, with settings of its own, and one entry in `kalm.offline.ALGORITHMS`.

    A batch holds ``states`` (N, D), ``actions`` (N, ...), ``rewards`` (N,), ``next_states`` (N, D), ``terminated``
    (N,) and ``text``, the `PackedFeatures` of the N instructions.

    It is small: KALM trains it on the CPU, wherever the language model is.

    Attributes:
        Settings: the fields of a config that the algorithm has, with its name as the default of ``algorithm``.
    """

    Settings: ClassVar[type[PolicySettings]]

    @classmethod
    def check(cls, actions: ActionSpace) -> None:
        """See whether the algorithm can do such actions; unless it says otherwise, it can.

        Raises:
            UserError: it cannot.
        """

    def __init__(
        self, text_dim: int, normalizer: StateNormalizer, actions: ActionSpace, settings: PolicySettings
    ) -> None:
        self.check(actions)
        super().__init__()
        self.settings = settings
        self.actions = actions
        self.policy = self.network(text_dim, normalizer, actions.num_logits)

    def network(
        self, text_dim: int, normalizer: StateNormalizer, num_outputs: int, num_inputs: int = 0
    ) -> GoalConditionedMLP:
        return GoalConditionedMLP(text_dim, normalizer, num_outputs, self.settings, num_inputs)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and what to log."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after each optimizer step."""

    def action_scores(self, states: Tensor, text: PackedFeatures) -> Tensor:
        """How much each action is preferred, (N, L): logits or Q-values."""
        return self.policy(states, text)


class PolicyAgent:
    """Acts by a trained policy; at temperature 0 by its most preferred action.

    Args:
        encoder: turns the instruction into token features; it need not be on the policy's device.
    """

    def __init__(self, algorithm: OfflineAlgorithm, encoder: TextEncoder, temperature: float = 0.0) -> None:
        self.algorithm = algorithm.eval()
        self.encoder = encoder
        self.temperature = temperature

    @torch.inference_mode()
    def act(self, observations: Sequence[AgentObservation]) -> list[ActionOutput]:
        device = device_of(self.algorithm)
        states = torch.stack([torch.from_numpy(observation.state) for observation in observations]).to(device)
        text = self.encoder.packed(self.encoder.rows([observation.instruction for observation in observations]))
        action_scores = self.algorithm.action_scores(states, to_device(text, device)).cpu()
        actions = self.algorithm.actions.decide(
            action_scores, [observation.rng for observation in observations], self.temperature
        )
        return [ActionOutput(action) for action in actions]

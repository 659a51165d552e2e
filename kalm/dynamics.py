"""What each action would lead to: the language model's own dynamics, and a plain MLP for comparison."""

from __future__ import annotations

from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.action_space import ActionSpace
from kalm.trajectories import Transitions
from kalm.trajectory_lm import StateNormalizer, TrajectoryLM, read_actions
from llm_agents.runtime.streams import stream
from llm_agents.training.loop import Batch, OptimizerSettings


class Dynamics(Protocol):
    """A learned model of the environment. Tensors come from the CPU and return to it, wherever the model is."""

    def outcomes(self, states: Tensor, actions: Tensor) -> Tensor:
        """Predict the next state after each of K actions: (N, D), (N, K, ...) -> (N, K, D)."""
        ...

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        """Predict the next state after one action each: (N, D), (N, ...) -> (N, D)."""
        ...


class LMDynamics:
    """Dynamics prediction by the grounded language model, for many actions of a state in one packed forward.

    Args:
        chunk: the number of actions in one forward; a few thousand positions suit a CPU's cache.
    """

    def __init__(self, model: TrajectoryLM, chunk: int = 2560) -> None:
        self.model = model
        self.chunk = chunk

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.outcomes(states, actions[:, None])[:, 0]

    @torch.inference_mode()
    def outcomes(self, states: Tensor, actions: Tensor) -> Tensor:
        rows, device = max(1, self.chunk // actions.shape[1]), self.model.device
        parts = zip(states.to(device).split(rows), actions.to(device).split(rows), strict=True)
        return torch.cat([self.model.next_states(s[:, None], read_actions(self.model, s, a)) for s, a in parts]).cpu()


class MLPDynamicsSettings(OptimizerSettings):
    """The plain dynamics model of the ablation."""

    num_steps: int = Field(4000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(512, ge=1)
    """Transitions in one optimizer step."""
    hidden_size: int = Field(256, ge=1)
    """Width of its three hidden layers."""


class MLPDynamics(nn.Module):
    """The same prediction by a multi-layer perceptron: the ablation that shows what the language model adds.

    It sees an action as the language model's adapter does. It is small enough to stay on the CPU.
    """

    state_mean: Tensor
    state_std: Tensor
    step_std: Tensor

    def __init__(self, actions: ActionSpace, normalizer: StateNormalizer, settings: MLPDynamicsSettings) -> None:
        super().__init__()
        for name, value in normalizer._asdict().items():
            self.register_buffer(name, value.float())
        state_dim, width = len(normalizer.state_mean), settings.hidden_size
        self.embed = actions.make_embedding(state_dim, width)
        self.embed_state = nn.Linear(state_dim, width)
        self.net = nn.Sequential(
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, state_dim),
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the squared error of the change, in units of its deviation.

        The batch has states and next_states (N, D) and actions (N, ...).
        """
        target = (batch["next_states"] - batch["states"]) / self.step_std
        loss = F.mse_loss(self._scaled_change(batch["states"], batch["actions"]), target)
        return loss, {}

    def outcomes(self, states: Tensor, actions: Tensor) -> Tensor:
        num_rows, num_actions = actions.shape[:2]
        next_states = self.predict(states.repeat_interleave(num_actions, 0), actions.flatten(0, 1))
        return next_states.view(num_rows, num_actions, -1)

    @torch.inference_mode()
    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        return states + self._scaled_change(states, actions) * self.step_std

    def _scaled_change(self, states: Tensor, actions: Tensor) -> Tensor:
        scaled = (states - self.state_mean) / self.state_std
        return self.net(self.embed_state(scaled) + self.embed(scaled, actions))


def transition_batch(transitions: Transitions, batch_size: int, seed: int, step: int) -> Batch:
    """Draw a batch of single transitions, which depends only on seed and step."""
    rng = stream(seed, "mlp_dynamics/batch", step)
    return transitions.take(torch.from_numpy(rng.integers(len(transitions.states), size=batch_size)))._asdict()

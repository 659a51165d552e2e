"""The actions of an environment, and all that depends on them: the one place that tells action spaces apart.

An action space says how an action enters a network, how a head's logits score actions and are drawn from, what a
Q-network looks like, and which actions a search tries. Actions are integers (...), or floats (..., A) in a box.

A continuous action is A categorical choices, one per dimension, among evenly spaced values (RT-1, Brohan et al., 2022;
Gato, Reed et al., 2022). So "lm_greedy" is the most probable action, and a temperature means what it means for discrete
actions. Two ways to act are not averaged into one that is neither, as a Gaussian would. An expert's actions are often
clipped to a bound, to which a bin can give all its mass. Losses and gradients are as large as for discrete actions, so
one recipe and its settings serve both. The price: half a bin's width, and dimensions that are drawn independently of
each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from llm_agents.models.sampling import draw
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings


class ProposalSettings(Settings):
    """Which continuous actions a search tries in a state; it tries all discrete ones."""

    num_candidates: int = Field(32, ge=2)
    """Actions tried at once."""
    noise: float = Field(0.3, ge=0)
    """Deviation of the noise on what the language model proposes; 1 is from the middle of the box to its edge."""
    num_refinements: int = Field(1, ge=0)
    """How often the candidates are drawn again around the best of them (cross-entropy method)."""
    num_elites: int = Field(6, ge=2)
    """How many of them count as the best."""

    @model_validator(mode="after")
    def _some_are_new(self) -> ProposalSettings:
        if self.num_elites >= self.num_candidates:
            raise ValueError(f"num_elites ({self.num_elites}) must be less than num_candidates ({self.num_candidates})")
        return self


class ActionEmbedding(Protocol):
    """A network that embeds an action in a state as a vector."""

    weight: nn.Parameter

    def __call__(self, states: Tensor, actions: Tensor) -> Tensor:
        """Embed an action in each of the scaled states (..., D) -> (..., H)."""
        ...


class ActionSpace(Protocol):
    """What a model must know about the actions of an environment.

    Attributes:
        num_logits: how many numbers a head gives for one state.
        num_q_inputs: how many numbers of an action a Q-network reads; 0 if it values every action at once.
        num_q_outputs: how many values a Q-network gives.
        choices: an action as one categorical choice or several, whose logits a head gives one after the other.
    """

    num_logits: int
    num_q_inputs: int
    num_q_outputs: int
    choices: Space

    def choose(self, choice: NDArray) -> Any:
        """Return the action that a point of `choices` stands for, in the environment's form."""
        ...

    def make_embedding(self, state_dim: int, width: int) -> ActionEmbedding:
        """Create a network that embeds actions in vectors of this width."""
        ...

    def loss(self, logits: Tensor, actions: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of N actions under logits (N, L), in nats per action dimension."""
        ...

    def log_probs(self, logits: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probability of each of N actions, (N,), the mean over its dimensions."""
        ...

    def accuracy(self, logits: Tensor, actions: Tensor) -> Tensor:
        """Return the share of N actions, dimension by dimension, that are the most probable."""
        ...

    def draw(self, logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
        """Draw an action for each row of logits (N, L); the most probable at temperature 0."""
        ...

    def decide(self, logits: Tensor, rngs: Sequence[np.random.Generator], temperature: float) -> list[Any]:
        """Draw as `draw` does, in the environment's form, each row from its own randomness."""
        ...

    def q_values(self, network: Callable[..., Tensor], states: Tensor, text: Any, actions: Tensor) -> Tensor:
        """Return what a Q-network gives for N actions, each in its state (N, D): (N,)."""
        ...

    def candidates(
        self,
        num_rows: int,
        propose: Callable[[], Tensor],
        score: Callable[[Tensor], NDArray],
        settings: ProposalSettings,
        rng: np.random.Generator,
    ) -> Tensor:
        """Return the actions to try in each of N states, (N, K) or (N, K, A).

        Args:
            propose: gives the logits of a policy in these states, (N, L).
            score: says how good candidates are, (N, K, A) -> (N, K).
        """
        ...


def action_space(space: Space, num_bins: int) -> ActionSpace:
    """Return what a model must know about a Gymnasium space.

    Args:
        num_bins: how many values each dimension of a continuous action can take.

    Raises:
        UserError: actions are neither 0, 1, ... nor the points of a bounded, one-dimensional box.
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return DiscreteActions(int(space.n))
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded() and space.dtype.kind == "f":
        return ContinuousActions(space.low, space.high, num_bins)
    raise UserError(f"KALM needs actions that are Discrete(n) or a bounded Box of shape (A,), not {space}")


class DiscreteActions:
    """The actions 0 ... ``num`` - 1."""

    num_q_inputs = 0

    def __init__(self, num: int) -> None:
        self.num_logits = self.num_q_outputs = num
        self.choices: Space = spaces.Discrete(num)

    def choose(self, choice: NDArray) -> int:
        return int(choice)

    def make_embedding(self, state_dim: int, width: int) -> ActionEmbedding:
        return StateActionEmbedding(self.num_logits, state_dim, width)

    def loss(self, logits: Tensor, actions: Tensor) -> Tensor:
        return F.cross_entropy(logits, actions)

    def log_probs(self, logits: Tensor, actions: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]

    def accuracy(self, logits: Tensor, actions: Tensor) -> Tensor:
        return (logits.argmax(-1) == actions).float().mean()

    def draw(self, logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
        return draw(logits, temperature, generator)[0]

    def decide(self, logits: Tensor, rngs: Sequence[np.random.Generator], temperature: float) -> list[int]:
        if temperature == 0:
            return logits.argmax(-1).tolist()
        uniforms = np.array([rng.random() for rng in rngs])
        return _invert((logits / temperature).double().softmax(-1), uniforms).tolist()

    def q_values(self, network: Callable[..., Tensor], states: Tensor, text: Any, actions: Tensor) -> Tensor:
        return network(states, text).gather(1, actions[:, None])[:, 0]

    def candidates(
        self,
        num_rows: int,
        propose: Callable[[], Tensor],
        score: Callable[[Tensor], NDArray],
        settings: ProposalSettings,
        rng: np.random.Generator,
    ) -> Tensor:
        """Return all actions; nothing is proposed or scored."""
        return torch.arange(self.num_logits).expand(num_rows, -1)


class ContinuousActions:
    """The points of a box, where each of the A dimensions is a choice among ``num_bins`` values from bound to bound.

    Args:
        low, high: (A,).
    """

    num_q_outputs = 1

    def __init__(self, low: NDArray, high: NDArray, num_bins: int) -> None:
        self._low = torch.as_tensor(low, dtype=torch.float32)
        self._high = torch.as_tensor(high, dtype=torch.float32)
        self.num_bins = num_bins
        self.num_q_inputs = len(self._low)
        self.num_logits = self.num_q_inputs * num_bins
        self.choices: Space = spaces.MultiDiscrete([num_bins] * self.num_q_inputs)

    def choose(self, choice: NDArray) -> NDArray:
        return self._values(torch.from_numpy(choice)).numpy()

    def normalise(self, actions: Tensor) -> Tensor:
        """Map actions (..., A) from the box to -1 ... 1."""
        low, high = self._low.to(actions.device), self._high.to(actions.device)
        return 2 * (actions - low) / (high - low) - 1

    def make_embedding(self, state_dim: int, width: int) -> ActionEmbedding:
        return BilinearEmbedding(self, state_dim, width)

    def loss(self, logits: Tensor, actions: Tensor) -> Tensor:
        return F.cross_entropy(self._by_dimension(logits).flatten(0, 1), self._bins(actions).flatten())

    def log_probs(self, logits: Tensor, actions: Tensor) -> Tensor:
        bins = self._bins(actions)
        return self._by_dimension(logits).log_softmax(-1).gather(-1, bins[..., None])[..., 0].mean(-1)

    def accuracy(self, logits: Tensor, actions: Tensor) -> Tensor:
        return (self._by_dimension(logits).argmax(-1) == self._bins(actions)).float().mean()

    def draw(self, logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
        bins, _ = draw(self._by_dimension(logits).flatten(0, 1), temperature, generator)
        return self._values(bins.view(len(logits), -1))

    def decide(self, logits: Tensor, rngs: Sequence[np.random.Generator], temperature: float) -> list[NDArray]:
        by_dimension = self._by_dimension(logits)
        if temperature == 0:
            return list(self._values(by_dimension.argmax(-1)).numpy())
        uniforms = np.stack([rng.random(self.num_q_inputs) for rng in rngs])
        bins = _invert((by_dimension / temperature).double().softmax(-1), uniforms)
        return list(self._values(torch.from_numpy(bins)).numpy())

    def q_values(self, network: Callable[..., Tensor], states: Tensor, text: Any, actions: Tensor) -> Tensor:
        return network(states, text, self.normalise(actions))[:, 0]

    def candidates(
        self,
        num_rows: int,
        propose: Callable[[], Tensor],
        score: Callable[[Tensor], NDArray],
        settings: ProposalSettings,
        rng: np.random.Generator,
    ) -> Tensor:
        """Return what the policy proposes, with noise, then drawn again around the best of them, which stay."""
        probabilities = self._by_dimension(propose().cpu()).double().softmax(-1)
        uniforms = rng.random((num_rows, settings.num_candidates, self.num_q_inputs))
        proposed = self._values(torch.from_numpy(_invert(probabilities[:, None], uniforms)))
        tried = self._near(proposed, torch.full_like(proposed, settings.noise), rng)
        for _ in range(settings.num_refinements):
            elites = _best(tried, score(tried), settings.num_elites)
            shape = (num_rows, settings.num_candidates - elites.shape[1], self.num_q_inputs)
            deviation = elites.std(1, keepdim=True) / self._half_range
            fresh = self._near(elites.mean(1, keepdim=True).expand(shape), deviation.expand(shape), rng)
            tried = torch.cat([elites, fresh], 1)
        return tried

    @property
    def _half_range(self) -> Tensor:
        return (self._high - self._low) / 2

    def _by_dimension(self, logits: Tensor) -> Tensor:
        """Reshape (N, A * B) -> (N, A, B)."""
        return logits.unflatten(-1, (self.num_q_inputs, self.num_bins))

    def _bins(self, actions: Tensor) -> Tensor:
        """Return the nearest bin of each number, (..., A)."""
        fraction = (self.normalise(actions) + 1) / 2
        return (fraction * (self.num_bins - 1)).round().long().clamp(0, self.num_bins - 1)

    def _values(self, bins: Tensor) -> Tensor:
        """Return the actions (..., A) of bins (..., A)."""
        low, high = self._low.to(bins.device), self._high.to(bins.device)
        return (low + (high - low) * (bins / (self.num_bins - 1))).clamp(low, high)

    def _near(self, actions: Tensor, deviation: Tensor, rng: np.random.Generator) -> Tensor:
        """Add noise of a deviation in half ranges to actions, keeping them in the box."""
        noise = torch.from_numpy(rng.standard_normal(actions.shape)).float() * deviation * self._half_range
        return (actions + noise).clamp(self._low, self._high)


class StateActionEmbedding(nn.Module):
    """A discrete action in a state as a vector: a learned linear function of the state for each action.

    With one vector per action, as in the original, the network must work out by itself what the action acts on. Here
    "relative to the ball that is pushed" is linear; docs/lab_notes.md measures what that is worth.
    """

    def __init__(self, num_actions: int, state_dim: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(num_actions, state_dim + 1, width))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Embed states (..., D) and actions (...) -> (..., H)."""
        weight = self.weight[actions]
        return torch.einsum("...d,...dh->...h", states, weight[..., :-1, :]) + weight[..., -1, :]


class BilinearEmbedding(nn.Module):
    """A continuous action in a state as a vector: linear in the state, and for each state linear in the action.

    That is `StateActionEmbedding` with the action's numbers in place of a one-hot vector.
    """

    def __init__(self, actions: ContinuousActions, state_dim: int, width: int) -> None:
        super().__init__()
        self.actions = actions
        self.weight = nn.Parameter(0.02 * torch.randn(actions.num_q_inputs + 1, state_dim + 1, width))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Embed states (..., D) and actions (..., A) -> (..., H)."""
        products = _with_one(self.actions.normalise(actions))[..., :, None] * _with_one(states)[..., None, :]
        return products.flatten(-2) @ self.weight.flatten(0, 1)


def _with_one(values: Tensor) -> Tensor:
    """Append a one: (..., D) -> (..., D + 1)."""
    return torch.cat([values, torch.ones_like(values[..., :1])], -1)


def _invert(probabilities: Tensor, uniforms: NDArray) -> NDArray[np.int64]:
    """Draw from categorical distributions (..., B) by the inverse of their cumulative function at uniforms (...)."""
    cumulative = probabilities.cumsum(-1).numpy()
    return (cumulative <= (uniforms * cumulative[..., -1])[..., None]).sum(-1)


def _best(actions: Tensor, scores: NDArray, count: int) -> Tensor:
    """Return the actions with the highest scores in each row: (N, K, A), (N, K) -> (N, count, A)."""
    order = torch.from_numpy(np.argsort(-scores, axis=1, kind="stable")[:, :count].copy())
    return actions.gather(1, order[..., None].expand(-1, -1, actions.shape[-1]))

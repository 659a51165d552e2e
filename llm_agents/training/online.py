"""Training on reward: iterations of rolling out, giving credit and updating."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import psutil
import torch
from pydantic import Field
from torch import Tensor, nn

from envs.episodes import Episode
from envs.language import LanguageEnv, LanguageTask
from llm_agents.agents.memory import TextualMemory, as_metadata, experience_of
from llm_agents.rollouts.observation import ActionWords
from llm_agents.rollouts.rollout import AnyAgent, iter_rollouts
from llm_agents.rollouts.specs import EpisodeSpec, draw_goals
from llm_agents.runtime.progress import progress_bar
from llm_agents.runtime.run import Run
from llm_agents.runtime.settings import Settings
from llm_agents.runtime.streams import start_seed, stream
from llm_agents.training.optimization import Optimization, ParameterGroups

SAVE_SECONDS = 20.0


class OnlineSettings(Settings):
    """How much is rolled out, and how the weights follow. AdamW with a learning rate that falls linearly."""

    renamed: ClassVar[Mapping[str, str]] = {
        "num_starts": "num_groups",
        "final_learning_rate": "final_lr_fraction",
    }

    num_iterations: int = Field(50, ge=1)
    """Rounds of rolling out and updating."""
    num_groups: int = Field(256, ge=1)
    """Goals with a start that are played in an iteration."""
    group_size: int = Field(1, ge=1)
    """Episodes of each, which share goal and start."""
    num_envs: int = Field(64, ge=1)
    """Environments that run side by side, in one call of the model."""
    num_epochs: int = Field(2, ge=1)
    """Passes over what an iteration has rolled out."""
    batch_size: int = Field(512, ge=1)
    """Decisions, or sequences where several decisions are one, in one optimizer step."""
    micro_batch_size: int = Field(64, ge=1)
    """Decisions in one forward pass; the gradients of a batch add up. No number depends on it but for rounding."""
    learning_rate: float = Field(1e-3, gt=0)
    """At the first iteration."""
    final_lr_fraction: float = Field(0.1, ge=0, le=1)
    """Fraction of it that is left at the last."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(0.5, gt=0)
    """Gradients are scaled down to this norm."""
    discount: float = Field(0.99, gt=0, le=1)
    """Discount of future reward."""

    @property
    def plan(self) -> str:
        """Say what will be done."""
        return (
            f"{self.num_iterations} iterations of {self.num_groups * self.group_size} episodes, each {self.num_epochs} "
            f"epochs of {self.batch_size} decisions a step"
        )

    def learning_rate_at(self, iteration: int) -> float:
        progress = iteration / max(1, self.num_iterations - 1)
        return self.learning_rate * (1 - progress * (1 - self.final_lr_fraction))


@dataclass(frozen=True)
class LearningBatch:
    """Decisions or sequences to learn from, M of them.

    Fields of a subclass are tensors (M, ...) or sequences of M entries.

    Attributes:
        lengths: how many tokens each has, (M,), so that those of like length can be computed together.
    """

    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, index: Tensor) -> Self:
        """Return those at an index (K,)."""
        return replace(self, **{field.name: _take(getattr(self, field.name), index) for field in fields(self)})


Batch = TypeVar("Batch", bound=LearningBatch)


class Learner(Protocol[Batch]):
    """Learns from an agent's episodes: what every method of training on reward must be."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    def parameter_groups(self) -> ParameterGroups:
        """Return what is trained; see `Optimization`."""
        ...

    @property
    def agent(self) -> AnyAgent:
        """Who acts."""
        ...

    @property
    def memory(self) -> TextualMemory | None:
        """What the agent recalls; filled after each iteration, and kept in the checkpoints."""
        ...

    def make_batch(self, episodes: Sequence[Episode], groups: Tensor, iteration: int) -> tuple[Batch, dict[str, float]]:
        """Give credit: turn an iteration's episodes, whose groups are (N,), into what is learnt from, with metrics."""
        ...

    def weights(self, batch: Batch) -> Tensor:
        """Return the weight of each of M decisions, or of each token of M sequences, in one optimizer step, (M,)."""
        ...

    def loss(self, batch: Batch, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of a part of an optimizer step's batch, and metrics.

        Args:
            weights: of the part, taken from those of the whole batch: so the losses of its parts add up to its loss.
        """
        ...


@dataclass(frozen=True)
class Rollouts:
    """What an iteration plays: cases, the group of each and the number of its random stream."""

    specs: list[EpisodeSpec]
    groups: Tensor
    streams: list[int]


def draw_rollouts(task: LanguageTask, settings: OnlineSettings, seed: int, iteration: int) -> Rollouts:
    """Training goals and starts that depend on seed and iteration alone; none is one of an evaluation panel."""
    rng = stream(seed, "online/goals", iteration)
    goals = draw_goals(task, "train", rng)
    specs, size = [], settings.group_size
    for index, (goal, phrasing) in zip(range(settings.num_groups), goals, strict=False):
        start = start_seed("online", seed, iteration * settings.num_groups + index)
        specs += [EpisodeSpec(goal.id, phrasing, start, "train")] * size
    groups = torch.arange(settings.num_groups).repeat_interleave(size)
    return Rollouts(specs, groups, [iteration * size + index % size for index in range(len(specs))])


def train_online(
    learner: Learner,
    settings: OnlineSettings,
    make_env: Callable[[], LanguageEnv],
    task: LanguageTask,
    run: Run,
    name: str,
    seed: int,
) -> None:
    """Train in place, from the run's checkpoint ``name`` if there is one.

    A resumed training ends as an uninterrupted one: what an iteration plays and how it is shuffled depends on seed and
    iteration, and checkpoints stand between iterations.

    Raises:
        UserError: a loss or a gradient is not finite.
    """
    optimization = Optimization(
        learner.module, learner.parameter_groups(), run, name, settings.weight_decay, settings.max_grad_norm
    )
    num_steps = int(sum(line.get("rollout/steps", 0) for line in run.metrics() if line.get("stage") == name))
    learner.module.eval()  # without dropout: the policy that is trained is the one that acted
    words = ActionWords(task)
    with progress_bar(name, settings.num_iterations, optimization.step) as advance:
        while optimization.step < settings.num_iterations:
            iteration, began = optimization.step, time.monotonic()
            rollouts = draw_rollouts(task, settings, seed, iteration)
            episodes = play(learner.agent, make_env, rollouts, settings.num_envs)
            played = time.monotonic()
            batch, metrics = learner.make_batch(episodes, rollouts.groups, iteration)
            metrics = rollout_metrics(episodes) | update(learner, batch, optimization, settings, seed) | metrics
            if learner.memory is not None:
                learner.memory.add(experience_of(episode, words) for episode in episodes)
            num_steps += int(metrics["rollout/steps"])
            optimization.step += 1
            metrics |= {"rollout/total_steps": num_steps} | _speed(metrics["rollout/steps"], began, played)
            run.log(name, optimization.step, metrics)
            advance(1, f"success {metrics['rollout/success']:.2f}")
            optimization.save_if_due({"memory": as_metadata(learner.memory)}, SAVE_SECONDS)
    optimization.save(finished=True, metadata={"memory": as_metadata(learner.memory)})


def play(agent: AnyAgent, make_env: Callable[[], LanguageEnv], rollouts: Rollouts, num_envs: int) -> list[Episode]:
    """The episodes of the cases, in their order."""
    numbered = iter_rollouts(agent, make_env, rollouts.specs, num_envs, rollouts.streams, value_ends=True)
    return [episode for _, episode in sorted(numbered, key=lambda pair: pair[0])]


def update(
    learner: Learner[Batch], batch: Batch, optimization: Optimization, settings: OnlineSettings, seed: int
) -> dict[str, float]:
    """Take several epochs of minibatches over an iteration's decisions; return the mean of their metrics."""
    iteration, rows = optimization.step, []
    optimization.set_learning_rate(settings.learning_rate_at(iteration))
    for index in _minibatches(len(batch), settings, stream(seed, "online/shuffle", iteration)):
        losses = _losses(learner, batch.take(index), settings.micro_batch_size)
        rows += optimization.compute_gradients(losses, f"of iteration {iteration + 1}")
        optimization.apply_gradients()
    names = {name for row in rows for name in row}
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in sorted(names)}


def _losses(learner: Learner[Batch], batch: Batch, size: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
    """The losses of an optimizer step's batch in parts, those of like length together."""
    weights = learner.weights(batch)
    for index in batch.lengths.argsort(stable=True).split(size):
        yield learner.loss(batch.take(index), weights[index])


def rollout_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """What came of an iteration's episodes."""
    invalid = [turn.invalid for episode in episodes for turn in episode.turns]
    return {
        "rollout/success": float(np.mean([episode.success for episode in episodes])),
        "rollout/return": float(np.mean([episode.rewards.sum() for episode in episodes])),
        "rollout/length": float(np.mean([len(episode) for episode in episodes])),
        "rollout/steps": float(sum(map(len, episodes))),
        "rollout/invalid_actions": float(np.mean(invalid)),
        "rollout/tokens": float(sum(len(t.prompt_ids) + len(t.token_ids) for e in episodes for t in e.turns)),
    }


def _minibatches(size: int, settings: OnlineSettings, rng: np.random.Generator) -> Iterator[Tensor]:
    if not size:
        return
    num_batches = max(1, round(size / settings.batch_size))
    for _ in range(settings.num_epochs):
        yield from map(torch.from_numpy, np.array_split(rng.permutation(size), num_batches))


def _take(values: Any, index: Tensor) -> Any:
    return values[index] if isinstance(values, Tensor) else [values[place] for place in index.tolist()]


def _speed(num_steps: float, began: float, played: float) -> dict[str, float]:
    """How long an iteration took, and how much memory the process holds."""
    ended = time.monotonic()
    return {
        "speed/decisions_per_s": num_steps / (ended - began),
        "speed/rollout_share": (played - began) / (ended - began),
        "memory/resident_mb": psutil.Process().memory_info().rss / 2**20,
    }

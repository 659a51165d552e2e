"""Training on reward: iterations of rolling out, giving credit and updating."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

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
from llm_agents.runtime.config import Settings
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.progress import progress_bar
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import start_seed, stream
from llm_agents.training.checkpoints import load_training, save_training

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
    """Share of it that is left at the last."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(0.5, gt=0)
    """Gradients are scaled down to this norm."""
    discount: float = Field(0.99, gt=0, le=1)
    """Discount of future reward."""

    @property
    def plan(self) -> str:
        """What will be done, in the words of sizes."""
        return (
            f"{self.num_iterations} iterations of {self.num_groups * self.group_size} episodes, each {self.num_epochs} "
            f"epochs of {self.batch_size} decisions a step"
        )

    def learning_rate_at(self, iteration: int) -> float:
        progress = iteration / max(1, self.num_iterations - 1)
        return self.learning_rate * (1 - progress * (1 - self.final_lr_fraction))


class Learner(Protocol):
    """What learns from an agent's episodes."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained: ``params``, and ``scale``, with which the settings' learning rate is multiplied for them."""
        ...

    @property
    def agent(self) -> AnyAgent:
        """Who acts."""
        ...

    @property
    def memory(self) -> TextualMemory | None:
        """What the agent recalls; filled after each iteration, and kept in the checkpoints."""
        ...

    def losses(self, episodes: Sequence[Episode], groups: Tensor, iteration: int) -> Losses:
        """What is to be minimised for these episodes, whose groups are (N,)."""
        ...


class Losses(Protocol):
    """The loss of an iteration's decisions, in parts of any size."""

    metrics: dict[str, float]

    def __len__(self) -> int:
        """How many decisions there are."""
        ...

    def order(self, index: np.ndarray) -> np.ndarray:
        """These decisions (K,), those of like length side by side."""
        ...

    def loss(self, index: np.ndarray, batch: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        """The part of some decisions in the loss of a batch of decisions, of which they are some; and metrics."""
        ...


@dataclass(frozen=True)
class Rollouts:
    """What an iteration plays: cases, the group of each and the number of its random stream."""

    specs: list[EpisodeSpec]
    groups: Tensor
    streams: list[int]


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


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
    groups = learner.parameter_groups()
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    done = load_training(learner.module, optimizer, run, name)
    run.rewind_metrics(name, done)
    num_steps = int(sum(line.get("rollout/steps", 0) for line in run.metrics() if line.get("stage") == name))
    learner.module.eval()  # without dropout: the policy that is trained is the one that acted
    words = ActionWords(task)
    last_saved = time.monotonic()
    with progress_bar(name, settings.num_iterations, done) as advance:
        for iteration in range(done, settings.num_iterations):
            began = time.monotonic()
            rollouts = draw_rollouts(task, settings, seed, iteration)
            episodes = play(learner.agent, make_env, rollouts, settings.num_envs)
            played = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * settings.learning_rate_at(iteration)
            losses = learner.losses(episodes, rollouts.groups, iteration)
            metrics = rollout_metrics(episodes) | update(losses, parameters, optimizer, settings, seed, iteration)
            metrics |= losses.metrics
            if learner.memory is not None:
                learner.memory.add(experience_of(episode, words) for episode in episodes)
            num_steps += int(metrics["rollout/steps"])
            ended = time.monotonic()
            metrics |= {
                "rollout/total_steps": num_steps,
                "speed/decisions_per_s": metrics["rollout/steps"] / (ended - began),
                "speed/rollout_share": (played - began) / (ended - began),
                "memory/resident_mb": psutil.Process().memory_info().rss / 2**20,
            }
            run.log(name, iteration + 1, metrics)
            advance(1, f"success {metrics['rollout/success']:.2f}")
            if ended - last_saved > SAVE_SECONDS:
                metadata = {"memory": as_metadata(learner.memory)}
                save_training(learner.module, optimizer, iteration + 1, run, name, metadata=metadata)
                last_saved = ended
    metadata = {"memory": as_metadata(learner.memory)}
    save_training(learner.module, optimizer, settings.num_iterations, run, name, finished=True, metadata=metadata)


def play(agent: AnyAgent, make_env: Callable[[], LanguageEnv], rollouts: Rollouts, num_envs: int) -> list[Episode]:
    """The episodes of the cases, in their order."""
    numbered = iter_rollouts(agent, make_env, rollouts.specs, num_envs, rollouts.streams, value_ends=True)
    return [episode for _, episode in sorted(numbered, key=lambda pair: pair[0])]


def update(
    losses: Losses,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: OnlineSettings,
    seed: int,
    iteration: int,
) -> dict[str, float]:
    """Several epochs of minibatches over an iteration's decisions; the mean of their metrics."""
    rows: list[dict[str, float]] = []
    for batch in _batches(len(losses), settings, stream(seed, "online/shuffle", iteration)):
        optimizer.zero_grad(set_to_none=True)
        ordered = losses.order(batch)
        for start in range(0, len(batch), settings.micro_batch_size):
            part = ordered[start : start + settings.micro_batch_size]
            loss, metrics = losses.loss(part, batch)
            _require_finite(loss, "loss", iteration)
            loss.backward()
            rows.append(metrics)
        norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        _require_finite(norm, "gradient", iteration)
        optimizer.step()
        rows[-1]["grad_norm"] = norm.item()
    names = {name for row in rows for name in row}
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in sorted(names)}


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


def _batches(size: int, settings: OnlineSettings, rng: np.random.Generator) -> Iterator[np.ndarray]:
    if not size:
        return
    num_batches = max(1, round(size / settings.batch_size))
    for _ in range(settings.num_epochs):
        yield from np.array_split(rng.permutation(size), num_batches)


def _require_finite(value: Tensor, what: str, iteration: int) -> None:
    if not torch.isfinite(value):
        raise UserError(
            f"the {what} of iteration {iteration + 1} is {value.item()}: lower the learning rate, or look at the "
            "rewards; the last checkpoint is from before it"
        )

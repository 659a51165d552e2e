"""Imagined rollouts of the tiny model, against rereading everything at each step and each action by itself.

The weights are untrained: what is imagined is nonsense, but takes as long as sense would. Both sides imagine the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Comparison
from envs.clevr_robot import make
from envs.clevr_robot.env import NUM_ACTIONS
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode
from kalm.action_space import DiscreteActions
from kalm.dynamics import LMDynamics
from kalm.generation import GenerationSettings, generate
from kalm.judging import start_states
from kalm.specs import training_specs
from kalm.trajectory_lm import StateNormalizer, TrajectoryLM
from llm_agents.models.loading import load_language_model
from llm_agents.models.padding import concatenate
from llm_agents.rollouts.specs import EpisodeSpec

NUM_ROLLOUTS = 64


def comparisons() -> Iterator[Comparison]:
    """Compare greedy rollouts of 12 steps, and one look at the outcome of each of 40 actions."""
    task = ClevrRobotTask()
    cases = training_specs(task, "gate", NUM_ROLLOUTS, seed=0)
    starts = start_states(make, cases)
    settings = GenerationSettings()
    model = make_model(starts).eval()

    def write() -> list[Episode]:
        return generate(model, task, cases, starts, settings, temperature=0)

    def write_rereading() -> Tensor:
        return read_again_at_each_step(model, cases, torch.from_numpy(starts), settings.max_steps)

    for episode, states in zip(write(), write_rereading(), strict=True):
        _require_same(episode.states, states[: len(episode) + 1].numpy())  # ours end where their goal is reached
    peer = "no key-value cache"
    yield Comparison("rollouts written", "rollouts", peer, lambda: len(write()), lambda: len(write_rereading()))

    dynamics, current = LMDynamics(model), torch.from_numpy(starts)
    actions = torch.arange(NUM_ACTIONS).expand(len(current), -1)

    def look() -> Tensor:
        return dynamics.outcomes(current, actions)

    def look_one_by_one() -> Tensor:
        return torch.stack([dynamics.predict(current, action) for action in actions.T], 1)

    _require_same(look().numpy(), look_one_by_one().numpy())
    peer = "one forward an action"
    yield Comparison("states looked ahead", "states", peer, lambda: len(look()), lambda: len(look_one_by_one()))


def make_model(states: np.ndarray) -> TrajectoryLM:
    """Make the tiny model with adapters for CLEVR-Robot, scaled to these states (N, 10)."""
    torch.manual_seed(0)
    measured = torch.from_numpy(states)
    return TrajectoryLM(
        load_language_model("tiny"), DiscreteActions(NUM_ACTIONS), StateNormalizer.of(measured, measured.flip(0))
    )


@torch.inference_mode()
def read_again_at_each_step(
    model: TrajectoryLM, cases: Sequence[EpisodeSpec], starts: Tensor, num_steps: int
) -> Tensor:
    """Do what `generate` does greedily, without a cache: each position reads all positions before it. (N, T + 1, D)"""
    count = len(cases)
    texts = model.lm.embed_texts([case.instruction for case in cases])
    prompt, mask, _ = concatenate([model.marker("goal", count), texts, model.marker("rollout", count)])
    states, trajectory = [starts], [model.embed_states(starts)]
    for _ in range(num_steps):
        action = model.action_logits(_last(model, prompt, mask, trajectory)).argmax(-1)
        trajectory.append(model.embed_actions(states[-1], action))
        states.append(model.next_states(states[-1], _last(model, prompt, mask, trajectory)))
        trajectory.append(model.embed_states(states[-1]))
    return torch.stack(states, 1)


def _last(model: TrajectoryLM, prompt: Tensor, mask: Tensor, trajectory: list[Tensor]) -> Tensor:
    """Return the hidden state (N, H) after the prompt and the trajectory so far."""
    so_far = torch.stack(trajectory, 1)
    real = torch.ones(so_far.shape[:2], dtype=torch.bool)
    return model.read([(prompt, mask), (so_far, real)])[-1][:, -1]


def _require_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        raise AssertionError("the two sides do not imagine the same")

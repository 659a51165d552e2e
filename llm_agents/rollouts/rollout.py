"""Agents in environments: from a panel to episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from envs.episodes import Episode, Turn
from envs.language import LanguageEnv
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.streams import stream


@dataclass
class ActionOutput:
    """An action, and for an LLM agent the turn that led to it; the episode may be made to end after the action."""

    action: Any
    turn: Turn | None = None
    ends_episode: bool = False


@dataclass
class RunningEpisode:
    """An episode in progress: all that an agent may look at.

    Attributes:
        env: the environment, already reset.
        index: the number of the case in what is played.
        case: what is played.
        text: the current text observation.
        rng: randomness of this episode alone, so that results do not depend on what runs beside it.
    """

    env: LanguageEnv
    index: int
    spec: EpisodeSpec
    text: str
    rng: np.random.Generator
    states: list = field(default_factory=list)
    actions: list = field(default_factory=list)
    rewards: list = field(default_factory=list)
    turns: list = field(default_factory=list)

    @property
    def instruction(self) -> str:
        return self.env.instruction

    @property
    def state(self) -> np.ndarray:
        return self.states[-1]


class Agent(Protocol):
    """Acts on a batch of running episodes. Acting and learning are separate: an agent has no optimizer."""

    def act(self, lanes: Sequence[RunningEpisode]) -> Sequence[ActionOutput]:
        """One decision for each lane."""
        ...


def rollout(
    agent: Agent, make_env: Callable[[], LanguageEnv], specs: Sequence[EpisodeSpec], num_envs: int = 64
) -> Iterator[Episode]:
    """Play the cases and yield the episodes as they end; a lane that finishes takes the next case at once.

    Args:
        agent: decides for all running lanes in one call.
        make_env: makes one environment; at most ``num_envs`` are made.
        cases: what to play. The episode of a case does not depend on the others.
        num_envs: the number of lanes.

    Raises:
        UserError: ``num_envs`` is less than one.
    """
    return (episode for _, episode in iter_rollouts(agent, make_env, specs, num_envs))


def iter_rollouts(
    agent: Agent,
    make_env: Callable[[], LanguageEnv],
    specs: Sequence[EpisodeSpec],
    num_envs: int = 64,
    streams: Sequence[int] | None = None,
) -> Iterator[tuple[int, Episode]]:
    """As `rollout`, each episode with the index of its case.

    Args:
        streams: the number of each case's random stream, so that an agent does not act alike where a case is played
            again; without it, all have the same.
    """
    if num_envs < 1:
        raise UserError(f"the number of environments must be at least 1, got {num_envs}")
    keys = [[]] * len(specs) if streams is None else [[number] for number in streams]
    waiting = ((index, spec, key) for index, (spec, key) in enumerate(zip(specs, keys, strict=True)))
    envs = [make_env() for _ in range(min(num_envs, len(specs)))]
    try:
        lanes = [_start(env, *numbered) for env, numbered in zip(envs, waiting, strict=False)]
        while lanes:
            decisions = agent.act(lanes)
            running = []
            for lane, decision in zip(lanes, decisions, strict=True):
                episode = _step(lane, decision)
                if episode is None:
                    running.append(lane)
                    continue
                yield lane.index, episode
                if (numbered := next(waiting, None)) is not None:
                    running.append(_start(lane.env, *numbered))
            lanes = running
    finally:
        for env in envs:
            env.close()


def _start(env: LanguageEnv, index: int, spec: EpisodeSpec, key: Sequence[int]) -> RunningEpisode:
    options = {"goal": spec.goal_id, "split": spec.split, "instruction": spec.instruction}
    observation, _ = env.reset(seed=spec.seed, options=options)
    rng = stream(spec.seed, "rollout/act", *key)
    return RunningEpisode(env, index, spec, observation["text"], rng, states=[observation["state"]])


def _step(lane: RunningEpisode, decision: ActionOutput) -> Episode | None:
    """Apply a decision; the episode if that ended it."""
    observation, reward, terminated, truncated, info = lane.env.step(decision.action)
    lane.text = observation["text"]
    lane.states.append(observation["state"])
    lane.actions.append(decision.action)
    lane.rewards.append(reward)
    if decision.turn is not None:
        lane.turns.append(decision.turn)
    terminated = terminated or decision.ends_episode
    if not (terminated or truncated):
        return None
    return Episode(
        goal_id=lane.env.goal.id,
        family=lane.env.goal.family,
        split=lane.spec.split,
        instruction=lane.instruction,
        states=np.stack(lane.states),
        actions=np.asarray(lane.actions),
        rewards=np.asarray(lane.rewards, np.float32),
        terminated=terminated,
        truncated=truncated,
        success=info["is_success"],
        source="env",
        seed=lane.spec.seed,
        turns=tuple(lane.turns),
    )

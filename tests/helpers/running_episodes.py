"""Running episodes, and what agents decide in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from envs import clevr_robot
from envs.language import LanguageEnv
from llm_agents.rollouts.observation import ActionWords, AgentObservation
from llm_agents.rollouts.rollout import AnyAgent, RunningEpisode, decide
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.streams import stream

MakeEnv = Callable[[], LanguageEnv]


def start(specs: Sequence[EpisodeSpec], make: MakeEnv = clevr_robot.make) -> list[RunningEpisode]:
    """An episode for each spec, just begun."""
    return [begin(_started(spec, make), index, spec) for index, spec in enumerate(specs)]


def begin(env: LanguageEnv, index: int, spec: EpisodeSpec) -> RunningEpisode:
    """The episode of an environment that was just reset."""
    rng, words = stream(spec.seed, "rollout/act"), ActionWords(env.task)
    return RunningEpisode(env, index, spec, rng, words, [env.task.describe(env.state)], [env.state])


def observe(specs: Sequence[EpisodeSpec], make: MakeEnv = clevr_robot.make) -> list[AgentObservation]:
    """What an agent is shown at the beginning of each."""
    return [episode.observe() for episode in start(specs, make)]


@cache
def _started(spec: EpisodeSpec, make: MakeEnv) -> LanguageEnv:
    """Agents only look at it."""
    env = make()
    env.reset(seed=spec.seed, options={"goal": spec.goal_id, "split": spec.split, "instruction": spec.instruction})
    return env


def first_actions(agent: AnyAgent, specs: Sequence[EpisodeSpec], make: MakeEnv = clevr_robot.make) -> list:
    """The agent's first action in each spec, decided all at once: numbers, or lists of numbers."""
    return [np.asarray(output.action).tolist() for output in decide(agent, start(specs, make))]


def assert_others_do_not_matter(
    agent: AnyAgent, specs: Sequence[EpisodeSpec], make: MakeEnv = clevr_robot.make
) -> None:
    """What is decided in an episode depends on it alone: not on those alongside, nor on any randomness but its own."""
    expected = first_actions(agent, specs, make)
    assert first_actions(agent, specs, make) == expected
    assert first_actions(agent, specs[::-1], make)[::-1] == expected
    assert [first_actions(agent, [spec], make)[0] for spec in specs] == expected
    assert first_actions(agent, [specs[0], *specs], make)[1:] == expected

"""Running episodes, as an agent is shown them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from envs import clevr_robot
from envs.language import LanguageEnv
from llm_agents.rollouts.rollout import Agent, RunningEpisode
from llm_agents.rollouts.specs import EpisodeSpec

MakeEnv = Callable[[], LanguageEnv]


def start(specs: Sequence[EpisodeSpec], make: MakeEnv = clevr_robot.make) -> list[RunningEpisode]:
    """A lane for each case, just begun."""
    lanes = []
    for index, spec in enumerate(specs):
        env = _started(spec, make)
        text, rng = env.task.describe(env.state), np.random.default_rng([spec.seed, 2])
        lanes.append(RunningEpisode(env, index, spec, text, rng, states=[env.state]))
    return lanes


@cache
def _started(spec: EpisodeSpec, make: MakeEnv) -> LanguageEnv:
    """Agents only look at it."""
    env = make()
    env.reset(seed=spec.seed, options={"goal": spec.goal_id, "split": spec.split, "instruction": spec.instruction})
    return env


def decide(agent: Agent, specs: Sequence[EpisodeSpec], make: MakeEnv = clevr_robot.make) -> list:
    """The agent's first action in each case, decided all at once: numbers, or lists of numbers."""
    return [np.asarray(decision.action).tolist() for decision in agent.act(start(specs, make))]


def assert_others_do_not_matter(agent: Agent, specs: Sequence[EpisodeSpec], make: MakeEnv = clevr_robot.make) -> None:
    """What is decided for a lane depends on it alone: not on its neighbours, nor on any randomness but its own."""
    expected = decide(agent, specs, make)
    assert decide(agent, specs, make) == expected
    assert decide(agent, specs[::-1], make)[::-1] == expected
    assert [decide(agent, [spec], make)[0] for spec in specs] == expected
    assert decide(agent, [specs[0], *specs], make)[1:] == expected

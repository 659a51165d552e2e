"""Running episodes, as an agent is shown them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from envs import clevr_robot
from envs.language import LanguageEnv
from llm_agents.rollouts.cases import Case
from llm_agents.rollouts.rollout import Agent, Lane

MakeEnv = Callable[[], LanguageEnv]


def start(cases: Sequence[Case], make: MakeEnv = clevr_robot.make) -> list[Lane]:
    """A lane for each case, just begun."""
    lanes = []
    for index, case in enumerate(cases):
        env = _started(case, make)
        text, rng = env.task.describe(env.state), np.random.default_rng([case.seed, 2])
        lanes.append(Lane(env, index, case, text, rng, states=[env.state]))
    return lanes


@cache
def _started(case: Case, make: MakeEnv) -> LanguageEnv:
    """Agents only look at it."""
    env = make()
    env.reset(seed=case.seed, options={"goal": case.goal_id, "split": case.split, "instruction": case.instruction})
    return env


def decide(agent: Agent, cases: Sequence[Case], make: MakeEnv = clevr_robot.make) -> list:
    """The agent's first action in each case, decided all at once: numbers, or lists of numbers."""
    return [np.asarray(decision.action).tolist() for decision in agent.act(start(cases, make))]


def assert_lanes_do_not_matter(agent: Agent, cases: Sequence[Case], make: MakeEnv = clevr_robot.make) -> None:
    """What is decided for a lane depends on it alone: not on its neighbours, nor on any randomness but its own."""
    expected = decide(agent, cases, make)
    assert decide(agent, cases, make) == expected
    assert decide(agent, cases[::-1], make)[::-1] == expected
    assert [decide(agent, [case], make)[0] for case in cases] == expected
    assert decide(agent, [cases[0], *cases], make)[1:] == expected

"""The grounded language model as the policy."""

import numpy as np
import pytest
import torch
from lanes import assert_lanes_do_not_matter, decide
from small_models import NAMES, Grounded, MakeModel

from envs.clevr_robot import make
from envs.clevr_robot.task import ClevrRobotTask
from kalm.cases import imagination_cases, training_cases
from kalm.lm_agent import TrajectoryLMAgent
from llm_agents.rollout import Case, rollout

TASK = ClevrRobotTask()
CASES = [*training_cases(TASK, "gate", 6, seed=0), *imagination_cases(TASK, "hard", 8, seed=0)]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_decision_depends_on_its_lane_alone(make_model: MakeModel, name, temperature):
    torch.manual_seed(np.random.default_rng(0).integers(100))
    assert_lanes_do_not_matter(TrajectoryLMAgent(make_model(name), temperature), CASES)


def test_a_grounded_model_begins_as_the_episodes_it_knows(grounded: Grounded):
    cases = [Case(e.goal_id, e.instruction, e.seed, e.split) for e in grounded.episodes]
    first = [int(episode.actions[0]) for episode in grounded.episodes]
    assert np.mean(np.equal(decide(TrajectoryLMAgent(grounded.model, 0.0), cases), first)) > 0.7
    hot = decide(TrajectoryLMAgent(grounded.model, 100.0), cases)
    assert np.mean(np.equal(hot, first)) < 0.5


def test_whole_episodes_do_not_depend_on_the_lanes(grounded):
    agent, cases = TrajectoryLMAgent(grounded.model, 1.0), CASES[:4]
    together = {e.seed: e.actions.tolist() for e in rollout(agent, make, cases)}
    alone = {e.seed: e.actions.tolist() for e in rollout(agent, make, cases, num_envs=1)}
    assert together == alone

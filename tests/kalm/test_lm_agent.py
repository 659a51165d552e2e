"""The grounded language model as the policy."""

import numpy as np
import pytest
from helpers.running_episodes import assert_others_do_not_matter, first_actions
from helpers.small_models import NAMES, Grounded, MakeModel
from helpers.worlds import BOTH, NUM_BINS, World

from kalm.lm_agent import TrajectoryLMAgent
from kalm.specs import imagination_specs, training_specs
from llm_agents.rollouts.rollout import rollout
from llm_agents.rollouts.specs import EpisodeSpec


@BOTH
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_decision_depends_on_its_lane_alone(world: World, make_model: MakeModel, name, temperature):
    task = world.task
    specs = [*training_specs(task, "gate", 6, seed=0), *imagination_specs(task, "hard", 8, seed=0)]
    assert_others_do_not_matter(TrajectoryLMAgent(make_model(name), temperature), specs, world.make)


@BOTH
def test_a_grounded_model_begins_as_the_episodes_it_knows(world: World, grounded: Grounded):
    """Its actions are the same, or as near as the bins of continuous ones are."""
    specs = [EpisodeSpec(e.goal_id, e.instruction, e.seed, e.split) for e in grounded.episodes]
    first = np.array([episode.actions[0] for episode in grounded.episodes])

    def share_right(temperature: float) -> float:
        decided = np.array(first_actions(TrajectoryLMAgent(grounded.model, temperature), specs, world.make))
        return float(np.mean(np.abs(decided - first) <= 1.001 / (NUM_BINS - 1)))

    assert share_right(0.0) > 0.7
    assert share_right(100.0) < 0.5


@BOTH
def test_whole_episodes_do_not_depend_on_the_lanes(world: World, grounded):
    agent, specs = TrajectoryLMAgent(grounded.model, 1.0), training_specs(world.task, "gate", 4, seed=0)
    together = {e.seed: e.actions.tolist() for e in rollout(agent, world.make, specs)}
    alone = {e.seed: e.actions.tolist() for e in rollout(agent, world.make, specs, num_envs=1)}
    assert together == alone

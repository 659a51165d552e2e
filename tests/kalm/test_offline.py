"""Offline RL: one conformance test for all algorithms."""

import numpy as np
import pytest
import torch
from helpers.offline_algorithms import EVERY, RIGHT, SETTINGS, names_in, specs
from helpers.running_episodes import assert_others_do_not_matter, first_actions, start
from helpers.worlds import BOTH, CONTINUOUS, World
from pydantic import ValidationError

from envs.episodes import Episode
from kalm.judging import start_states
from kalm.offline import IQLSettings, OfflineAlgorithm, OfflineData, PolicyAgent
from kalm.settings import KalmConfig
from kalm.trajectories import Trajectories
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.rollouts.rollout import rollout
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import CorruptCheckpoint, Run
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.loop import Batch, fit

BRIEFLY = 20


@pytest.fixture(scope="session")
def logged(world: World) -> Trajectories:
    """Episodes of one step. From each start three take the right action, rewarded; two what other goals ask for."""
    asked = specs(40, 0, world)
    episodes = []
    goals = {spec.goal_id for spec in asked}
    for number, (spec, state) in enumerate(zip(asked, start_states(world.make, asked), strict=True)):
        right = RIGHT[spec.goal_id]
        wrong = [RIGHT[goal] for goal in sorted(goals - {spec.goal_id})]
        for action in (right, right, right, wrong[number % 3], wrong[(number + 1) % 3]):
            success = action == right
            episodes.append(
                Episode(
                    goal_id=spec.goal_id,
                    family="any",
                    split="train",
                    instruction=spec.instruction,
                    states=np.stack([state, state]),
                    actions=np.array([action]),
                    rewards=np.array([float(success)], np.float32),
                    terminated=True,
                    truncated=False,
                    success=success,
                    source="env",
                    seed=spec.seed,
                )
            )
    return Trajectories.of(episodes)


@pytest.fixture(scope="session")
def data(encoder: TextEncoder, logged: Trajectories) -> OfflineData:
    return OfflineData(encoder, logged, None, 0.0, SETTINGS.batch_size, seed=0)


@pytest.fixture(scope="session")
def trained(world, make_algorithm, data, tmp_path_factory) -> dict[str, tuple[OfflineAlgorithm, Run]]:
    """Every algorithm, trained without an interruption, and its run."""
    found = {}
    for name in names_in(world):
        run = Run.create(tmp_path_factory.mktemp(name) / "run", "toy", {})
        found[name] = train(make_algorithm(name), data, run), run
    return found


def train(
    algorithm: OfflineAlgorithm,
    data: OfflineData,
    run: Run,
    num_steps: int = SETTINGS.num_steps,
    stop: int | None = None,
) -> OfflineAlgorithm:
    def make_batch(step: int) -> Batch:
        if step == stop:
            raise KeyboardInterrupt
        return data.batch(step)

    settings = SETTINGS.model_copy(update={"num_steps": num_steps})
    fit(algorithm, settings, make_batch, run, "policy", after_step=algorithm.after_step, show_progress=False)
    return algorithm


@EVERY
def test_it_learns_what_each_goal_asks_for(world, trained, encoder, name):
    """From the starts it has seen, and for the most part from others."""
    for first_seed, least in ((0, 0.95), (1000, 0.8)):
        asked = specs(40, first_seed, world)
        actions = first_actions(PolicyAgent(trained[name][0], encoder, 0.0), asked, world.make)
        assert np.mean([action == RIGHT[spec.goal_id] for spec, action in zip(asked, actions, strict=True)]) >= least


@EVERY
def test_interrupted_it_resumes_to_the_same_weights(world, make_algorithm, data, name, tmp_path):
    whole, stopped = (Run.create(tmp_path / folder, "toy", {}) for folder in ("whole", "stopped"))
    train(make_algorithm(name), data, whole, BRIEFLY)
    for stop in (1, 13):
        with pytest.raises(KeyboardInterrupt):
            train(make_algorithm(name), data, stopped, BRIEFLY, stop)
    train(make_algorithm(name), data, stopped, BRIEFLY)
    tensors, expected = stopped.load_checkpoint("policy")[0], whole.load_checkpoint("policy")[0]
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in tensors)


@EVERY
def test_its_weights_depend_on_the_seed_and_nothing_else(world, make_algorithm, data, name, tmp_path):
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        algorithm = make_algorithm(name, seed)
        torch.manual_seed(number)  # whatever was drawn since
        train(algorithm, data, Run.create(tmp_path / f"{number}", "toy", {}), num_steps=3)
        weights.append(torch.cat([parameter.flatten() for parameter in algorithm.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@EVERY
def test_what_is_loaded_is_what_was_trained(world, trained, make_algorithm, data, name):
    algorithm, run = trained[name]
    loaded = make_algorithm(name, seed=1)
    load_weights(loaded, run, "policy")
    batch = data.batch(0)
    with torch.no_grad():
        assert torch.equal(
            loaded.action_scores(batch["states"], batch["text"]),
            algorithm.action_scores(batch["states"], batch["text"]),
        )
        assert loaded.loss(batch)[0] == algorithm.loss(batch)[0]


@EVERY
def test_weights_of_another_make_are_refused(world, trained, make_algorithm, name):
    for other in set(names_in(world)) - {name}:
        with pytest.raises(CorruptCheckpoint, match="does not fit"):
            load_weights(make_algorithm(other), trained[name][1], "policy")
    with pytest.raises(CorruptCheckpoint, match="does not fit"):
        load_weights(make_algorithm(name, hidden_size=129), trained[name][1], "policy")


@EVERY
@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_its_agent_acts_within_the_action_space(world, trained, encoder, name, temperature):
    episodes = start(specs(40, 2000, world), world.make)
    actions = [decision.action for decision in PolicyAgent(trained[name][0], encoder, temperature).act(episodes)]
    assert all(episode.env.action_space.contains(action) for episode, action in zip(episodes, actions, strict=True))
    different = len(np.unique(actions, axis=0))
    assert different <= 8 if temperature == 0 else different >= 4


@EVERY
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_a_decision_depends_on_its_lane_alone(world, make_algorithm, encoder, name, temperature):
    agent = PolicyAgent(make_algorithm(name), encoder, temperature)
    assert_others_do_not_matter(agent, specs(8, 3000, world), world.make)


@BOTH
def test_whole_episodes_do_not_depend_on_the_lanes(world, trained, encoder):
    agent, asked = PolicyAgent(trained["bc"][0], encoder, 1.0), specs(4, 3000, world)
    together = {e.seed: e.actions.tolist() for e in rollout(agent, world.make, asked)}
    assert {e.seed: e.actions.tolist() for e in rollout(agent, world.make, asked, num_envs=1)} == together


@CONTINUOUS
def test_cql_refuses_continuous_actions_and_names_what_does_not(world, make_algorithm):
    with pytest.raises(UserError, match=r"cql needs discrete actions.*bc or iql"):
        make_algorithm("cql")


def test_unknown_or_contradictory_settings_are_refused():
    for wrong in ({"discount": 1.0}, {"expectile": 0.5}, {"target_rate": 0}, {"temperature": -1}, {"algorithm": "bc"}):
        with pytest.raises(ValidationError):
            IQLSettings(**wrong)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"algorithm": "dqn"}, "policy.algorithm is 'dqn', expected 'bc' or 'cql' or 'iql'"),
        ({"expectile": 0.9}, "policy.expectile does nothing with policy.algorithm: bc, it counts with iql"),
        ({"algorithm": "cql", "expectile": 0.9}, "does nothing with policy.algorithm: cql, it counts with iql"),
        ({"algorithm": "bc", "discount": 0.9}, "does nothing with policy.algorithm: bc, it counts with cql or iql"),
        ({"algorithm": "iql", "expectle": 0.9}, "unknown key 'policy.expectle': did you mean policy.expectile"),
        ({"algorithm": "iql", "num_workers": 2}, "unknown key 'policy.num_workers': did you mean num_workers"),
    ],
)
def test_a_field_that_does_nothing_says_where_it_would_count(data, message):
    with pytest.raises(UserError) as raised:
        parse_config(KalmConfig, {"policy": data}, "my.yaml")
    assert message in str(raised.value)
    assert str(raised.value).startswith("my.yaml: ")

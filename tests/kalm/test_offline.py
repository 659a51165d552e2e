"""Offline RL: one conformance test for all algorithms, reductions of their losses, and the batches they see."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from helpers.running_episodes import assert_others_do_not_matter, first_actions, start
from helpers.worlds import BOTH, CONTINUOUS, WORLDS, World
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from envs.clevr_robot.env import NUM_ACTIONS
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode
from kalm.judging import start_states
from kalm.offline import ALGORITHMS, BCSettings, IQLSettings, OfflineAlgorithm, OfflineData, PolicyAgent, PolicySettings
from kalm.offline.cql import ConservativeQLearning
from kalm.offline.iql import MAX_WEIGHT, ImplicitQLearning, expectile_loss
from kalm.offline.networks import AttentionPooling
from kalm.settings import KalmConfig
from kalm.trajectories import Trajectories
from kalm.trajectory_lm import StateNormalizer
from llm_agents.models.text_encoder import PackedFeatures, TextEncoder
from llm_agents.rollouts.rollout import rollout
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import CorruptCheckpoint, Run
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.loop import Batch, fit

TASK = ClevrRobotTask()
# What is right to do depends on the goal alone. In CLEVR-Robot the goals differ in who stands where.
RIGHT: dict[str, Any] = {
    "pair/left/red/blue": 3,
    "pair/left/blue/red": 17,
    "pair/behind/red/blue": 25,
    "pair/right/cyan/green": 38,
    "left": [-1.0, 0.0],
    "right": [1.0, 0.0],
    "front": [0.0, -1.0],
    "back": [0.0, 1.0],
}
KINDS = [("bc", "clevr"), ("cql", "clevr"), ("iql", "clevr"), ("bc", "point"), ("iql", "point")]
EVERY = pytest.mark.parametrize(("name", "world"), KINDS, indirect=["world"], scope="session")
LEARNS_VALUES = pytest.mark.parametrize(
    ("name", "world"), [k for k in KINDS if k[0] != "bc"], indirect=["world"], scope="session"
)
BRIEFLY = 20
SETTINGS = BCSettings(
    num_steps=200, batch_size=64, learning_rate=5e-3, hidden_size=128, num_layers=2, token_dropout=0.1
)


def settings_of(name: str, **changes) -> PolicySettings:
    """The same for every algorithm; targets follow fast."""
    own = {} if name == "bc" else {"target_rate": 0.05}
    return ALGORITHMS[name].Settings(**SETTINGS.model_dump(exclude={"algorithm"}), **own).model_copy(update=changes)


def names_in(world: World) -> list[str]:
    """The algorithms that can do its actions."""
    return [name for name, place in KINDS if WORLDS[place] is world]


def specs(count: int, first_seed: int, world: World = WORLDS["clevr"]) -> list[EpisodeSpec]:
    """Cases for the four goals in turn, in any of their training phrasings."""
    goals = [goal for goal in world.task.goals("train") if goal.id in RIGHT]
    rng = np.random.default_rng(first_seed)
    return [
        EpisodeSpec(goal.id, goal.phrasings[rng.integers(len(goal.phrasings))], first_seed + index, "train")
        for index, goal in enumerate(goals * (count // 4))
    ]


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
def make_algorithm(world, encoder, normalizer):
    """A function that makes an untrained algorithm from its name and a seed."""

    def make_algorithm(name: str, seed: int = 0, **changes) -> OfflineAlgorithm:
        torch.manual_seed(seed)
        return ALGORITHMS[name](encoder.dim, normalizer, world.actions, settings_of(name, **changes))

    return make_algorithm


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


# Every algorithm


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


# Losses


@pytest.fixture
def batch(world: World, encoder: TextEncoder, normalizer: StateNormalizer) -> Batch:
    """Random transitions, half of them the last of an episode that reached its goal."""
    generator = torch.Generator().manual_seed(0)
    size = (32, len(normalizer.state_mean))
    return {
        "states": normalizer.state_mean + torch.rand(size, generator=generator) - 0.5,
        "next_states": normalizer.state_mean + torch.rand(size, generator=generator) - 0.5,
        "actions": world.random_actions(32),
        "rewards": torch.randn(32, generator=generator),
        "terminated": torch.arange(32) % 2 == 0,
        "text": encoder.packed(encoder.rows([spec.instruction for spec in specs(32, 0, world)])),
    }


@pytest.fixture
def make_random(make_algorithm):
    """A function that makes an algorithm whose networks, targets included, have nothing in common; not in training."""

    def make_random(name: str, **changes) -> OfflineAlgorithm:
        algorithm = make_algorithm(name, **changes).eval()
        generator = torch.Generator().manual_seed(1)
        for parameter in algorithm.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        return algorithm

    return make_random


def at(values: Tensor, actions: Tensor) -> Tensor:
    return values[torch.arange(len(actions)), actions]


@BOTH
def test_iql_without_temperature_clones_behaviour(world, make_random, batch):
    bc, iql = make_random("bc"), make_random("iql", inverse_temperature=0.0)
    iql.policy.load_state_dict(bc.policy.state_dict())
    assert iql.loss(batch)[1]["loss/policy"] == pytest.approx(bc.loss(batch)[0].item(), rel=1e-6)
    assert make_random("iql", inverse_temperature=3.0).loss(batch)[1]["loss/policy"] != pytest.approx(
        make_random("bc").loss(batch)[0].item(), rel=1e-2
    )


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20))
def test_the_expectile_loss_at_a_half_is_half_the_squared_error(values):
    difference = torch.tensor(values, dtype=torch.float64)
    assert expectile_loss(difference, 0.5).item() == pytest.approx(difference.square().mean().item() / 2)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_expectile_loss_is_least_at_the_expectile(expectile):
    """Where the errors above, weighted by the expectile, balance those below, weighted by the rest."""
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    best = grid[torch.stack([expectile_loss(values - v, expectile) for v in grid]).argmin()]
    above, below = (values - best).clamp_min(0).mean(), (best - values).clamp_min(0).mean()
    assert (expectile * above / ((1 - expectile) * below)).item() == pytest.approx(1.0, abs=0.01)


@BOTH
@torch.no_grad()
def test_iql_by_hand(world, make_random, batch):
    iql: ImplicitQLearning = make_random("iql", inverse_temperature=30.0, expectile=0.8)
    states, text, actions = batch["states"], batch["text"], batch["actions"]

    def q_of(network) -> Tensor:
        if actions.dtype == torch.int64:
            return at(network(states, text), actions)
        return network(states, text, actions)[:, 0]  # the box is from -1 to 1: no need to scale

    advantage = q_of(iql.target) - iql.v_network(states, text)[:, 0]
    weight = (30.0 * advantage).exp().clamp(max=MAX_WEIGHT)
    assert (weight == MAX_WEIGHT).any()
    assert (advantage < 0).any()
    value = (torch.where(advantage > 0, 0.8, 0.2) * advantage**2).mean()
    next_value = iql.v_network(batch["next_states"], text)[:, 0]
    target = batch["rewards"] + 0.95 * torch.where(batch["terminated"], 0.0, next_value)
    q = (q_of(iql.q_network) - target).square().mean()
    policy = -(weight * world.actions.log_probs(iql.policy(states, text), actions)).mean()
    loss, metrics = iql.loss(batch)
    assert metrics == pytest.approx(
        {"loss/value": value.item(), "loss/q": q.item(), "loss/policy": policy.item()}, rel=1e-4
    )
    assert loss.item() == pytest.approx((value + q + policy).item(), rel=1e-4)


def gradients(algorithm: OfflineAlgorithm, batch: Batch) -> dict[str, list[Tensor]]:
    algorithm.zero_grad()
    algorithm.loss(batch)[0].backward()
    networks = algorithm.named_children()
    return {key: [p.grad.clone() for p in m.parameters() if p.grad is not None] for key, m in networks}


@BOTH
def test_each_network_of_iql_is_trained_by_its_own_loss(world, make_random, batch):
    """Rewards teach the Q network and nothing else at once; no gradient reaches the target."""
    iql = make_random("iql")
    before = gradients(iql, batch)
    after = gradients(iql, batch | {"rewards": batch["rewards"] + 1})
    assert before["target"] == after["target"] == []
    same = {key: all(map(torch.equal, before[key], after[key])) for key in ("policy", "v_network", "q_network")}
    assert same == {"policy": True, "v_network": True, "q_network": False}
    assert all(len(before[key]) for key in same)


@torch.no_grad()
def test_cql_without_its_conservative_term_is_double_dqn(make_random, batch):
    cql: ConservativeQLearning = make_random("cql", conservative_weight=0.0)
    text = batch["text"]
    online, target = cql.policy(batch["next_states"], text), cql.target(batch["next_states"], text)
    values = at(target, online.argmax(1))
    assert not torch.allclose(values, target.amax(1)), "double DQN is plain DQN here: nothing is tested"
    y = batch["rewards"] + 0.95 * torch.where(batch["terminated"], 0.0, values)
    q = at(cql.policy(batch["states"], text), batch["actions"])
    error = (q - y).abs()
    huber = torch.where(error < 1, 0.5 * error**2, error - 0.5).mean()
    assert cql.loss(batch)[0].item() == pytest.approx(huber.item(), rel=1e-5)
    torch.testing.assert_close(cql.td_target(batch), y)


@torch.no_grad()
def test_cqls_conservative_term_by_hand(make_random, batch):
    plain, cql = make_random("cql", conservative_weight=0.0), make_random("cql", conservative_weight=2.0)
    values = cql.policy(batch["states"], batch["text"])
    gap = (values.exp().sum(1).log() - at(values, batch["actions"])).mean()
    assert gap > 0
    assert (cql.loss(batch)[0] - plain.loss(batch)[0]).item() == pytest.approx(2 * gap.item(), rel=1e-4)


@LEARNS_VALUES
@torch.no_grad()
def test_the_next_state_counts_exactly_where_the_episode_goes_on(world, make_random, batch, name):
    """Where it terminated nothing follows; where it was merely truncated the state still has its value."""
    algorithm = make_random(name)

    def td_error(rows: Tensor) -> float:
        changed = torch.where(rows[:, None], batch["next_states"] + 0.3, batch["next_states"])
        return algorithm.loss(batch | {"next_states": changed})[1]["loss/td" if name == "cql" else "loss/q"]

    nowhere = torch.zeros(32, dtype=torch.bool)
    assert td_error(batch["terminated"]) == td_error(nowhere)
    for row in (~batch["terminated"]).nonzero()[:, 0][:5]:
        assert td_error(torch.arange(32) == row) != td_error(nowhere)


@LEARNS_VALUES
@torch.no_grad()
def test_the_target_follows_at_its_rate(world, make_random, name):
    algorithm = make_random(name, target_rate=0.25)
    online = algorithm.policy if name == "cql" else algorithm.q_network
    expected = [
        0.75 * old + 0.25 * new for old, new in zip(algorithm.target.parameters(), online.parameters(), strict=True)
    ]
    before = [parameter.clone() for parameter in online.parameters()]
    algorithm.after_step()
    for found, value in zip(algorithm.target.parameters(), expected, strict=True):
        torch.testing.assert_close(found, value)
    assert all(map(torch.equal, online.parameters(), before))


@torch.no_grad()
def test_hidden_tokens_are_hidden_in_training_only_and_never_all(make_random, batch):
    bc = make_random("bc", token_dropout=0.9)
    states, text = batch["states"], batch["text"]
    assert torch.equal(bc.action_scores(states, text), bc.action_scores(states, text))
    bc.train()
    one, other = bc.action_scores(states, text), bc.action_scores(states, text)
    assert torch.isfinite(one).all()
    assert not torch.equal(one, other)


# Data


def episode(number: int, length: int, goal: str = "pair/left/red/blue", split="train", terminated=True) -> Episode:
    """One whose numbers say where they belong: state (number, step, ...)."""
    states = np.zeros((length + 1, 10), np.float32)
    states[:, 0], states[:, 1] = number, np.arange(length + 1)
    family = goal.split("/")[0]
    goal_object = TASK.goal_set.find(goal, split)
    return Episode(
        goal_id=goal,
        family=family,
        split=split,
        instruction=goal_object.phrasings[number % len(goal_object.phrasings)],
        states=states,
        actions=(number + np.arange(length)) % NUM_ACTIONS,
        rewards=(number + np.arange(length) / 100).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        source="env",
        seed=number,
    )


REAL = [episode(0, 5), episode(1, 3, terminated=False), episode(2, 1)]
IMAGINED = [
    *(episode(100 + n, 1, "move/left/red", "easy") for n in range(4)),
    *(episode(200 + n, 4, "pair/left/red/blue", "rephrase") for n in range(4)),
    *(episode(300 + n, 16, "gather/red", "hard") for n in range(4)),
]


def offline_data(encoder, fraction: float, batch_size: int = 64, imagined=IMAGINED, seed: int = 0) -> OfflineData:
    extra = Trajectories.of(imagined) if imagined else None
    return OfflineData(encoder, Trajectories.of(REAL), extra, fraction, batch_size, seed)


@pytest.mark.parametrize("batch_size", [2, 33, 64])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_of_imagined_rows_is_exact(encoder, fraction, batch_size):
    data = offline_data(encoder, fraction, batch_size)
    for step in range(5):
        states = data.batch(step)["states"]
        assert len(states) == batch_size
        assert (states[:, 0] >= 100).sum() == round(fraction * batch_size)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_attention_pooling_attends_to_each_text_alone(lengths, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pooling = AttentionPooling(5, num_queries=3, key_size=4, value_size=2).eval()
        texts = [torch.randn(length, 5) for length in lengths]
    pooled = pooling(PackedFeatures(torch.cat(texts), torch.tensor(lengths)))
    for found, text in zip(pooled, texts, strict=True):
        attention = (pooling.to_key(text) @ pooling.queries.T).softmax(0)
        torch.testing.assert_close(found, (attention.T @ pooling.to_value(text)).flatten(), rtol=1e-4, atol=1e-5)


def test_without_imagined_data_every_row_is_real(encoder):
    batch = offline_data(encoder, 0.5, imagined=None).batch(0)
    assert len(batch["states"]) == 64
    assert (batch["states"][:, 0] < 100).all()


def test_a_row_is_one_transition_with_all_that_belongs_to_it(encoder):
    data = offline_data(encoder, 0.5)
    by_number = {int(e.states[0, 0]): e for e in REAL + IMAGINED}
    ended = Counter()
    for step in range(10):
        batch = data.batch(step)
        numbers, steps = batch["states"][:, 0].int().tolist(), batch["states"][:, 1].int().tolist()
        expected_text = encoder.packed(encoder.rows([by_number[number].instruction for number in numbers]))
        assert torch.equal(batch["text"].features, expected_text.features)
        assert torch.equal(batch["text"].lengths, expected_text.lengths)
        for row, (number, t) in enumerate(zip(numbers, steps, strict=True)):
            e = by_number[number]
            assert batch["states"][row].tolist() == e.states[t].tolist()
            assert batch["next_states"][row].tolist() == e.states[t + 1].tolist()
            assert batch["actions"][row] == e.actions[t]
            assert batch["rewards"][row] == e.rewards[t]
            assert batch["terminated"][row] == (e.terminated and t + 1 == len(e))
            ended[bool(batch["terminated"][row]), e.terminated, t + 1 == len(e)] += 1
    # All kinds were seen: going on, terminated, and truncated, which counts as going on.
    assert set(ended) == {(False, True, False), (True, True, True), (False, False, False), (False, False, True)}


def test_real_rows_are_drawn_evenly(encoder):
    data = offline_data(encoder, 0.0, batch_size=90)
    count = 40
    seen = Counter(tuple(row) for step in range(count) for row in data.batch(step)["states"][:, :2].tolist())
    assert set(seen) == {(float(e.states[0, 0]), float(t)) for e in REAL for t in range(len(e))}
    expected = 90 * count / 9
    assert max(abs(n - expected) for n in seen.values()) < 5 * np.sqrt(expected)


def test_groups_of_imagined_rows_are_balanced_by_the_root_of_their_size(encoder):
    """Of 4, 16 and 64 transitions: as 2 to 4 to 8, and evenly within each."""
    data = offline_data(encoder, 1.0, batch_size=140)
    count = 40
    rows = [tuple(row) for step in range(count) for row in data.batch(step)["states"][:, :2].int().tolist()]
    groups = Counter(number // 100 for number, _ in rows)
    for group, parts in ((1, 2), (2, 4), (3, 8)):
        expected = 140 * count * parts / 14
        assert abs(groups[group] - expected) < 5 * np.sqrt(expected)
        within = Counter(row for row in rows if row[0] // 100 == group)
        size = 4**group
        assert len(within) == size
        assert max(abs(n - expected / size) for n in within.values()) < 5 * np.sqrt(expected / size)


def test_a_batch_is_a_function_of_seed_and_step(encoder):
    data, again, other = (offline_data(encoder, 0.5, seed=seed) for seed in (0, 0, 1))
    expected = {step: data.batch(step)["states"] for step in (4, 0, 9)}
    assert all(torch.equal(again.batch(step)["states"], expected[step]) for step in (0, 4, 9))
    assert not torch.equal(expected[0], expected[4])
    assert not torch.equal(other.batch(0)["states"], expected[0])

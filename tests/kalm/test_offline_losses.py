"""Offline RL: the losses of the algorithms by hand, their gradients, and their networks."""

import pytest
import torch
from helpers.offline_algorithms import LEARNS_VALUES, specs
from helpers.worlds import BOTH, World
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kalm.offline import OfflineAlgorithm
from kalm.offline.cql import ConservativeQLearning
from kalm.offline.iql import MAX_WEIGHT, ImplicitQLearning, expectile_loss
from kalm.offline.networks import AttentionPooling
from kalm.trajectory_lm import StateNormalizer
from llm_agents.models.text_encoder import PackedFeatures, TextEncoder
from llm_agents.training.loop import Batch


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

"""What each action would lead to: the language model's dynamics and the MLP's."""

import pytest
import torch
from helpers.small_models import NAMES, MakeModel
from helpers.worlds import BOTH, World

from kalm.dynamics import Dynamics, LMDynamics, MLPDynamics, MLPDynamicsSettings, transition_batch
from kalm.grounding import Grounding, GroundingSettings
from kalm.trajectories import Transitions
from llm_agents.runtime.run import Run
from llm_agents.training.loop import fit

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(params=[*NAMES, "mlp"])
def dynamics(request, world: World, make_model: MakeModel, normalizer) -> Dynamics:
    if request.param == "mlp":
        torch.manual_seed(0)
        return MLPDynamics(world.actions, normalizer, MLPDynamicsSettings(hidden_size=32))
    return LMDynamics(make_model(request.param))


@BOTH
def test_an_action_leads_to_the_same_alone_and_among_others(world, dynamics, transitions):
    states, tried = transitions.states[:9], world.random_actions(9, 5)
    outcomes = dynamics.outcomes(states, tried)
    assert outcomes.shape == (9, 5, states.shape[1])
    assert (outcomes - outcomes[:, :1]).abs().amax((0, 2))[1:].min() > 0, "actions make no difference"
    for column in range(5):
        torch.testing.assert_close(dynamics.predict(states, tried[:, column]), outcomes[:, column], **CLOSE)
    torch.testing.assert_close(dynamics.outcomes(states.flip(0), tried.flip(0)).flip(0), outcomes, **CLOSE)
    torch.testing.assert_close(dynamics.outcomes(states[4:5], tried[4:5])[0], outcomes[4], **CLOSE)


@BOTH
@pytest.mark.parametrize("chunk", [1, 41, 100, 10**6])
def test_the_size_of_a_chunk_makes_no_difference(world, make_model, transitions, chunk):
    states, actions, tried = transitions.states[:7], transitions.actions[:7], world.random_actions(7, 40)
    expected, one = LMDynamics(make_model()), LMDynamics(make_model(), chunk)
    torch.testing.assert_close(one.outcomes(states, tried), expected.outcomes(states, tried), **CLOSE)
    torch.testing.assert_close(one.predict(states, actions), expected.predict(states, actions), **CLOSE)


@BOTH
@torch.no_grad()
def test_the_loss_is_measured_on_what_is_predicted(dynamics, transitions):
    """A model has no loss where the world does as it says, and one of 1 where it is off by a deviation throughout."""
    states, actions = transitions.states[:9], transitions.actions[:9]
    model = dynamics if isinstance(dynamics, MLPDynamics) else dynamics.model
    said = dynamics.predict(states, actions)
    rounding = (torch.finfo(states.dtype).eps * states.abs() / model.step_std).mean().item()  # in deviations
    for next_states, expected in ((said, 0.0), (said + model.step_std, 1.0)):
        if isinstance(dynamics, MLPDynamics):
            loss, _ = model.loss({"states": states, "actions": actions, "next_states": next_states})
        else:
            pair = torch.stack([states, next_states], 1)
            loss, _ = Grounding(model, GroundingSettings()).dynamics(pair, actions[:, None])
        assert loss.item() == pytest.approx(expected, abs=1e-4 + rounding)


def error(dynamics: Dynamics, transitions: Transitions) -> float:
    predicted = dynamics.predict(transitions.states, transitions.actions)
    return (predicted - transitions.next_states).square().mean().item()


@BOTH
def test_a_grounded_model_knows_the_transitions_it_has_seen(grounded, make_model, transitions):
    seen = transitions.take(torch.arange(20))
    standstill = (seen.next_states - seen.states).square().mean().item()
    assert error(LMDynamics(grounded.model), seen) < 0.3 * min(standstill, error(LMDynamics(make_model()), seen))


@BOTH
def test_the_mlp_learns_and_comes_back(world, normalizer, transitions, tmp_path):
    settings = MLPDynamicsSettings(num_steps=150, batch_size=32, hidden_size=64, learning_rate=3e-3)
    seen = transitions.take(torch.arange(40))
    run = Run.create(tmp_path / "run", "toy", {})

    def train() -> MLPDynamics:
        torch.manual_seed(0)
        mlp = MLPDynamics(world.actions, normalizer, settings)
        fit(mlp, settings, lambda step: transition_batch(seen, 32, 0, step), run, "mlp", show_progress=False)
        return mlp

    mlp = train()
    standstill = (seen.next_states - seen.states).square().mean().item()
    assert error(mlp, seen) < 0.3 * standstill
    assert error(train(), seen) == error(mlp, seen)


def test_a_batch_of_transitions_is_a_function_of_seed_and_step(transitions):
    one = transition_batch(transitions, 16, seed=0, step=3)
    assert all(torch.equal(one[key], value) for key, value in transition_batch(transitions, 16, 0, 3).items())
    for other in (transition_batch(transitions, 16, 0, 4), transition_batch(transitions, 16, 1, 3)):
        assert not torch.equal(one["states"], other["states"])
    rows = {tuple(torch.cat([s, n]).tolist()): a for s, a, n in zip(*map(list, transitions), strict=True)}
    for state, action, next_state in zip(one["states"], one["actions"], one["next_states"], strict=True):
        assert rows[tuple(torch.cat([state, next_state]).tolist())] == action

"""Verification rejects what is implausible, inconsistent or unsuccessful; the environment has the last word."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.worlds import ROOM
from test_imagination import ACTIONS, Pushes, unasked

from envs.clevr_robot import make
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode
from kalm.judging import start_states
from kalm.planning import SearchSettings, search
from kalm.specs import training_specs
from kalm.trajectories import Trajectories
from kalm.verification import Replay, VerificationSettings, quality_gate, replay, verdict_row, verify
from llm_agents.runtime.errors import UserError

TASK = ClevrRobotTask()
SETTINGS = VerificationSettings(max_disagreement=0.1)
STEP_STD = torch.full((10,), 0.5)
SPOILED = 3  # of the rollouts, the one that is tampered with


@pytest.fixture(scope="module")
def good() -> list[Episode]:
    """Imagined rollouts that succeed, in dynamics without an error."""
    specs = training_specs(TASK, "gate", 30, seed=0)
    episodes = search(Pushes(), TASK, ACTIONS, unasked, specs, start_states(make, specs), SearchSettings(max_steps=12))
    long = [episode for episode in episodes if episode.success and len(episode) > 2]
    assert len(long) >= 8
    return long[:8]


def judge(episodes: list[Episode]) -> dict[str, list[bool]]:
    verdict = verify(episodes, TASK, Pushes(), STEP_STD, SETTINGS)
    return {name: getattr(verdict, name).tolist() for name in ("plausible", "consistent", "success", "accepted")}


def all_but_one(rejected: bool) -> list[bool]:
    return [index != SPOILED or not rejected for index in range(8)]


def spoiled(episodes: list[Episode], **changes) -> list[Episode]:
    return [dataclasses.replace(e, **changes) if i == SPOILED else e for i, e in enumerate(episodes)]


def moved(episode: Episode, step: int, by: float, ball: int) -> np.ndarray:
    """The states, with one ball elsewhere at one step."""
    states = episode.states.copy()
    states[step, 2 * ball] += by
    return states


def test_good_rollouts_are_kept(good):
    assert judge(good) == dict.fromkeys(("plausible", "consistent", "success", "accepted"), [True] * 8)


@pytest.mark.parametrize("value", [np.nan, np.inf, 5.0])
def test_an_implausible_state_is_rejected_wherever_it_stands(good, value):
    for step in range(1, len(good[SPOILED].states)):
        states = good[SPOILED].states.copy()
        states[step, 4] = value
        verdict = judge(spoiled(good, states=states))
        assert verdict["plausible"] == verdict["accepted"] == all_but_one(rejected=True)


def test_a_plausible_state_that_the_dynamics_do_not_lead_to_is_rejected(good):
    """As much as is allowed passes, a little more does not; and the last state counts as much as any."""
    episode = good[SPOILED]
    tried = 0
    for step in range(1, len(episode.states)):
        for by, rejected in ((0.08, False), (0.12, True), (-0.08, False), (-0.12, True)):
            for ball in range(5):
                states = moved(episode, step, by, ball)
                plausible = TASK.plausible(states[:-1], episode.actions, states[1:]).all()
                ends = TASK.achieved(TASK.goal_set.find(episode.goal_id), states)[-1]
                predicted = Pushes().predict(torch.from_numpy(states[:-1]), torch.tensor(episode.actions))
                error = np.abs(predicted.numpy() - states[1:]).max()
                if not plausible or not ends or (error > SETTINGS.max_disagreement) != rejected:
                    continue  # a push of the moved ball, or of one beside it, leads somewhere else
                tried += 1
                verdict = judge(spoiled(good, states=states))
                assert verdict["plausible"] == [True] * 8
                assert verdict["consistent"] == verdict["accepted"] == all_but_one(rejected)
    assert tried > 10


def test_disagreement_may_be_measured_in_steps(good):
    """What is 0.12 off is 0.24 deviations off where the deviation is half a unit, number by number."""
    spoilt = moved(good[SPOILED], len(good[SPOILED]), 0.12, ball=4)
    for settings, std, accepted in (
        (VerificationSettings(max_disagreement=0.25, disagreement_unit="step"), 0.5, True),
        (VerificationSettings(max_disagreement=0.2, disagreement_unit="step"), 0.5, False),
        (VerificationSettings(max_disagreement=0.2, disagreement_unit="step"), 1.0, True),
        (VerificationSettings(max_disagreement=0.2), 0.5, True),
    ):
        step_std = STEP_STD.clone()
        step_std[8] = std
        verdict = verify(spoiled(good, states=spoilt), TASK, Pushes(), step_std, settings)
        assert verdict.consistent.tolist() == all_but_one(rejected=not accepted)


def test_an_action_that_the_dynamics_do_not_know_like_this_is_rejected(good):
    episode = good[SPOILED]
    other = (episode.actions + 20) % 40  # another ball the other way
    verdict = judge(spoiled(good, actions=other))
    assert verdict["consistent"] == verdict["accepted"] == all_but_one(rejected=True)


def test_a_rollout_that_does_not_succeed_is_rejected(good):
    """Whatever it says of itself: success is read from its last state."""
    episode = good[SPOILED]
    for claim in (False, True):
        cut = {"states": episode.states[:-1], "actions": episode.actions[:-1], "rewards": episode.rewards[:-1]}
        verdict = judge(spoiled(good, **cut, success=claim, terminated=claim, truncated=not claim))
        assert verdict["success"] == verdict["accepted"] == all_but_one(rejected=True)
        assert verdict["plausible"] == verdict["consistent"] == [True] * 8


def test_verdicts_do_not_depend_on_the_company(good):
    states = moved(good[SPOILED], 1, 0.3, ball=2)
    episodes = spoiled(good, states=states)
    together = judge(episodes)
    alone = [judge([episode]) for episode in episodes]
    assert together == {name: [verdict[name][0] for verdict in alone] for name in together}


class Inexact:
    """Dynamics that predict what happened, each number a little off."""

    def __init__(self, next_states: torch.Tensor, error: float) -> None:
        noise = torch.rand(next_states.shape, generator=torch.Generator().manual_seed(0))
        self.predicted = next_states + error * (2 * noise - 1)

    def predict(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return self.predicted


@ROOM
@pytest.mark.parametrize(("error", "consistent"), [(0.3, True), (1.5, False)])
def test_a_prediction_counts_as_the_nearest_state_that_can_exist(world, task, episodes, error, consistent):
    trajectories = Trajectories.of(episodes)
    rows, steps = trajectories.transitions()
    dynamics = Inexact(trajectories.states[rows, steps + 1], error)
    verdict = verify(episodes, task, dynamics, torch.ones(episodes[0].states.shape[-1]), SETTINGS)
    assert verdict.consistent.tolist() == [consistent] * len(episodes)
    assert verdict.plausible.all()


# Replays


def test_the_replay_of_a_real_episode_is_the_episode(episodes):
    for episode, found in zip(episodes, replay(make, episodes), strict=True):
        assert found == Replay(episode.success, 0.0)


def test_a_replay_fails_where_the_environment_does_not_follow(episodes):
    """Imagined states play no part in what is real, but in how far off they were."""
    lying = [dataclasses.replace(e, states=e.states + np.float32(0.25)) for e in episodes]
    assert replay(make, lying) == [Replay(e.success, pytest.approx(0.25, abs=1e-6)) for e in episodes]
    elsewhere = [dataclasses.replace(e, actions=np.full_like(e.actions, 32)) for e in episodes]
    found = replay(make, elsewhere)
    assert np.mean([one.success for one in found]) < 0.3
    assert np.mean([one.state_error for one in found]) > 0.01


def test_a_replay_that_reaches_the_goal_early_counts(episodes):
    """The environment ends the episode there; what was imagined beyond it does not count as an error."""
    episode = max(episodes, key=len)
    assert episode.success
    beyond = dataclasses.replace(
        episode,
        states=np.concatenate([episode.states, np.zeros((3, 10), np.float32)]),
        actions=np.append(episode.actions, [1, 2, 3]),
        rewards=np.append(episode.rewards, np.zeros(3, np.float32)),
    )
    assert replay(make, [beyond]) == [Replay(True, 0.0)]


def test_rates_of_the_verifier_by_hand(good):
    accepted = [True, True, True, False, True, True, False, True]
    verdict = dataclasses.replace(verify(good, TASK, Pushes(), STEP_STD, SETTINGS), plausible=np.array(accepted))
    sample = np.array([7, 3, 0, 6, 1])  # kept: yes, no, yes, no, yes
    replays = [Replay(True, 0.1), Replay(True, 0.2), Replay(False, 0.3), Replay(False, 0.4), Replay(True, 0.5)]
    row = verdict_row(verdict, sample, replays)
    assert row["kept"] == row["plausible"] == 6 / 8
    assert (row["success"], row["consistent"], row["imagined"], row["replayed"]) == (1, 1, 8, 5)
    assert (row["replay_success"], row["replay_success_kept"]) == (3 / 5, 2 / 3)
    assert (row["tpr"], row["fpr"]) == (2 / 3, 1 / 2)
    assert row["state_error"] == pytest.approx(0.3)


@pytest.mark.parametrize("floor", [0.0, 0.4, 1.0])
def test_the_quality_gate_stops_below_its_floor_and_says_what_to_change(floor):
    settings = VerificationSettings(min_replay_success=floor)
    quality_gate("search", floor, settings)
    quality_gate("search", 1.0, settings)
    with pytest.raises(UserError) as caught:
        quality_gate("search", floor - 0.01, settings)
    message = str(caught.value)
    assert "(search)" in message
    assert f"the floor is {floor:.0%}" in message
    assert "--verification.min_replay_success" in message
    assert "--grounding.num_steps" in message

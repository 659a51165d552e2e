import numpy as np
import pytest

from envs.clevr_robot import make
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode
from llm_agents.agents.scripted import ExpertAgent, NoisyAgent, RandomAgent
from llm_agents.rollouts.observation import AgentObservation
from llm_agents.rollouts.panels import make_panel
from llm_agents.rollouts.rollout import ActionOutput, iter_rollouts, rollout
from llm_agents.runtime.errors import UserError

TASK = ClevrRobotTask()
CASES = make_panel(TASK, "easy", 6).specs + make_panel(TASK, "train", 6).specs


def play(agent, specs=CASES, num_envs: int = 64) -> dict[int, Episode]:
    return dict(iter_rollouts(agent, make, specs, num_envs))


def same(episode: Episode, other: Episode) -> bool:
    return np.array_equal(episode.states, other.states) and np.array_equal(episode.actions, other.actions)


@pytest.mark.parametrize("agent", [RandomAgent(), NoisyAgent(ExpertAgent(TASK), 0.5)])
def test_an_episode_depends_on_its_case_alone(agent):
    together = play(agent)
    assert sorted(together) == list(range(len(CASES)))
    one_by_one = play(agent, num_envs=1)
    backwards = play(agent, CASES[::-1], num_envs=5)
    for index, episode in together.items():
        assert same(episode, one_by_one[index])
        assert same(episode, backwards[len(CASES) - 1 - index])
    (alone,) = rollout(agent, make, CASES[7:8])
    assert same(alone, together[7])


def test_episodes_hold_what_was_asked_and_what_happened():
    for index, episode in play(RandomAgent()).items():
        spec = CASES[index]
        goal = TASK.goal_set.find(spec.goal_id, spec.split)
        assert (episode.goal_id, episode.instruction, episode.seed, episode.split) == (
            spec.goal_id,
            spec.instruction,
            spec.seed,
            spec.split,
        )
        assert len(episode.states) == len(episode) + 1
        assert len(episode.rewards) == len(episode)
        assert episode.terminated != episode.truncated
        assert episode.success == TASK.achieved(goal, episode.states)[-1]
        rewards = TASK.reward(goal, episode.states[:-1], episode.states[1:], episode.states[:1])
        assert episode.rewards == pytest.approx(rewards, abs=1e-5)


class Counting:
    """Pushes the red ball right, and notes how many episodes run in parallel."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def act(self, observations: list[AgentObservation]) -> list[ActionOutput]:
        self.widths.append(len(observations))
        return [ActionOutput(0) for _ in observations]


def test_lanes_are_refilled_at_once():
    agent = Counting()
    episodes = play(agent, CASES, num_envs=4)
    assert max(agent.widths) == 4
    steps = sum(map(len, episodes.values()))
    assert steps == sum(agent.widths)
    assert agent.widths[: steps // 4 - 50] == [4] * (steps // 4 - 50)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_noisy_agent_takes_its_share_of_random_actions(share: float):
    episodes = play(NoisyAgent(Counting(), share), make_panel(TASK, "train", 12).specs)
    actions = np.concatenate([episode.actions for episode in episodes.values()])
    expected = share * 39 / 40
    margin = 4 * np.sqrt(expected * (1 - expected) / len(actions)) + 1e-9
    assert np.mean(actions != 0) == pytest.approx(expected, abs=margin)


def test_environments_are_closed_when_the_caller_stops_early():
    closed = []

    def make_env():
        env = make()
        env.close = lambda: closed.append(env)
        return env

    episodes = iter_rollouts(RandomAgent(), make_env, CASES, num_envs=3)
    next(episodes)
    assert not closed
    episodes.close()
    assert len(closed) == 3


def test_no_lanes_are_refused_and_no_cases_are_fine():
    with pytest.raises(UserError, match="at least 1"):
        play(RandomAgent(), num_envs=0)
    assert play(RandomAgent(), ()) == {}

"""Episodes that a model begins and the expert ends, and what is learnt from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("minigrid")

from envs.babyai.text_env import TURN_LEFT
from envs.episodes import Turn
from llm_agents.agents.prompts import PromptSettings
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.models.loading import load_language_model
from llm_agents.models.tiny import TinySettings
from llm_agents.registry.environments import make_environment
from llm_agents.rollouts.observation import observations_of
from llm_agents.rollouts.rollout import ActionOutput, rollout
from llm_agents.rollouts.specs import draw_specs
from llm_agents.training.dagger import DaggerData, DaggerSettings, InterventionAgent, takeover
from llm_agents.training.warm_start import WarmStartData, WarmStartSettings, expert_decisions

PROMPTS = PromptSettings(list_actions=False)


class Turner:
    """Turns left, and has a turn to show for it, as an LLM agent has."""

    def act(self, observations):
        return [ActionOutput(TURN_LEFT, turn=Turn((1,), (2,), (0.0,))) for _ in observations]


def make_env():
    return make_environment("envs:BabyAIText-v0", level="mixed")


@pytest.fixture(scope="module")
def task():
    return make_env().task


@pytest.fixture(scope="module")
def specs(task):
    return draw_specs(task, "train", 60, 0)


@pytest.fixture(scope="module")
def lm():
    return load_language_model(
        TinySettings(text_input="words", hidden_size=16, num_layers=1), corpus=["You see a wall"]
    )


def begin(task, episode):
    return takeover(task, task.goal_set.find(episode.goal_id), episode.seed)


def play(task, specs, agent):
    return list(rollout(InterventionAgent(agent, ExpertAgent(task)), make_env, specs, num_envs=16))


@pytest.fixture(scope="module")
def dagger(task, specs):
    return play(task, specs, Turner())


def test_the_model_begins_and_the_expert_ends(task, specs, dagger):
    for episode in dagger:
        assert (episode.actions[: begin(task, episode)] == TURN_LEFT).all()
        assert not episode.turns
    by_expert = {episode.seed: len(episode) for episode in rollout(ExpertAgent(task), make_env, specs)}
    assert all(len(e) - begin(task, e) <= 2 * by_expert[e.seed] + 4 for e in dagger)  # it wastes nothing
    assert all(episode.success for episode in dagger)


def test_the_expert_mends_what_was_done(task, specs):
    """Random actions pick things up that it has to put away: it must have watched."""
    assert np.mean([episode.success for episode in play(task, specs, RandomAgent())]) > 0.95


def test_it_takes_over_in_the_first_half_of_the_horizon_and_not_always_at_once(task):
    goal = task.goal_set["train"][0]
    steps = [takeover(task, goal, seed) for seed in range(300)]
    assert (min(steps), max(steps)) == (0, task.horizon(goal) // 2)
    assert 0.4 < np.mean(steps) / (task.horizon(goal) // 2) < 0.6
    assert steps == [takeover(task, goal, seed) for seed in range(300)]


def test_only_what_the_expert_did_is_learnt(task, dagger):
    failed = replace(dagger[0], success=False)
    observations, actions = expert_decisions(task, [failed, *dagger], lambda episode: begin(task, episode))
    counts = [max(0, len(episode) - begin(task, episode)) for episode in dagger]
    assert len(observations) == len(actions) == sum(counts)
    first = 0
    for episode, count in zip(dagger, counts, strict=True):
        whole = observations_of(task, episode)[:-1]
        assert observations[first : first + count] == whole[len(whole) - count :]
        first += count


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_a_share_of_the_batches_is_of_corrections(lm, task, dagger, fraction):
    of_whom = {"they": dagger, "demo": list(dagger)}
    said = {who: [replace(episode, instruction=who) for episode in episodes] for who, episodes in of_whom.items()}
    settings = DaggerSettings(num_episodes=60, batch_size=4, fraction=fraction)
    beside = WarmStartData(lm, PROMPTS, task, said["demo"], WarmStartSettings(batch_size=4), 0)
    data = DaggerData(lm, PROMPTS, task, beside, said["they"], settings, 0.0, 0)
    owners = []
    for step in range(200):
        prompts = lm.tokenizer.batch_decode(data.batch(step)["token_ids"])
        found = {who for who in of_whom for prompt in prompts if f"Goal of the agent: {who}" in prompt}
        assert len(found) == 1
        owners += found
    assert owners.count("they") / 200 == pytest.approx(fraction, abs=0.1)
    assert data.batch(3)["token_ids"].tolist() == data.batch(3)["token_ids"].tolist()


def test_where_the_model_needs_no_correction_demonstrations_are_learnt_on(lm, task, specs):
    alone = list(rollout(ExpertAgent(task), make_env, specs[:5]))
    ended = [replace(e, actions=np.array([0]), states=e.states[:2], rewards=e.rewards[:1]) for e in alone]
    ended = [episode for episode in ended if begin(task, episode) > 0]
    assert ended
    settings = DaggerSettings(num_episodes=5, batch_size=4, fraction=1.0)
    beside = WarmStartData(lm, PROMPTS, task, alone, WarmStartSettings(batch_size=4), 0)
    data = DaggerData(lm, PROMPTS, task, beside, ended, settings, 0.0, 0)
    assert data.batch(0)["chosen"].any()

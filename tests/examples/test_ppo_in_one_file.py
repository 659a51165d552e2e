"""Check that the teaching file runs, stays short, and computes what the library computes."""

import re
import runpy
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import pytest
import torch

from llm_agents import losses
from llm_agents.credit.gae import gae, whiten
from llm_agents.models.action_scorer import ActionScorer, ScorerSettings
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.tokenizer import train_tokenizer

pytest.importorskip("minigrid")
FILE = Path(__file__).parents[2] / "examples" / "ppo_in_one_file.py"
EXACT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def ppo():
    """Load what the file defines."""
    return SimpleNamespace(**runpy.run_path(str(FILE)))


@pytest.fixture(scope="module")
def config(ppo):
    """Make episodes so short that some are truncated, and updates so large that some ratios are clipped."""
    return ppo.Config(horizon=4, num_envs=32, num_steps=12, num_epochs=1, learning_rate=0.01)


@pytest.fixture(scope="module")
def policy(ppo, config):
    """Make a policy from random weights."""
    torch.manual_seed(0)
    actions = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
    texts = [*actions, *(f"wall {i} steps left, red ball {i} step right and 1 forward . go to :" for i in range(9))]
    return ppo.Policy(train_tokenizer(texts, vocab_size=400), actions, config)


@pytest.fixture(scope="module")
def rollout(ppo, config, policy):
    """Play, and then learn from it once, so that the policy is no longer the one that played."""
    envs = [
        gymnasium.make("envs:BabyAIText-v0", level=config.level, horizon=config.horizon).unwrapped
        for _ in range(config.num_envs)
    ]
    seeds = count()
    optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
    for _ in range(20):  # or it would hardly ever move: "drop" and "toggle" are shorter than the rest
        (-policy(["wall 2 steps left . go to the red ball :"])[0].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    prompts = [ppo.prompt_text(env.reset(seed=next(seeds))[0]) for env in envs]
    rollout, _ = ppo.play(policy, envs, prompts, seeds, config.num_steps)
    ppo.update(policy, optimizer, rollout, config)
    return rollout


@pytest.fixture(scope="module")
def scores(policy, rollout):
    """Score the prompts of the rollout as the library does, with the same weights."""
    lm = LanguageModel(policy.lm, policy.tokenizer)
    scorer = ActionScorer(lm, ScorerSettings(normalisation="sum"))
    scorer.value_head = torch.nn.Sequential(policy.value_head)
    actions = policy.tokenizer.batch_decode(policy.action_ids, skip_special_tokens=True)
    ids = policy.tokenizer(rollout.prompts)["input_ids"]
    with torch.no_grad():
        return scorer(ids, [actions] * len(ids))


def library_gae(rollout, config):
    """Return advantages and returns, (T, N), by the library, which takes one episode after the other.

    An episode that goes on after the last step counts as one that was truncated there.
    """
    num_steps, num_envs = rollout.rewards.shape
    ends = rollout.terminated | rollout.truncated
    ends[-1] = True
    last_values = rollout.next_values * ~rollout.terminated
    rewards, values, last_values, ends = (x.T.flatten() for x in (rollout.rewards, rollout.values, last_values, ends))
    found = gae(rewards, values, last_values[ends], ends, config.discount, config.gae_lambda)
    return [column.view(num_envs, num_steps).T for column in found]


def test_a_short_run_ends_with_the_success_on_the_panel(ppo, capsys):
    arguments = "--num_iterations 2 --num_envs 4 --num_steps 4 --panel_size 6 --num_pretraining_steps 2 --batch_size 8"
    ppo.main(arguments.split())
    lines = capsys.readouterr().out.splitlines()
    rate = r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] on panel [0-9a-f]{12}"
    assert len(lines) == 6
    assert all(re.fullmatch(rf"{name} +{rate}", lines[i]) for i, name in ((0, "random"), (1, "expert"), (4, "PPO")))
    assert lines[1].startswith("expert 1.000")
    assert all("rollout/success" in line and "nan" not in line for line in lines[2:4])


def test_it_stays_short():
    assert len(FILE.read_text().splitlines()) < 250


def test_advantages_and_returns_are_those_of_the_library(ppo, config, rollout):
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    expected = library_gae(rollout, config)
    for ours, theirs in zip(ppo.gae(rollout, config.discount, config.gae_lambda), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_the_value_after_a_step_is_that_of_the_next_step_unless_the_episode_ended(rollout):
    goes_on = ~(rollout.terminated | rollout.truncated)[:-1]
    torch.testing.assert_close(rollout.next_values[:-1][goes_on], rollout.values[1:][goes_on], **EXACT)
    assert (rollout.next_values[:-1] - rollout.values[1:])[~goes_on].abs().max() > 1e-3


def test_actions_are_as_probable_and_prompts_worth_as_much_as_in_the_library(policy, rollout, scores):
    with torch.no_grad():
        ours, values = policy(rollout.prompts)
    torch.testing.assert_close(ours, scores.logits, **EXACT)
    torch.testing.assert_close(ours.log_softmax(1), scores.logits.log_softmax(1), **EXACT)
    torch.testing.assert_close(values, scores.values, **EXACT)


def test_losses_are_those_of_the_library(ppo, config, policy, rollout, scores):
    advantages, returns = library_gae(rollout, config)
    advantages = whiten(advantages).flatten()
    actions, old, values = (column.flatten() for column in (rollout.actions, rollout.log_probs, rollout.values))
    weights = losses.token_weights(torch.ones_like(actions) > 0, "token_mean")
    log_probs = scores.logits.log_softmax(1).gather(1, actions[:, None])[:, 0]
    of_policy, metrics = losses.policy_loss(log_probs, old, advantages, weights, config.clip_range)
    of_value, _ = losses.value_loss(scores.values, values, returns.flatten(), weights)
    expected = {
        "loss/policy": of_policy,
        "loss/value": of_value,
        "policy/entropy": losses.entropy(scores.logits).mean(),
        "policy/kl": torch.tensor(metrics["policy/kl"]),
        "policy/clip_fraction": torch.tensor(metrics["policy/clip_fraction"]),
    }
    assert metrics["policy/clip_fraction"] > 0.05
    with torch.no_grad():
        ours = ppo.losses(policy, rollout.prompts, [actions, old, advantages, returns.flatten()], config.clip_range)
    for name, number in expected.items():
        torch.testing.assert_close(ours[name], number, **EXACT, msg=lambda text, name=name: f"{name}: {text}")

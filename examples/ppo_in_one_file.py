"""PPO for a small language model that acts by action texts, in one file, to be read from top to bottom.

The agent stands somewhere in a room of BabyAI and is to go to the red ball. It reads a sentence or two about what it
sees, such as "wall 2 steps left, red ball 1 step right and 3 steps forward . go to the red ball :", and chooses among
six texts: "turn left", "go forward", "pick up" and so on. Each text is as probable as the language model finds it as
the next words (GLAM: Carta et al., ICML 2023), and PPO (Schulman et al., 2017) changes the model so that the texts that
led to the ball become more probable. The reward is 1 on arrival, and nothing else.

Everything of PPO stands here: scoring, rollout, GAE, loss and update. What the library's recipe
(llm_agents/recipes/ppo.py) does and this file leaves out, for the sake of reading:

- The model is a tiny Llama with random weights, not a pretrained one, and no expert is imitated. A few steps of maximum
  likelihood teach it that all six texts are equally likely; all the rest it learns from reward.
- Fragments of a fixed number of steps are played, as in CleanRL, not whole episodes; nothing is saved or resumed.
- All prompts share the same actions, and each is read after a copy of its prompt's keys and values; the recipe reads
  all of them in one forward pass.
- The value loss is neither clipped nor scaled by the variance of the returns, and trains the language model, too.
- One level with one goal, without memory, on a CPU. Since the goal never changes, nothing shows that it is understood.

    python examples/ppo_in_one_file.py                  # any field of Config is an option, such as --seed 1

TODO
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import NamedTuple

import gymnasium
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from envs.language import LanguageEnv
from llm_agents.evaluation.statistics import Estimate, success_rate
from llm_agents.rollouts.panels import Panel, make_panel


@dataclass
class Config:
    seed: int = 0
    """Decides the weights, the training episodes and every draw."""
    level: str = "BabyAI-GoToRedBallNoDists-v0"
    """The level of BabyAI: here a room of six by six cells with a red ball in it."""
    horizon: int = 16
    """Steps after which an episode is cut off: few, so that walking about at random seldom succeeds."""
    hidden_size: int = 64
    """Width of the language model."""
    num_layers: int = 2
    """Depth of the language model."""
    num_heads: int = 2
    """Attention heads in each of its layers."""
    num_pretraining_steps: int = 60
    """Optimizer steps before PPO, in which the model learns that an action text follows a prompt, but not which."""
    num_iterations: int = 20
    """How often the agent plays and then learns from what it played."""
    num_envs: int = 64
    """Environments that are played side by side."""
    num_steps: int = 16
    """Steps that are played in each of them in an iteration."""
    num_epochs: int = 4
    """How often an iteration learns from each of its steps."""
    batch_size: int = 256
    """Steps of the environments in one step of the optimizer."""
    learning_rate: float = 1e-3
    """Of Adam in the first iteration; it falls on a straight line to zero."""
    max_grad_norm: float = 0.5
    """Longer gradients are shortened to this norm."""
    discount: float = 0.95
    """What a reward is worth one step earlier."""
    gae_lambda: float = 0.95
    """Advantages rest on the rewards that followed (1), on the value of the next state (0), or on something between."""
    clip_range: float = 0.2
    """Probability ratios beyond 1 +- this are not rewarded."""
    value_weight: float = 0.5
    """Weight of the value loss beside the policy loss."""
    entropy_weight: float = 0.01
    """Weight of the entropy bonus, without which the policy may settle before it has tried enough."""
    panel_size: int = 300
    """Episodes in the evaluation panel."""


# --- The words: what the agent reads, and its vocabulary ---


def prompt_text(observation: dict[str, str]) -> str:
    """Write what the agent reads. "You see a" stands before everything it sees: that is left out to save time."""
    return f"{observation['text'].replace('You see a ', '')} . {observation['goal']} :"


def random_texts(envs: Sequence[LanguageEnv], seeds: Iterator[int]) -> list[str]:
    """Walk about at random and return the prompts met."""
    texts = []
    for env in [*envs] * 8:
        texts.append(prompt_text(env.reset(seed=next(seeds))[0]))
        texts += [prompt_text(env.step(int(torch.randint(3, ())))[0]) for _ in range(4)]
    return texts


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a token of every word, number and punctuation mark."""
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special)


# --- The policy: a language model that scores action texts, and a value head ---


class Policy(nn.Module):
    """A tiny Llama whose distribution over action texts is the policy."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, action_texts: Sequence[str], config: Config) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        lm_config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=256,
            initializer_range=config.hidden_size**-0.5,  # the usual 0.02 is for wide models
            rope_parameters={"rope_type": "default", "rope_theta": 50.0},  # and 10,000 for long texts
        )
        self.lm = LlamaForCausalLM(lm_config)
        self.value_head = nn.Linear(config.hidden_size, 1)
        padded = tokenizer(list(action_texts), padding=True, padding_side="right", return_tensors="pt")
        self.action_ids, self.action_mask = padded["input_ids"], padded["attention_mask"]  # (A, K)

    def encode(self, observation: dict[str, str]) -> list[int]:
        """Return the token ids of the prompt for an observation."""
        return self.tokenizer(prompt_text(observation))["input_ids"]

    def forward(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Score each action text after each prompt, (B, A), and value each prompt, (B,).

        ``score(a | prompt) = sum_k log p(w_k | prompt, w_1 ... w_{k-1})`` for an action of tokens ``w_1 ... w_K``.
        """
        padded = self.tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
        mask, cache = padded["attention_mask"], DynamicCache(config=self.lm.config)
        last = self._read(padded["input_ids"], mask, cache)[:, -1]  # what follows it is w_1
        # Each action but its last token is read after a copy of its prompt's keys and values: B * A rows.
        num_actions, length = self.action_ids.shape
        cache.batch_repeat_interleave(num_actions)
        actions = self.action_ids.repeat(len(prompts), 1)
        mask = torch.cat([mask.repeat_interleave(num_actions, 0), torch.ones_like(actions[:, 1:])], 1)
        inner = self._read(actions[:, :-1], mask, cache)
        hidden = torch.cat([last.repeat_interleave(num_actions, 0)[:, None], inner], 1)
        log_probs = self.lm.lm_head(hidden).log_softmax(-1).gather(2, actions[:, :, None])
        scores = (log_probs.view(len(prompts), num_actions, length) * self.action_mask).sum(2)
        return scores, self.value_head(last)[:, 0]

    def _read(self, token_ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Return the hidden states of tokens; the mask covers those in the cache, too."""
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -token_ids.shape[1] :]
        read = self.lm.model(token_ids, attention_mask=mask, position_ids=positions, past_key_values=cache)
        return read.last_hidden_state


def pretrain(policy: Policy, optimizer: torch.optim.Optimizer, prompts: Sequence[list[int]], num_steps: int) -> None:
    """Teach by maximum likelihood that each of the action texts is equally likely to follow a prompt."""
    for _ in range(num_steps):
        scores, _ = policy([prompts[i] for i in torch.randint(len(prompts), (64,))])
        optimizer.zero_grad()
        (-scores.mean()).backward()
        optimizer.step()


# --- PPO, part 1: play ---


class Rollout(NamedTuple):
    """T steps in N environments: the T * N prompts in the order played, and (T, N) of everything else."""

    prompts: list[list[int]]
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    next_values: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor


class Player:
    """Environments in the middle of their episodes, and how those that ended did."""

    def __init__(self, envs: Sequence[LanguageEnv], policy: Policy, seeds: Iterator[int]) -> None:
        self.envs, self.policy, self.seeds = envs, policy, seeds
        self.prompts = [self._reset(env) for env in envs]
        self.successes: list[bool] = []

    def _reset(self, env: LanguageEnv) -> list[int]:
        return self.policy.encode(env.reset(seed=next(self.seeds))[0])

    @torch.no_grad()
    def play(self, num_steps: int) -> Rollout:
        """Play on for some steps; an environment whose episode ends starts another at once."""
        prompts: list[list[int]] = []
        steps: list[tuple[Tensor, ...]] = []
        cut_off: dict[tuple[int, int], list[int]] = {}  # the last prompts of truncated episodes
        for step in range(num_steps):
            prompts += self.prompts
            scores, values = self.policy(self.prompts)
            log_probs = scores.log_softmax(1)
            actions = torch.multinomial(log_probs.exp(), 1)
            outcomes = []
            for lane, (env, action) in enumerate(zip(self.envs, actions[:, 0].tolist(), strict=True)):
                observation, reward, terminated, truncated, info = env.step(action)
                outcomes.append((reward, terminated, truncated))
                self.prompts[lane] = self.policy.encode(observation)
                if truncated:
                    cut_off[step, lane] = self.prompts[lane]
                if terminated or truncated:
                    self.successes.append(info["is_success"])
                    self.prompts[lane] = self._reset(env)
            steps.append((actions[:, 0], log_probs.gather(1, actions)[:, 0], values, *torch.tensor(outcomes).T))
        actions, log_probs, values, rewards, terminated, truncated = map(torch.stack, zip(*steps, strict=True))
        # The next state is that of the next step, but not where an episode was cut off and another one has begun.
        next_values = torch.cat([values[1:], self.policy(self.prompts)[1][None]])
        if cut_off:
            next_values[tuple(zip(*cut_off, strict=True))] = self.policy(list(cut_off.values()))[1]
        return Rollout(prompts, actions, log_probs, values, next_values, rewards, terminated > 0, truncated > 0)


# --- PPO, part 2: credit ---


def gae(rollout: Rollout, discount: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Compute the advantages and the returns, by generalized advantage estimation (Schulman et al., 2016).

    ``delta_t = r_t + discount * V(s_{t+1}) - V(s_t)``, ``A_t = delta_t + discount * gae_lambda * A_{t+1}``; nothing
    follows a terminated episode, and a truncated one would have gone on with the value of its last state.
    """
    going_on = ~(rollout.terminated | rollout.truncated)
    deltas = rollout.rewards + discount * rollout.next_values * ~rollout.terminated - rollout.values
    advantages = torch.zeros_like(deltas)
    following = torch.zeros_like(deltas[0])
    for step in reversed(range(len(deltas))):
        following = advantages[step] = deltas[step] + discount * gae_lambda * going_on[step] * following
    return advantages, advantages + rollout.values


# --- PPO, part 3: learn ---


def policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Compute ``-mean(min(r A, clip(r, 1 - clip_range, 1 + clip_range) A))``, ``r`` the new probability by the old."""
    ratio = (log_probs - old_log_probs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages).mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Compute half the mean squared error."""
    return 0.5 * (values - returns).square().mean()


def entropy(log_probs: Tensor) -> Tensor:
    """Compute the mean entropy of distributions (B, A), in nats."""
    return -(log_probs.exp() * log_probs).sum(1).mean()


def learn(policy: Policy, optimizer: torch.optim.Optimizer, rollout: Rollout, config: Config) -> dict[str, float]:
    """Go through a rollout some times in random order, and return metrics."""
    advantages, returns = gae(rollout, config.discount, config.gae_lambda)
    explained = 1 - (returns - rollout.values).var() / returns.var()
    advantages = ((advantages - advantages.mean()) / (advantages.std() + 1e-8)).flatten()
    returns, actions, old_log_probs = returns.flatten(), rollout.actions.flatten(), rollout.log_probs.flatten()
    rows = []
    for _ in range(config.num_epochs):
        for index in torch.randperm(len(actions)).split(config.batch_size):
            scores, values = policy([rollout.prompts[i] for i in index])
            all_log_probs = scores.log_softmax(1)
            log_probs = all_log_probs.gather(1, actions[index, None])[:, 0]
            of_policy = policy_loss(log_probs, old_log_probs[index], advantages[index], config.clip_range)
            of_value, bonus = value_loss(values, returns[index]), entropy(all_log_probs)
            optimizer.zero_grad()
            (of_policy + config.value_weight * of_value - config.entropy_weight * bonus).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            change = (log_probs - old_log_probs[index]).detach()
            clipped = ((change.exp() - 1).abs() > config.clip_range).float()
            rows.append(torch.stack([bonus.detach(), (change.exp() - 1 - change).mean(), clipped.mean()]))
    names = ("policy/entropy", "policy/kl", "policy/clip_fraction")
    means = torch.stack(rows).mean(0).tolist()
    return dict(zip(names, means, strict=True)) | {"value/explained_variance": explained.item()}


# --- The judgement, and all of it together ---

Choose = Callable[[list[LanguageEnv], list[list[int]]], Sequence[int]]


@torch.no_grad()
def evaluate(choose: Choose, envs: Sequence[LanguageEnv], policy: Policy, panel: Panel) -> Estimate:
    """Play each episode of the panel once; the rate of success with its 95 % Wilson interval."""
    successes = 0
    for start in range(0, len(panel), len(envs)):
        prompts = {}  # of each environment whose episode goes on
        for env, spec in zip(envs, panel.specs[start:], strict=False):
            options = {"goal": spec.goal_id, "split": spec.split, "instruction": spec.instruction}
            prompts[env] = policy.encode(env.reset(seed=spec.seed, options=options)[0])
        while prompts:
            running = list(prompts)
            for env, action in zip(running, choose(running, list(prompts.values())), strict=True):
                observation, _, terminated, truncated, info = env.step(action)
                prompts[env] = policy.encode(observation)
                if terminated or truncated:
                    successes += info["is_success"]
                    del prompts[env]
    return success_rate(successes, len(panel))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train an agent and print how it does before and after, beside chance and the scripted expert."""
    parser = argparse.ArgumentParser(description="PPO for a small language model, in one file.")
    for field in fields(Config):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    config = Config(**vars(parser.parse_args(arguments)))
    began = time.perf_counter()
    torch.manual_seed(config.seed)
    make = {"id": "envs:BabyAIText-v0", "level": config.level, "horizon": config.horizon}
    envs = [gymnasium.make(**make).unwrapped for _ in range(config.num_envs)]
    task, seeds = envs[0].task, count(config.seed * 10_000)  # those of panels begin at 1,000,000
    panel = make_panel(task, "train", config.panel_size)
    texts, action_texts = random_texts(envs, seeds), task.action_texts(envs[0].state)
    policy = Policy(train_tokenizer([*texts, *action_texts]), action_texts, config)
    optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
    pretrain(policy, optimizer, policy.tokenizer(texts)["input_ids"], config.num_pretraining_steps)

    def show(name: str, choose: Choose) -> None:
        print(f"{name:12} {evaluate(choose, envs, policy, panel)}  panel {panel.hash}", flush=True)

    def sample(_: list[LanguageEnv], prompts: list[list[int]]) -> list[int]:
        return torch.multinomial(policy(prompts)[0].softmax(1), 1)[:, 0].tolist()

    show("random", lambda _, prompts: torch.randint(len(action_texts), (len(prompts),)).tolist())
    expert = task.expert()
    show("expert", lambda running, _: expert.act(running))
    show("before PPO", sample)
    player = Player(envs, policy, seeds)
    for iteration in range(config.num_iterations):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - iteration / config.num_iterations)
        player.successes.clear()
        metrics = learn(policy, optimizer, player.play(config.num_steps), config)
        metrics = {"rollout/success": sum(player.successes) / max(1, len(player.successes))} | metrics
        shown = "  ".join(f"{name} {number:.3f}" for name, number in metrics.items())
        print(f"{iteration + 1:3} of {config.num_iterations}  {shown}", flush=True)
    show("after PPO", sample)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

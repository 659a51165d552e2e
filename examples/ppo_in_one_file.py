"""Train a small language model by PPO to choose among action texts, in one file to be read from top to bottom.

The agent is in a room of BabyAI and shall go to the red ball. It reads, for example, "wall 2 steps left, red ball 1
step right and 3 steps forward . go to the red ball :" and takes one of six actions, each as likely as the model finds
its text, such as "turn left", to come next (GLAM: Carta et al., ICML 2023). The reward is 1 on arrival. PPO (Schulman
et al., 2017) makes an action likelier if it led to more reward than was expected.

All of PPO stands here. To be short, the file leaves out what the library's recipe (llm_agents/recipes/ppo.py) does:
- The model has random weights and imitates no expert. It is only taught at first that all six texts are equally likely.
- It plays fragments of a fixed length, not whole episodes; nothing is saved, and there is no memory and no GPU.
- The actions are always the same, and each is read behind a copy of its prompt's keys and values, not all as one tree.
- The value loss is neither clipped nor divided by the variance of the returns, and always trains the language model.
- The level has one goal in one wording, so success does not show that the model understands what it is told.

    OMP_NUM_THREADS=1 python examples/ppo_in_one_file.py     # each field of Config is an option, such as --seed 1

It takes 90 s of CPU time on a core of an AMD EPYC, 101 s by the clock on a busy machine, and prints (shortened):

    random 0.100 [0.071, 0.139] on panel c19dd72e3a88        success with its 95 % Wilson interval
    expert 1.000 [0.987, 1.000] on panel c19dd72e3a88
     1 rollout/success 0.047 ... policy/entropy 1.782 policy/kl 0.008 ... value/explained_variance 0.039
    10 rollout/success 0.699 ... policy/entropy 1.148 policy/kl 0.035 ... value/explained_variance 0.277
    20 rollout/success 0.994 ... policy/entropy 0.233 policy/kl 0.005 ... value/explained_variance 0.613
    PPO    0.993 [0.976, 0.998] on panel c19dd72e3a88        0.977 and 0.980 with seeds 1 and 2
"""

import argparse
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count

import gymnasium
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llm_agents.evaluation.statistics import success_rate
from llm_agents.models.tokenizer import train_tokenizer
from llm_agents.rollouts.panels import Panel, make_panel


@dataclass
class Config:
    """Set the hyperparameters."""

    seed: int = 0  # Decides the weights, the training episodes and every draw.
    level: str = "BabyAI-GoToRedBallNoDists-v0"  # The level of BabyAI: a red ball in a room of six by six cells.
    horizon: int = 16  # Steps after which an episode is truncated: few, so that chance seldom succeeds.
    hidden_size: int = 64  # Width of the language model.
    num_layers: int = 2  # Its depth.
    num_heads: int = 2  # Attention heads in each layer.
    num_pretraining_steps: int = 60  # Optimizer steps before PPO that make all action texts equally likely.
    num_iterations: int = 20  # How often the agent plays, and then learns from what it played.
    num_envs: int = 64  # Environments played side by side.
    num_steps: int = 16  # Steps in each of them in an iteration.
    num_epochs: int = 4  # How often an iteration goes through its steps.
    batch_size: int = 128  # Steps of environments in one step of the optimizer.
    learning_rate: float = 1e-3  # Of Adam at first; in PPO it falls on a straight line to zero.
    max_grad_norm: float = 0.5  # Gradients longer than this are shortened to it.
    discount: float = 0.95  # What a reward is worth one step earlier.
    gae_lambda: float = 0.95  # Advantages rely on rewards that followed (1) or on the next state's value (0).
    clip_range: float = 0.2  # Probability ratios beyond 1 +- this are not rewarded.
    value_weight: float = 0.5  # Weight of the value loss beside the policy loss.
    entropy_weight: float = 0.01  # Weight of the entropy bonus, which keeps the agent from settling too soon.
    panel_size: int = 300  # Episodes of the evaluation panel.


def prompt_text(observation: dict[str, str]) -> str:
    """Write what the agent reads; "You see a" before each thing would only cost time."""
    return f"{observation['text'].replace('You see a ', '')} . {observation['goal']} :"


class Policy(nn.Module):
    """Choose among actions, each as likely as a tiny Llama finds its text after a prompt, and value the prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, action_texts: Sequence[str], config: Config) -> None:
        super().__init__()
        lm_config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            initializer_range=config.hidden_size**-0.5,  # the usual 0.02 is for wide models
        )
        self.tokenizer, self.lm = tokenizer, LlamaForCausalLM(lm_config)
        self.value_head = nn.Linear(config.hidden_size, 1)
        padded = tokenizer(list(action_texts), padding=True, padding_side="right", return_tensors="pt")
        self.action_ids, self.action_mask = padded["input_ids"], padded["attention_mask"]  # (A, K)

    def forward(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Score each action after each prompt, (B, A), and value each prompt, (B,). The policy is softmax(scores).

        ``score(a | prompt) = sum_k log p(w_k | prompt, w_1 ... w_{k-1})`` for an action of tokens ``w_1 ... w_K``.
        """
        # Padding on the left shifts a whole row, which rotary position embeddings do not notice.
        padded = self.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        mask, cache = padded["attention_mask"], DynamicCache(config=self.lm.config)
        last = self.lm.model(**padded, past_key_values=cache).last_hidden_state[:, -1]  # predicts w_1
        # Behind a copy of its prompt's keys and values, each action is read but for its last token: B * A rows.
        num_actions, length = self.action_ids.shape
        cache.batch_repeat_interleave(num_actions)
        actions = self.action_ids.repeat(len(prompts), 1)
        mask = torch.cat([mask.repeat_interleave(num_actions, 0), torch.ones_like(actions[:, 1:])], 1)
        inner = self.lm.model(actions[:, :-1], attention_mask=mask, past_key_values=cache).last_hidden_state
        hidden = torch.cat([last.repeat_interleave(num_actions, 0)[:, None], inner], 1)
        log_probs = self.lm.lm_head(hidden).log_softmax(-1).gather(2, actions[:, :, None])
        scores = (log_probs.view(len(prompts), num_actions, length) * self.action_mask).sum(2)
        return scores, self.value_head(last)[:, 0]


# PPO, part 1: play. T steps in N environments give T * N prompts in the order met, and (T, N) of all the rest.
Rollout = namedtuple("Rollout", "prompts actions log_probs values next_values rewards terminated truncated")


@torch.no_grad()
def play(policy: Policy, envs: list[gymnasium.Env], prompts: list[str], seeds: Iterator[int], num_steps: int) -> tuple:
    """Play on from the prompts, which are kept up to date; return what was played, and the success rate."""
    met, steps, successes = [], [], []
    for _ in range(num_steps):
        met += prompts
        scores, values = policy(prompts)
        distribution = Categorical(logits=scores)
        actions = distribution.sample()
        outcomes = [env.step(action) for env, action in zip(envs, actions.tolist(), strict=True)]
        observations, rewards, terminated, truncated, infos = zip(*outcomes, strict=True)
        prompts[:] = map(prompt_text, observations)
        next_values = policy(prompts)[1]  # before new episodes begin
        ends = map(torch.tensor, (rewards, terminated, truncated))
        steps.append((actions, distribution.log_prob(actions), values, next_values, *ends))
        for i, env in enumerate(envs):
            if terminated[i] or truncated[i]:
                successes.append(infos[i]["is_success"])
                prompts[i] = prompt_text(env.reset(seed=next(seeds))[0])
    return Rollout(met, *map(torch.stack, zip(*steps, strict=True))), sum(successes) / max(1, len(successes))


# PPO, part 2: credit.
def gae(rollout: Rollout, discount: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Compute advantages and returns, (T, N), by generalized advantage estimation (Schulman et al., 2016).

    ``delta_t = r_t + discount * V(s_{t+1}) - V(s_t)`` and ``A_t = delta_t + discount * gae_lambda * A_{t+1}``. Nothing
    follows a terminated episode; a truncated one would have gone on, so the value of its last state counts.
    """
    deltas = rollout.rewards + discount * rollout.next_values * ~rollout.terminated - rollout.values
    goes_on = ~(rollout.terminated | rollout.truncated)
    advantages, following = torch.zeros_like(deltas), torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = advantages[t] = deltas[t] + discount * gae_lambda * goes_on[t] * following
    return advantages, advantages + rollout.values


# PPO, part 3: the loss.
def losses(policy: Policy, prompts: list[str], batch: list[Tensor], clip_range: float) -> dict[str, Tensor]:
    """Compute the parts of the loss on some steps, and how far the policy has moved from the one that played them.

    The policy loss is ``-mean(min(r A, clip(r, 1 - clip_range, 1 + clip_range) A))`` with advantages ``A`` and the
    ratio ``r`` of an action's probability to what it was when the action was drawn.
    """
    actions, old_log_probs, advantages, returns = batch
    scores, values = policy(prompts)
    distribution = Categorical(logits=scores)
    ratio = (distribution.log_prob(actions) - old_log_probs).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)
    return {
        "loss/policy": -surrogate.mean(),
        "loss/value": 0.5 * (values - returns).square().mean(),
        "policy/entropy": distribution.entropy().mean(),
        "policy/kl": (ratio - 1 - ratio.log()).mean(),
        "policy/clip_fraction": (surrogate < ratio * advantages).float().mean(),
    }


# PPO, part 4: the update.
def update(policy: Policy, optimizer: torch.optim.Optimizer, rollout: Rollout, config: Config) -> dict[str, Tensor]:
    """Go through the rollout ``num_epochs`` times in random order; return the metrics of the last batch."""
    advantages, returns = gae(rollout, config.discount, config.gae_lambda)
    whitened = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    columns = [column.flatten() for column in (rollout.actions, rollout.log_probs, whitened, returns)]
    for _ in range(config.num_epochs):
        for index in torch.randperm(len(rollout.prompts)).split(config.batch_size):
            batch = [column[index] for column in columns]
            parts = losses(policy, [rollout.prompts[i] for i in index], batch, config.clip_range)
            loss = parts["loss/policy"] + config.value_weight * parts["loss/value"]
            optimizer.zero_grad()
            (loss - config.entropy_weight * parts["policy/entropy"]).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
    return parts | {"value/explained_variance": 1 - (returns - rollout.values).var() / returns.var()}


@torch.no_grad()
def evaluate(name: str, choose: Callable, envs: list[gymnasium.Env], panel: Panel) -> None:
    """Play each episode of the panel once, and print the success rate with its 95 % Wilson interval."""
    successes = 0
    for start in range(0, len(panel), len(envs)):
        prompts = {}  # of the environments whose episodes go on
        for env, spec in zip(envs, panel.specs[start:], strict=False):
            options = {"goal": spec.goal_id, "split": spec.split, "instruction": spec.instruction}
            prompts[env] = prompt_text(env.reset(seed=spec.seed, options=options)[0])
        while prompts:
            for env, action in zip(list(prompts), choose(prompts), strict=True):
                observation, _, terminated, truncated, info = env.step(action)
                prompts[env] = prompt_text(observation)
                if terminated or truncated:
                    successes += info["is_success"]
                    del prompts[env]
    print(f"{name:7}{success_rate(successes, len(panel))} on panel {panel.hash}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the agent, and print how often it succeeds, beside chance and the scripted expert."""
    parser = argparse.ArgumentParser()
    for field in fields(Config):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
    config = Config(**vars(parser.parse_args(arguments)))
    torch.manual_seed(config.seed)
    make = {"id": "envs:BabyAIText-v0", "level": config.level, "horizon": config.horizon}
    envs = [gymnasium.make(**make).unwrapped for _ in range(config.num_envs)]
    task, seeds = envs[0].task, count(config.seed * 10_000)  # panels are seeded from 1,000,000 upwards
    panel, expert = make_panel(task, "train", config.panel_size), task.expert()
    texts = [prompt_text(env.reset(seed=next(seeds))[0]) for env in envs * 8]
    action_texts = task.action_texts(envs[0].state)
    policy = Policy(train_tokenizer([*texts, *action_texts], vocab_size=512), action_texts, config)
    optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
    # Pretraining by maximum likelihood: an action text follows a prompt, and all of them are equally likely.
    for _ in range(config.num_pretraining_steps):
        scores, _ = policy([texts[i] for i in torch.randint(len(texts), (64,))])
        optimizer.zero_grad()
        (-scores.mean()).backward()
        optimizer.step()
    evaluate("random", lambda prompts: torch.randint(len(action_texts), (len(prompts),)).tolist(), envs, panel)
    evaluate("expert", lambda prompts: expert.act([*prompts]), envs, panel)
    prompts = [prompt_text(env.reset(seed=next(seeds))[0]) for env in envs]
    for iteration in range(config.num_iterations):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - iteration / config.num_iterations)
        rollout, success = play(policy, envs, prompts, seeds, config.num_steps)
        metrics = {"rollout/success": success} | update(policy, optimizer, rollout, config)
        print(f"{iteration + 1:2}", *(f"{name} {number:.3f}" for name, number in metrics.items()), flush=True)
    evaluate("PPO", lambda prompts: Categorical(logits=policy([*prompts.values()])[0]).sample().tolist(), envs, panel)
    print(f"{time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()

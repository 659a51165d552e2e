"""Training an LLM agent on reward, end to end: acting and learning, against the obvious plain loop.

Both sides play BabyAI-GoToLocal with the same small model and prompts and take two epochs over what they played. The
plain loop plays one environment, tokenizes the prompt anew, scores each action in its own forward or calls `generate`,
and learns decision by decision. It has no value head. Rewards are random: an untrained agent has none.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Comparison
from llm_agents.agents.prompts import PromptRenderer
from llm_agents.models.action_scorer import ActionScorer, ScorerSettings, action_ids
from llm_agents.models.language_model import LanguageModel
from llm_agents.recipes.base import LLMAgentConfig, WarmStartStages
from llm_agents.recipes.grpo import GRPOConfig, GRPOLearner
from llm_agents.recipes.ppo import PPOConfig, PPOLearner
from llm_agents.rollouts.observation import AgentObservation, PastStep
from llm_agents.runtime.run import Run
from llm_agents.training.online import Learner, OnlineSettings, draw_rollouts, play, update

COMMON = {
    "options": {"level": "BabyAI-GoToLocal-v0"},
    "language_model": {"text_input": "words", "hidden_size": 64, "max_length": 512, "device": "cpu"},
    "prompts": {"num_past_actions": 2},
}
ROUND = {"num_groups": 32, "num_envs": 32}
NUM_DECISIONS = 8  # of the plain loop, between two updates
NUM_EPOCHS = 2
MAX_NEW_TOKENS = 4


def comparisons() -> Iterator[Comparison]:
    """Compare an agent that scores action texts, and one that writes them."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _comparisons(Path(folder) / "run")


def _comparisons(folder: Path) -> Iterator[Comparison]:
    ppo = PPOConfig.model_validate({**COMMON, "scorer": {"normalisation": "sum"}, "ppo": ROUND})
    warm_start_stages = WarmStartStages(ppo, Run.create(folder, "benchmark", {}))
    torch.manual_seed(0)
    learner = PPOLearner(
        ActionScorer(warm_start_stages.new_model(), ScorerSettings(normalisation="sum")), ppo, warm_start_stages.task
    )
    ours = _training(learner, ppo.ppo, warm_start_stages)
    theirs = PlainLoop(warm_start_stages, ppo).score
    yield Comparison("PPO over action texts", "decisions", "a loop with one forward an action", ours, theirs)

    text = {"text_agent": {"max_new_tokens": MAX_NEW_TOKENS}, "grpo": {**ROUND, "num_groups": 4, "group_size": 8}}
    grpo = GRPOConfig.model_validate({**COMMON, **text})
    ours = _training(GRPOLearner(warm_start_stages.new_model(), grpo), grpo.grpo, warm_start_stages)
    theirs = PlainLoop(warm_start_stages, grpo).write
    yield Comparison("GRPO of free text", "decisions", "a loop with generate()", ours, theirs)


def _training(learner: Learner, settings: OnlineSettings, warm_start_stages: WarmStartStages) -> Callable[[], float]:
    """Return a function that runs one iteration as `train_online` does."""
    parameters = list(learner.module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
    numbers = count()

    def iterate() -> float:
        number = next(numbers)
        rollouts = draw_rollouts(warm_start_stages.task, settings, 0, number)
        episodes = play(learner.agent, warm_start_stages.make_env, rollouts, settings.num_envs)
        rng = np.random.default_rng(number)
        rewarded = [dataclasses.replace(e, rewards=rng.random(len(e)).astype(np.float32)) for e in episodes]
        update(learner.losses(rewarded, rollouts.groups, number), parameters, optimizer, settings, 0, number)
        return float(sum(map(len, episodes)))

    return iterate


class PlainLoop:
    """A few decisions in one environment, then an update from them."""

    def __init__(self, warm_start_stages: WarmStartStages, config: LLMAgentConfig) -> None:
        torch.manual_seed(0)
        self._lm: LanguageModel = warm_start_stages.new_model()
        self._tokenizer = self._lm.tokenizer
        self._renderer = PromptRenderer(self._lm, config.prompts)
        self._optimizer = torch.optim.AdamW(self._lm.parameters(), lr=1e-4)
        self._env, self._seeds = warm_start_stages.make_env(), count()
        self._observation = self._reset()

    def score(self) -> float:
        """Score each admissible action by itself, and learn by the clipped loss of PPO."""
        played = []
        for _ in range(NUM_DECISIONS):
            prompt, actions = self._prompt()
            with torch.inference_mode():
                log_probs = self._score(prompt, actions).log_softmax(0)
            choice = int(torch.multinomial(log_probs.exp(), 1))
            played.append((prompt, actions, choice, log_probs[choice].item(), self._step(actions[choice])))

        def loss(prompt: str, actions: tuple[str, ...], choice: int, old: float, reward: float) -> Tensor:
            return _clipped(self._score(prompt, actions).log_softmax(0)[choice] - old, reward)

        return self._learn([lambda p=p: loss(*p) for p in played])

    def write(self) -> float:
        """Write each answer by `generate`, and learn by the clipped loss of GRPO."""
        played = []
        for _ in range(NUM_DECISIONS):
            prompt, actions = self._prompt()
            token_ids = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                written = self._lm.model.generate(
                    token_ids, attention_mask=torch.ones_like(token_ids), do_sample=True, max_new_tokens=MAX_NEW_TOKENS
                )
                old = self._log_probs(written, token_ids.shape[1])
            answer = self._tokenizer.decode(written[0, token_ids.shape[1] :]).strip()
            action = answer if answer in actions else actions[0]
            played.append((written.clone(), token_ids.shape[1], old.clone(), self._step(action)))

        def loss(written: Tensor, begin: int, old: Tensor, reward: float) -> Tensor:
            return _clipped(self._log_probs(written, begin) - old, reward)

        return self._learn([lambda p=p: loss(*p) for p in played])

    def _prompt(self) -> tuple[str, tuple[str, ...]]:
        return "".join(self._renderer.lines(self._observation)), self._observation.actions

    def _score(self, prompt: str, actions: tuple[str, ...]) -> Tensor:
        begin = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        scores = []
        for action in actions:
            token_ids = torch.cat([begin, torch.tensor([action_ids(self._lm, action)])], 1)
            scores.append(self._log_probs(token_ids, begin.shape[1]).sum())
        return torch.stack(scores)

    def _log_probs(self, token_ids: Tensor, begin: int) -> Tensor:
        """Return the log-probabilities of the tokens from ``begin`` on."""
        log_probs = self._lm.model(input_ids=token_ids).logits[0, begin - 1 : -1].log_softmax(-1)
        return log_probs.gather(1, token_ids[0, begin:, None])[:, 0]

    def _step(self, text: str) -> float:
        before = self._observation
        observation, _, terminated, truncated, _ = self._env.step(self._env.task.parse_action(text))
        past = (*before.past, PastStep(before.text, before.actions, text))
        self._observation = self._observe(observation, past) if not (terminated or truncated) else self._reset()
        return float(np.random.default_rng(len(past)).random())

    def _reset(self) -> AgentObservation:
        observation, _ = self._env.reset(seed=next(self._seeds))
        return self._observe(observation, ())

    def _observe(self, observation: dict, past: tuple[PastStep, ...]) -> AgentObservation:
        actions = tuple(self._env.task.action_texts(observation["state"]))
        return AgentObservation(observation["goal"], observation["text"], actions, past)

    def _learn(self, losses: list[Callable[[], Tensor]]) -> float:
        for _ in range(NUM_EPOCHS):
            self._optimizer.zero_grad()
            for loss in losses:
                (loss() / len(losses)).backward()
            self._optimizer.step()
        return float(len(losses))


def _clipped(log_ratio: Tensor, advantage: float) -> Tensor:
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()

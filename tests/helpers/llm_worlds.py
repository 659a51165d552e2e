"""A small world in words and small models, for tests of LLM agents."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)

from envs.goals import Goal, GoalSet
from envs.language import InvalidAction, LanguageEnv, LanguageTask, start_of
from helpers.running_episodes import begin
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.models.pretrained import PretrainedLanguageModel
from llm_agents.models.tiny import TinySettings
from llm_agents.models.tokenizer import train_tokenizer
from llm_agents.rollouts.rollout import RunningEpisode
from llm_agents.rollouts.specs import EpisodeSpec

WIDTH = 5
ACTIONS = ("wait", "step left", "step right", "jump over to the right")
MOVES = (0, -1, 1, 2)
MODELS = ("tiny", "convolution", "llama", "qwen2", "gpt2")


class Corridor(gymnasium.Env):
    """A walk along five places."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, WIDTH - 1, (1,))
        self.action_space = spaces.Discrete(len(ACTIONS))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(WIDTH))
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place = int(np.clip(self.place + MOVES[action], 0, WIDTH - 1))
        return np.array([self.place], np.float32), 0.0, False, False, {}


class CorridorTask(LanguageTask):
    """Go to a place. At the left end one cannot step left, and in the last two places one cannot jump."""

    def __init__(self) -> None:
        self.goal_set = GoalSet(
            Goal(f"place/{place}", "place", "train", (f"go to place {place}", f"reach place {place}"))
            for place in range(WIDTH)
        )

    def describe(self, state: NDArray) -> str:
        return f"You are at place {int(state[0])}"

    def action_texts(self, state: NDArray) -> tuple[str, ...]:
        place = int(state[0])
        return tuple(
            text for text, move in zip(ACTIONS, MOVES, strict=True) if 0 <= place + move < WIDTH or text == "step right"
        )

    def parse_action(self, text: str) -> int:
        if text not in ACTIONS:
            raise InvalidAction(f"no action is called {text!r}")
        return ACTIONS.index(text)

    def achieved(self, goal: Goal, states: NDArray, start: NDArray | None = None) -> NDArray[np.bool_]:
        return np.asarray(states)[..., 0] == int(goal.id.rpartition("/")[2])

    def reward(self, goal, states, next_states, start=None):
        return self.achieved(goal, next_states, start_of(states, start)).astype(float)

    def horizon(self, goal: Goal) -> int:
        return 8


class WordlessTask(CorridorTask):
    """The same, with actions that have no words."""

    def action_texts(self, state: NDArray) -> None:
        return None


def make_env(task: type[LanguageTask] = CorridorTask) -> LanguageEnv:
    return LanguageEnv(Corridor(), task())


CASES = [EpisodeSpec(f"place/{n % WIDTH}", f"go to place {n % WIDTH}", seed=n, split="train") for n in range(12)]
CORPUS = [
    *(f"Goal of the agent: go to place {place}\n" for place in range(WIDTH)),
    *(f"Observation: You are at place {place}\n" for place in range(WIDTH)),
    *(f"Action: {action}\n" for action in ACTIONS),
    "Possible action of the agent: " + ", ".join(ACTIONS) + "\n",
] * 3


def start(spec: EpisodeSpec, task: type[LanguageTask] = CorridorTask) -> RunningEpisode:
    """An episode that has just begun."""
    env = make_env(task)
    env.reset(seed=spec.seed, options={"goal": spec.goal_id, "split": spec.split, "instruction": spec.instruction})
    return begin(env, spec.seed, spec)


def logits_alone(lm: LanguageModel, embeds: torch.Tensor) -> torch.Tensor:
    """Logits (N, L, V) of the Hugging Face model itself for input embeddings (N, L, H): no mask, positions or cache."""
    convolution = getattr(lm, "convolution", None)
    if convolution is not None:
        weight = convolution.weight
        kernel = torch.cat([torch.ones_like(weight[:1]), weight]).flip(0).T[:, None]
        padded = functional.pad(embeds.transpose(1, 2), (len(weight), 0))
        embeds = functional.conv1d(padded, kernel, groups=len(kernel)).transpose(1, 2)
    return lm.model(inputs_embeds=embeds, use_cache=False).logits


def make_lm(name: str = "tiny", max_length: int = 256, corpus: list[str] = CORPUS) -> LanguageModel:
    """A small model that reads its own tokens, with weights large enough for the context to matter."""
    set_seed(0)
    if name in ("tiny", "convolution"):
        sizes = {"hidden_size": 32, "num_layers": 2, "vocab_size": 400, "max_length": max_length}
        sizes["short_convolution"] = 3 if name == "convolution" else 1
        lm = load_language_model(TinySettings(text_input="words", **sizes), corpus=corpus)
        with torch.no_grad():
            for parameter in lm.parameters():
                parameter.mul_(10.0 if parameter.ndim > 1 else 1.0)
            if lm.convolution is not None:
                lm.convolution.weight.normal_()
        return lm.eval()
    tokenizer = train_tokenizer(corpus, 400)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "initializer_range": 0.3, "vocab_size": 400}
    shape["max_position_embeddings"] = max_length
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=max_length, initializer_range=0.3)
        ),
    }[name]()
    return PretrainedLanguageModel(model, tokenizer).eval()

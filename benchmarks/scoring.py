"""Action texts scored packed, all of a prompt in one forward: against one forward an action, and a prefix cache.

A prompt is GLAM's for BabyAI with two past steps. Both sides score 8 prompts at once, and to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Comparison
from envs.clevr_robot.task import ACTION_TEXTS as PUSHES
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.models.action_scorer import ActionScorer, ScorerSettings, action_ids
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.models.tiny import TinySettings
from llm_agents.rollouts.observation import AgentObservation, PastStep

BATCH_SIZE = 8
MOVES = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
SEEN = (
    "You see a wall {} steps forward, You see a red ball {} steps left, "
    "You see a grey key 1 step right and 2 steps forward"
)

Score = Callable[[], Tensor]


def comparisons() -> Iterator[Comparison]:
    """Six actions of BabyAI and forty of CLEVR-Robot, scored by the tiny model, read only and with gradients."""
    for actions in (MOVES, PUSHES):
        lm, prompts = _prepare(actions)
        packed, cached = (
            ActionScorer(lm, ScorerSettings(method=method, normalisation="sum", value_head=False)).eval()
            for method in ("packed", "cached")
        )
        ours = partial(_score, packed, prompts, actions)
        theirs = partial(score_one_by_one, lm, prompts, [action_ids(lm, action) for action in actions])
        through_cache = partial(_score, cached, prompts, actions)
        with torch.inference_mode():
            for other in (theirs, through_cache):
                if not torch.allclose(ours(), other(), rtol=1e-4, atol=1e-4):
                    raise AssertionError("the two sides do not give the same scores")
        name, naive = f"{len(actions)} actions scored", "one forward an action"
        yield Comparison(name, "prompts", naive, _read(ours), _read(theirs))
        yield Comparison(name, "prompts", "a prefix cache", _read(ours), _read(through_cache))
        yield Comparison(f"{name}, with gradients", "prompts", naive, _learn(lm, ours), _learn(lm, theirs))


def score_one_by_one(lm: LanguageModel, prompts: Sequence[list[int]], actions: Sequence[list[int]]) -> Tensor:
    """The same scores (B, A) by the model's own forward, one for each action of all prompts, as one writes it first."""
    scores = []
    for action in actions:
        token_ids, mask = lm.pad([prompt + action for prompt in prompts])
        log_probs = lm.model(input_ids=token_ids, attention_mask=mask.long()).logits[:, :-1].log_softmax(-1)
        log_probs = log_probs.gather(2, token_ids[:, 1:, None])[..., 0]
        begins = torch.tensor([[len(prompt) - 1] for prompt in prompts])
        place = torch.arange(log_probs.shape[1])
        of_action = (place >= begins) & (place < begins + len(action))
        scores.append(torch.where(of_action, log_probs, 0.0).sum(1))
    return torch.stack(scores, 1)


def _score(scorer: ActionScorer, prompts: Sequence[list[int]], actions: Sequence[str]) -> Tensor:
    return scorer(prompts, [actions] * len(prompts)).logits


def _prepare(actions: Sequence[str]) -> tuple[LanguageModel, list[list[int]]]:
    """The tiny model with a vocabulary in which these words are tokens, and eight prompts."""
    observations = [
        AgentObservation(
            f"go to the red ball {n}",
            SEEN.format(n, 3),
            tuple(actions),
            (PastStep(SEEN.format(2, n), action=actions[0]),) * 2,
        )
        for n in range(BATCH_SIZE)
    ]
    prompts = PromptSettings(num_past_actions=2, num_past_observations=2, list_actions=len(actions) < 10)
    torch.manual_seed(0)
    settings = TinySettings(text_input="words", vocab_size=1024)
    # The lines do not depend on the vocabulary, so a first model can say from which texts the second learns its own.
    lines = PromptRenderer(load_language_model(settings), prompts).lines
    lm = load_language_model(settings, corpus=[*(line for m in observations for line in lines(m)), *actions] * 2).eval()
    return lm, PromptRenderer(lm, prompts).prompts(observations, 16)


def _read(score: Score) -> Callable[[], float]:
    @torch.inference_mode()
    def read() -> float:
        return len(score())

    return read


def _learn(lm: LanguageModel, score: Score) -> Callable[[], float]:
    def learn() -> float:
        lm.zero_grad()
        scores = score()
        scores.log_softmax(-1)[:, 0].sum().backward()
        return len(scores)

    return learn

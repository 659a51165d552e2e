"""The warm start of an LLM agent: what a small model learns before any reward, from the expert's episodes.

A model that was never trained is taught to write what is seen, what follows an action and what the expert does, for
training goals only; and, before that, to recall what is seen (`llm_agents.training.associative_recall`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from envs.episodes import Episode
from envs.language import LanguageTask
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.models.action_scorer import action_ids
from llm_agents.models.language_model import LanguageModel
from llm_agents.rollouts.observation import ActionWords, AgentObservation, observations_of
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.streams import stream
from llm_agents.training.associative_recall import ask_for_goals, ask_for_parts, up_to_the_goal
from llm_agents.training.loop import Batch, OptimizerSettings

GOAL_FRACTION = 1 / 3  # of the steps of recall, the last ones, whose questions are the goals


LIKE_LENGTHS = 8  # batches that are drawn together, so that each can hold sequences of like length


REPLACED_WORDS = 0.15  # of a goal with noise


MOST_WORDS_AROUND = (6, 2)  # before it, and behind it


LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz,?!"))


class WarmStartSettings(OptimizerSettings):
    """Supervised learning from the expert, before any reward."""

    renamed: ClassVar[Mapping[str, str]] = {
        **OptimizerSettings.renamed,
        "num_recall_steps": "num_associative_recall_steps",
        "recall_share": "associative_recall_fraction",
    }

    num_demonstrations: int = Field(0, ge=0)
    """The expert's episodes for training goals; 0 for no warm start."""
    num_associative_recall_steps: int = Field(0, ge=0)
    """So many of the ``num_steps``, the first ones, ask for parts of what is seen instead of the expert's actions: two
    thirds for any part, then, where goals name what is seen, one third for what a goal names."""
    associative_recall_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of the steps after these, also among corrections, that ask for parts still. What is asked for no more is
    forgotten, such as how to find a thing that no training goal names."""
    goal_noise: float = Field(0.0, ge=0, le=1)
    """In this share of the expert's decisions, words that nobody knows stand in place of some of the goal's, and around
    it: so that an unknown word in a goal costs what it would have said, and no more."""
    text_weight: float = Field(0.1, ge=0)
    """Weight of a token that the environment wrote, what is seen and what follows an action, beside one of the
    expert's actions, or of an answer."""

    @model_validator(mode="after")
    def _asks_for_what_was_taught(self) -> WarmStartSettings:
        if self.associative_recall_fraction and not self.num_associative_recall_steps:
            raise ValueError(
                "associative_recall_fraction goes on with what num_associative_recall_steps begins: set both, or none"
            )
        return self

    @model_validator(mode="after")
    def _leaves_steps_for_actions(self) -> WarmStartSettings:
        if self.num_demonstrations and self.num_associative_recall_steps >= self.num_steps:
            raise ValueError(
                f"num_associative_recall_steps ({self.num_associative_recall_steps}) must be less than num_steps "
                f"({self.num_steps}), which counts them: nothing would be learnt of the expert's actions"
            )
        return self


class BehaviourCloningLoss(nn.Module):
    """Next-token prediction over prompts and the expert's actions."""

    def __init__(self, lm: LanguageModel, text_weight: float) -> None:
        super().__init__()
        self.lm = lm
        self._text_weight = text_weight

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """``-sum w log p(token | before) / sum w``, w 1 for tokens of actions and answers, else ``text_weight``."""
        token_ids, mask, chosen = batch["token_ids"], batch["mask"], batch["chosen"]
        hidden = self.lm.hidden_states(self.lm.embed_ids(token_ids), mask)
        row, column = (mask[:, 1:] if self._text_weight else chosen[:, 1:]).nonzero(as_tuple=True)
        logits = self.lm.logits(hidden[row, column]).float()
        losses = nn.functional.cross_entropy(logits, token_ids[row, column + 1], reduction="none")
        of_action = chosen[row, column + 1]
        weights = torch.where(of_action, 1.0, self._text_weight)
        metrics = {"loss/action_token": losses[of_action].mean().item()}
        if self._text_weight:
            metrics["loss/text_token"] = losses[~of_action].mean().item()
        return (weights * losses).sum() / weights.sum(), metrics


class WarmStartData:
    """What is learnt at each step of a warm start: first to recall, then to act.

    Raises:
        UserError: recall is asked for, and nothing that is seen has parts of which one could be asked for.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: PromptSettings,
        task: LanguageTask,
        episodes: Sequence[Episode],
        settings: WarmStartSettings,
        seed: int,
    ) -> None:
        prompt_renderer = PromptRenderer(lm, prompts)
        observations, actions = expert_decisions(task, episodes)

        def examples(
            stream_name: str, renderer: PromptRenderer, observations: Sequence[AgentObservation], answers: Sequence[str]
        ) -> SFTDataset:
            return SFTDataset(lm, renderer, observations, answers, settings.batch_size, seed, stream_name)

        noisy = with_noise(observations, settings.goal_noise, stream(seed, "warm_start/goal_noise"))
        self._decisions = examples("sft/decisions", prompt_renderer, noisy, actions)
        self._num_associative_recall_steps, self._associative_recall_fraction = (
            settings.num_associative_recall_steps,
            settings.associative_recall_fraction,
        )
        self._seed = seed
        if settings.num_associative_recall_steps:
            count = math.ceil(GOAL_FRACTION * settings.num_associative_recall_steps * settings.batch_size)
            of_parts, of_goals = ask_for_parts(lm, observations, count, seed), ask_for_goals(observations, count, seed)
            in_place = PromptRenderer(lm, up_to_the_goal(prompts))
            self._part_questions = [
                examples("sft/part_questions_in_place", in_place, *of_parts),
                examples("sft/part_questions", prompt_renderer, *of_parts),
            ]
            self._goal_questions = examples("sft/goal_questions", prompt_renderer, *of_goals)

    def batch(self, step: int) -> Batch:
        """Token ids (B, L), their mask, and which belong to an answer or an action."""
        if step >= self._num_associative_recall_steps:
            return self.later_batch(step)
        return self._question_source(step).batch(step)

    def later_batch(self, step: int) -> Batch:
        """As `batch`, of a step behind those that teach to recall."""
        asks = stream(self._seed, "warm_start/mix", step).random() < self._associative_recall_fraction
        at_the_end = -1  # of the prompt, as an action is
        return (self._part_questions[at_the_end] if asks else self._decisions).batch(step)

    def _question_source(self, step: int) -> SFTDataset:
        if step >= (1 - GOAL_FRACTION) * self._num_associative_recall_steps and len(self._goal_questions):
            return self._goal_questions
        return self._part_questions[step % 2]


class SFTDataset:
    """Prompts with what is to be said to them, as token sequences, in batches that are functions of the step."""

    def __init__(
        self,
        lm: LanguageModel,
        prompt_renderer: PromptRenderer,
        observations: Sequence[AgentObservation],
        answers: Sequence[str],
        batch_size: int,
        seed: int,
        stream_name: str,
    ) -> None:
        self._lm, self._batch_size, self._seed, self._stream = lm, batch_size, seed, stream_name
        end = lm.tokenizer.eos_token_id
        ids = {text: [*action_ids(lm, text), end] for text in dict.fromkeys(answers)}
        self._answers = [ids[text] for text in answers]
        self._prompts = prompt_renderer.prompts(observations, reserved_tokens=max(map(len, ids.values()), default=0))
        self._lengths = np.array([len(prompt) for prompt in self._prompts])

    def __len__(self) -> int:
        return len(self._prompts)

    def batch(self, step: int) -> Batch:
        """Examples of like length: token ids (B, L), their mask, and which belong to what is to be said."""
        block, place = divmod(step, LIKE_LENGTHS)
        rng = stream(self._seed, self._stream, block)
        drawn = rng.integers(len(self), size=LIKE_LENGTHS * self._batch_size)
        drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")].reshape(LIKE_LENGTHS, self._batch_size)
        index = drawn[rng.permutation(LIKE_LENGTHS)[place]]
        token_ids, mask = self._lm.pad([[*self._prompts[i], *self._answers[i]] for i in index])
        begins = torch.from_numpy(self._lengths[index])[:, None].to(mask.device)
        chosen = mask & (torch.arange(mask.shape[1], device=mask.device) >= begins)
        return {"token_ids": token_ids, "mask": mask, "chosen": chosen}


def expert_decisions(
    task: LanguageTask, episodes: Sequence[Episode], begin: Callable[[Episode], int] = lambda _: 0
) -> tuple[list[AgentObservation], list[str]]:
    """Return the observations of successful episodes, and what was done then, in words.

    Args:
        begin: the first step of an episode that counts.

    Raises:
        UserError: what was done has no words.
    """
    words = ActionWords(task)
    observations: list[AgentObservation] = []
    actions: list[str | None] = []
    for episode in (episode for episode in episodes if episode.success):
        first = begin(episode)
        seen = observations_of(task, episode, words)[first:-1]
        observations += seen
        actions += [words.name(o.actions, action) for o, action in zip(seen, episode.actions[first:], strict=True)]
    if None in actions:
        raise UserError(f"{type(task).__name__} has no words for what its expert did: it cannot be learnt as text")
    return observations, [action for action in actions if action is not None]


def with_noise(
    observations: Sequence[AgentObservation], fraction: float, rng: np.random.Generator
) -> list[AgentObservation]:
    """Put words that nobody knows into the goals of this fraction of the observations."""
    return [
        replace(observation, instruction=_add_noise(observation.instruction, rng))
        if rng.random() < fraction
        else observation
        for observation in observations
    ]


def _add_noise(goal: str, rng: np.random.Generator) -> str:
    words = [_unknown_word(rng) if rng.random() < REPLACED_WORDS else word for word in goal.split(" ")]
    before, after = ([_unknown_word(rng) for _ in range(rng.integers(most + 1))] for most in MOST_WORDS_AROUND)
    return " ".join([*before, *words, *after])


def _unknown_word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(LETTERS, size=rng.integers(2, 8)))

"""The warm start of an LLM agent: what a small model learns before any reward, from the expert's episodes.

A model that was never trained is taught to write what is seen, what follows an action and what the expert does, for
training goals only; and, before that, to recall: asked with the beginning of a part of what it sees, such as "You see a
red ball", it answers with the rest, "2 steps left". Whoever is to go to the red ball must look up just that, and a
narrow model learns it in some hundred steps when asked, but not in some thousand from the expert's actions, which say
so little about it (docs/lab_notes.md). It is the associative recall of Arora et al., "Zoology", ICLR 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from envs.episodes import Episode
from envs.language import LanguageTask
from llm_agents.agents import num_random_actions
from llm_agents.errors import UserError
from llm_agents.language_model import LanguageModel
from llm_agents.prompts import Moment, Narrator, Prompter, PromptSettings
from llm_agents.scoring import action_ids
from llm_agents.training import Batch, OptimizerSettings

LIKE_LENGTHS = 8  # batches that are drawn together, so that each can hold sequences of like length
REPLACED_WORDS = 0.15  # of a goal with noise
MOST_WORDS_AROUND = (6, 2)  # before it, and behind it
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz,?!"))
ENDS_OF_PARTS = re.compile(r"[,.;:\n]+\s*")


class WarmStartSettings(OptimizerSettings):
    """Supervised learning from the expert, before any reward."""

    num_demonstrations: int = Field(0, ge=0)
    """The expert's episodes for training goals; 0 for no warm start."""
    num_random_actions: int = Field(0, ge=0)
    """At most so many random actions come before the expert's in a demonstration, and are not learnt. An agent that
    errs sees what the expert's own doing never leads to, such as the wrong thing in its hands (Ross et al., "A
    reduction of imitation learning", AISTATS 2011)."""
    num_recall_steps: int = Field(0, ge=0)
    """So many of the ``num_steps``, the first ones, ask for parts of what is seen instead of the expert's actions."""
    goal_noise: float = Field(0.0, ge=0, le=1)
    """In this share of the expert's decisions, words that nobody knows stand in place of some of the goal's, and around
    it: so that an unknown word in a goal costs what it would have said, and no more."""
    text_weight: float = Field(0.1, ge=0)
    """Weight of a token that the environment wrote, what is seen and what follows an action, beside one of the
    expert's actions, or of an answer."""

    @model_validator(mode="after")
    def _leaves_steps_for_actions(self) -> WarmStartSettings:
        if self.num_demonstrations and self.num_recall_steps >= self.num_steps:
            raise ValueError(
                f"num_recall_steps ({self.num_recall_steps}) must be less than num_steps ({self.num_steps}), which "
                "counts them: nothing would be learnt of the expert's actions"
            )
        return self


class WarmStart(nn.Module):
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
        metrics = {"action_token": losses[of_action].mean().item()}
        if self._text_weight:
            metrics["text_token"] = losses[~of_action].mean().item()
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
        self._num_recall_steps = settings.num_recall_steps
        narrator, prompter = Narrator(prompts), Prompter(lm, prompts)
        moments: list[Moment] = []
        actions: list[str] = []
        for episode in (episode for episode in episodes if episode.success):
            first = num_random_actions(episode.seed, settings.num_random_actions)
            moments += narrator.of_episode(task, episode)[first:-1]
            steps = zip(episode.states[first:-1], episode.actions[first:], strict=True)
            actions += [narrator.action_in_words(task, state, action) for state, action in steps]
        noisy = with_noise(moments, settings.goal_noise, seed)
        self.decisions = Examples(lm, prompter, noisy, actions, settings.batch_size, seed)
        if settings.num_recall_steps:
            asked, answers = draw_questions(lm, moments, settings.num_recall_steps * settings.batch_size, seed)
            self._questions = Examples(lm, prompter, asked, answers, settings.batch_size, seed)

    def batch(self, step: int) -> Batch:
        """Token ids (B, L), their mask, and which belong to an answer or an action."""
        return (self._questions if step < self._num_recall_steps else self.decisions).batch(step)


class Examples:
    """Prompts with what is to be said to them, as token sequences, in batches that are functions of the step."""

    def __init__(
        self,
        lm: LanguageModel,
        prompter: Prompter,
        moments: Sequence[Moment],
        answers: Sequence[str],
        batch_size: int,
        seed: int,
    ) -> None:
        self._lm, self._batch_size, self._seed = lm, batch_size, seed
        end = lm.tokenizer.eos_token_id
        ids = {text: [*action_ids(lm, text), end] for text in dict.fromkeys(answers)}
        self._answers = [ids[text] for text in answers]
        self._prompts = prompter.prompts(moments, room=max(map(len, ids.values()), default=0))
        self._lengths = np.array([len(prompt) for prompt in self._prompts])

    def __len__(self) -> int:
        return len(self._prompts)

    def batch(self, step: int) -> Batch:
        """Examples of like length: token ids (B, L), their mask, and which belong to what is to be said."""
        block, place = divmod(step, LIKE_LENGTHS)
        rng = np.random.default_rng([self._seed, block])
        drawn = rng.integers(len(self), size=LIKE_LENGTHS * self._batch_size)
        drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")].reshape(LIKE_LENGTHS, self._batch_size)
        index = drawn[rng.permutation(LIKE_LENGTHS)[place]]
        token_ids, mask = self._lm.pad([[*self._prompts[i], *self._answers[i]] for i in index])
        begins = torch.from_numpy(self._lengths[index])[:, None].to(mask.device)
        chosen = mask & (torch.arange(mask.shape[1], device=mask.device) >= begins)
        return {"token_ids": token_ids, "mask": mask, "chosen": chosen}


def with_noise(moments: Sequence[Moment], share: float, seed: int) -> list[Moment]:
    """The moments, with words that nobody knows in the goals of this share of them; the same for the same seed."""
    rng = np.random.default_rng([seed, 10])
    return [
        replace(moment, goal=_add_noise(moment.goal, rng)) if rng.random() < share else moment for moment in moments
    ]


def _add_noise(goal: str, rng: np.random.Generator) -> str:
    words = [_unknown_word(rng) if rng.random() < REPLACED_WORDS else word for word in goal.split(" ")]
    before, after = ([_unknown_word(rng) for _ in range(rng.integers(most + 1))] for most in MOST_WORDS_AROUND)
    return " ".join([*before, *words, *after])


def _unknown_word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(LETTERS, size=rng.integers(2, 8)))


def draw_questions(
    lm: LanguageModel, moments: Sequence[Moment], count: int, seed: int
) -> tuple[list[Moment], list[str]]:
    """At most ``count`` moments whose goal is to say how a part of the observation goes on, and how each does.

    Raises:
        UserError: there is no moment of which that could be asked.
    """
    rng = np.random.default_rng([seed, 9])
    cuts: dict[str, int] = {}
    asked: list[Moment] = []
    answers: list[str] = []
    for index in rng.permutation(len(moments)):
        questions = list(_questions(lm, moments[index].observation, cuts))
        if questions:
            beginning, rest = questions[rng.integers(len(questions))]
            asked.append(replace(moments[index], goal=beginning))
            answers.append(rest)
        if len(asked) == count:
            break
    if not asked:
        raise UserError("no observation has parts to be asked for: set warm_start.num_recall_steps to 0")
    return asked, answers


def _questions(lm: LanguageModel, observation: str, cuts: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Beginnings that one part of the observation has and no other, each with how it goes on.

    Args:
        cuts: where a part is cut, to be remembered.
    """
    parts = [part for part in ENDS_OF_PARTS.split(observation) if part]
    for part in parts if len(parts) > 1 else ():
        if part not in cuts:
            cuts[part] = _last_cut(lm, part)
        beginning, rest = part[: cuts[part]], part[cuts[part] :].strip()
        if beginning and sum(other.startswith(beginning) for other in parts) == 1:
            yield beginning, rest


def _last_cut(lm: LanguageModel, part: str) -> int:
    """Where the last token begins that also begins a word; 0 where there is none behind the first.

    Words that are one token are then neither asked for nor asked with in pieces that the model knows from nowhere.
    """
    encoding = lm.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
    begins = {begin for begin, _ in encoding["offset_mapping"]}
    spaces = [match for match in re.finditer(r"(?<=\S)\s", part) if {match.start(), match.end()} & begins]
    return spaces[-1].start() if spaces else 0
